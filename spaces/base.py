"""The base of every configuration class, and the errors that a study's author sees."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field


class Config(BaseModel):
    """A frozen piece of configuration: unknown keys are errors, NaN and infinity are refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True
    )


class ConfigError(ValueError):
    """Something that a person wrote is wrong: the message says where, what, the rule, what to do.

    `problems` has one line per problem; `source` is the file that they were found in, if any.
    """

    def __init__(self, *problems: str, source: str | None = None) -> None:
        self.problems = problems
        self.source = source
        lines = "\n".join(problems)
        super().__init__(lines if source is None else f"{source}:\n{lines}")

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild_error, (self.problems, self.source))


def _rebuild_error(problems: tuple[str, ...], source: str | None) -> ConfigError:
    return ConfigError(*problems, source=source)


Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
"""A share in [0, 1]."""
OpenFraction = Annotated[float, Field(gt=0.0, lt=1.0)]
"""A share in (0, 1)."""
Density = Annotated[float, Field(gt=0.0, le=1.0)]
"""Share of weights kept, in (0, 1]; sparsity is 1 - density."""
Width = Annotated[int, Field(ge=1, le=65536)]
"""Number of units or channels of a layer."""
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
"""What every random number generator in use accepts."""
ImportPath = Annotated[
    str,
    Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$", description="`package.module:function`."),
]
"""`package.module:function`."""
