"""Where a network can be cut in two: in front of a part that sees one value alone."""

from __future__ import annotations

from torch import nn

from trainers.bounds.program import Program


def cuts(program: Program) -> dict[int, int]:
    """For each possible number of ReLU layers behind a cut, the first value to cut at.

    All that is computed behind the cut depends on that value alone: within a residual block there
    is no such value. Value 0, the input, is one.
    """
    found: dict[int, int] = {}
    needed, earliest, num_relus = {program.output}, program.output, 0
    for value in range(program.output, -1, -1):
        if value not in needed:
            continue
        if earliest >= value:
            found[num_relus] = value
        if value > 0:
            step = program.steps[value - 1]
            needed.update(step.inputs)
            earliest = min(earliest, *step.inputs)
            num_relus += isinstance(step.op, nn.ReLU)
    return found
