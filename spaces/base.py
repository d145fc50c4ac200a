"""The base of every configuration class, and the errors that a study's author sees."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Config(BaseModel):
    """A frozen piece of configuration: unknown keys are errors, NaN and infinity are refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True
    )


class ConfigError(ValueError):
    """Something that a person wrote is wrong: the message says where, what, the rule, what to do."""


Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
"""A share in [0, 1]."""
OpenFraction = Annotated[float, Field(gt=0.0, lt=1.0)]
"""A share in (0, 1)."""
Density = Annotated[float, Field(gt=0.0, le=1.0)]
"""Share of weights kept, in (0, 1]; sparsity is 1 - density."""
Width = Annotated[int, Field(ge=1, le=65536)]
"""Number of units or channels of a layer."""
ImportPath = Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
"""`package.module:function`."""
