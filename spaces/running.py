"""What a study may spend, what a trial gets, and where results go."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from spaces.base import Config, ConfigError


class BudgetConfig(Config):
    """How much is spent."""

    trials: int = Field(ge=1, description="Trials that are started, stopped and failed ones too.")
    epochs: int = Field(ge=1, description="Epochs of a trial that is not stopped.")
    wall_time_s: float | None = Field(
        None, gt=0.0, description="No trial starts after so many seconds."
    )
    trial_time_s: float | None = Field(
        None,
        gt=0.0,
        description="A trial that takes longer is ended as failed, also one that hangs; executor "
        "local looks only between epochs.",
    )
    retries: int = Field(
        2,
        ge=0,
        description="How often a trial whose process died, or ran out of memory, goes on from its "
        "checkpoint in another one, before it has failed.",
    )


class ResourcesConfig(Config):
    """What one trial gets, and how many run at once."""

    cpus_per_trial: int = Field(1, ge=1, description="Also the number of torch threads.")
    gpus_per_trial: float = Field(0.0, ge=0.0, le=1.0, description="A share of one GPU.")
    concurrent: int | None = Field(
        None, ge=1, description="Trials at once; as many as fit if unset."
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    bf16: bool = Field(True, description="On CUDA, run the natural pass in bfloat16.")
    compile: bool = Field(False, description="Compile the training step with torch.compile.")

    @model_validator(mode="after")
    def _device_fits(self) -> ResourcesConfig:
        if self.device == "cpu" and self.gpus_per_trial > 0.0:
            raise ValueError(
                f"gpus_per_trial ({self.gpus_per_trial}) would reserve a GPU that device: cpu "
                "does not use: set it to 0, or device to cuda"
            )
        if self.device == "cuda" and self.gpus_per_trial == 0.0:
            raise ValueError(
                "device: cuda needs a share of a GPU: set gpus_per_trial, for example to 0.5"
            )
        return self


class TrackingConfig(Config):
    """Where MLflow keeps the results."""

    uri: str = Field("sqlite:///mlflow.db", min_length=1)


class StorageConfig(Config):
    """Where the study keeps its own files."""

    path: str = Field(
        "runs",
        min_length=1,
        description="A folder, on a disk that all nodes share, or an address that pyarrow knows, "
        "such as s3://bucket/prefix.",
    )
    local: str = Field(
        "runs",
        min_length=1,
        description="When path is an address, the folder in which the search itself works.",
    )
    checkpoint_s: float = Field(
        30.0,
        ge=0.0,
        description="Seconds between two checkpoints of a trial, which are written after an epoch: "
        "so much work is lost, at most, with a worker.",
    )

    @field_validator("path")
    @classmethod
    def _keeps_no_secret(cls, path: str) -> str:
        # The message does not repeat the address: it may be read by others.
        if "://" in path and "@" in urlsplit(path).netloc:
            raise ConfigError(
                "an address must not hold a name or a password (what is before @), since it is "
                "written to logs and files: give credentials to the machine, by AWS_ACCESS_KEY_ID, "
                "a profile or a role"
            )
        return path
