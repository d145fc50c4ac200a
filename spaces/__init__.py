"""What may be tried, and what one trial is."""

from spaces.base import ConfigError
from spaces.constraint import Constraint
from spaces.space import SearchSpace, decode, suggest
from spaces.study import StudyConfig
from spaces.trial import TrialConfig

__all__ = [
    "ConfigError",
    "Constraint",
    "SearchSpace",
    "StudyConfig",
    "TrialConfig",
    "decode",
    "suggest",
]
