"""Data sets that a trial can be trained on: named ones and the user's own."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from spaces.base import Config, ImportPath, OpenFraction, Seed
from spaces.model import name_by_python


class AugmentConfig(Config):
    """Random changes to training images, drawn anew for every batch."""

    shift: int = Field(0, ge=0, le=64, description="Largest shift in pixels, each way.")
    flip: bool = Field(False, description="Mirror half of the images left to right.")


class _DataBase(Config):
    """What every data set shares. Splits are stratified by class and depend on split_seed only."""

    split_seed: Seed = 0
    validation_fraction: OpenFraction = 0.2
    test_fraction: OpenFraction = Field(
        0.2, description="Not used by data sets that come with a test part of their own."
    )
    augment: AugmentConfig = AugmentConfig()

    @model_validator(mode="after")
    def _leaves_training_examples(self) -> _DataBase:
        if self.validation_fraction + self.test_fraction >= 0.95:
            raise ValueError(
                f"validation_fraction ({self.validation_fraction}) and test_fraction "
                f"({self.test_fraction}) leave less than 5 % for training: lower one of them"
            )
        return self


class PackagedDataConfig(_DataBase):
    """Real data that an installed package ships: nothing is downloaded."""

    name: Literal["digits", "breast_cancer", "mnist5k"]


class TorchvisionDataConfig(_DataBase):
    """A torchvision data set, read from `folder`; its own test part is the test split."""

    name: Literal["mnist", "fashion_mnist", "cifar10", "cifar100", "svhn"]
    folder: str = Field(min_length=1)
    download: bool = Field(False, description="Fetch missing files over the network.")


class NpzDataConfig(_DataBase):
    """A NumPy archive with arrays x (N x ...) and y (N,)."""

    name: Literal["npz"]
    path: str = Field(min_length=1)
    value_range: tuple[float, float] | None = Field(
        None, description="Smallest and largest possible value of x; scaled to [0, 1]."
    )


class CsvDataConfig(_DataBase):
    """A table with a header row; one column is the label, the others are numbers."""

    name: Literal["csv"]
    path: str = Field(min_length=1)
    label_column: str = Field(min_length=1)


class ImageFolderDataConfig(_DataBase):
    """`path/<class>/<image>`; images are resized to `size` x `size`."""

    name: Literal["image_folder"]
    path: str = Field(min_length=1)
    size: int = Field(32, ge=4, le=1024)
    channels: Literal[1, 3] = 3


class PythonDataConfig(_DataBase):
    """`function() -> (x, y)`, arrays as in an npz archive."""

    name: Literal["python"] = "python"
    python: ImportPath
    value_range: tuple[float, float] | None = None


DataConfig = Annotated[
    Annotated[
        PackagedDataConfig
        | TorchvisionDataConfig
        | NpzDataConfig
        | CsvDataConfig
        | ImageFolderDataConfig
        | PythonDataConfig,
        Field(discriminator="name"),
    ],
    name_by_python("name"),
]
