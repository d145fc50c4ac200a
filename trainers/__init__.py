"""How one trial is built, trained, measured and verified (torch; no Ray, Optuna or MLflow)."""

from trainers.evaluate import Evaluation, evaluate
from trainers.loop import Training, build, train

__all__ = ["Evaluation", "Training", "build", "evaluate", "train"]
