"""Network families that a trial can build."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from spaces.base import Config, ImportPath, Width


class _Family(Config):
    """What every family shares."""

    initialization: Literal["ibp", "kaiming"] = Field(
        "ibp",
        description="ibp: N(0, sqrt(2 pi) / fan_in) over the weights that are kept, so that "
        "interval bounds neither vanish nor explode (Shi et al. 2021); kaiming: He normal.",
    )


class _Scalable(_Family):
    width_factor: float = Field(
        1.0, gt=0.0, le=64.0, description="Multiplies every hidden width (rounded, at least 1)."
    )


class MlpConfig(_Scalable):
    """Fully connected ReLU network."""

    family: Literal["mlp"] = "mlp"
    widths: tuple[Width, ...] = Field((128, 64), min_length=1, description="Hidden layer widths.")
    batch_norm: bool = False

    @property
    def num_weight_layers(self) -> int:
        """Linear and convolution layers."""
        return len(self.widths) + 1


class CnnConfig(_Scalable):
    """Strided convolutions (4x4, stride 2, padding 1), then fully connected layers."""

    family: Literal["cnn"] = "cnn"
    channels: tuple[Width, ...] = Field(
        (16, 32), min_length=1, description="Output channels of each convolution."
    )
    hidden: tuple[Width, ...] = Field((100,), description="Widths of the fully connected layers.")
    batch_norm: bool = False

    @property
    def num_weight_layers(self) -> int:
        """Linear and convolution layers."""
        return len(self.channels) + len(self.hidden) + 1


class Cnn7Config(_Scalable):
    """The seven-layer network that certified training is usually compared on (Shi et al. 2021)."""

    family: Literal["cnn7"] = "cnn7"
    width: Width = Field(64, description="Channels of the first two convolutions; then twice that.")
    hidden: Width = Field(512, description="Width of the fully connected layer.")
    batch_norm: bool = True

    @property
    def num_weight_layers(self) -> int:
        """Linear and convolution layers."""
        return 7


class ResNetConfig(_Scalable):
    """A small residual network: a stem, then stages of basic blocks, each halving the size."""

    family: Literal["resnet"] = "resnet"
    width: Width = Field(16, description="Channels of the first stage; each stage doubles them.")
    blocks: tuple[Annotated[int, Field(ge=1, le=64)], ...] = Field(
        (1, 1), min_length=1, description="Number of basic blocks in each stage."
    )
    batch_norm: bool = True

    @property
    def num_weight_layers(self) -> int:
        """Linear and convolution layers: two in each block, a shortcut in each stage, both ends."""
        return 2 * sum(self.blocks) + len(self.blocks) + 2


class PythonModelConfig(_Family):
    """The user's own network: `function(input_shape, num_classes, **arguments) -> nn.Module`."""

    family: Literal["python"] = "python"
    python: ImportPath
    arguments: dict[str, Any] = Field(default_factory=dict)
    initialization: Literal["own", "ibp", "kaiming"] = Field(  # type: ignore[assignment]
        "own", description="own: keep the weights as the function returned them."
    )

    @property
    def num_weight_layers(self) -> None:
        """Not known before the function has been called."""
        return None


def name_by_python(key: str) -> BeforeValidator:
    """Let `{python: package.module:function}` stand for `{<key>: python, python: ...}`."""

    def fill(value: Any) -> Any:
        if isinstance(value, dict) and "python" in value and key not in value:
            return {key: "python", **value}
        return value

    return BeforeValidator(fill)


ModelConfig = Annotated[
    Annotated[
        MlpConfig | CnnConfig | Cnn7Config | ResNetConfig | PythonModelConfig,
        Field(discriminator="family"),
    ],
    name_by_python("family"),
]
