"""What a person sees of something that Rich prints."""

import io

from rich.console import Console, RenderableType


def printed(what: RenderableType, width: int = 160) -> list[str]:
    """The lines that are not empty, with single spaces."""
    out = io.StringIO()
    Console(file=out, width=width).print(what)
    return [" ".join(line.split()) for line in out.getvalue().splitlines() if line.strip()]
