"""In which layout each loop of a network reads and writes, before anything has its place."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from torch import nn

from trainers.lowering.fusion import Fused, Fusion
from trainers.lowering.layout import Layout, Shape, layout_for, tap_offsets

TILES = (1, 2, 4, 8, 16, 32)
"""How many neighbouring outputs of a convolution are computed at once (in registers)."""


class Stored(NamedTuple):
    """A value in memory; `copied`: a second time, in the layout that a convolution wants."""

    value: int
    layout: Layout
    copied: bool = False


@dataclass(frozen=True)
class Run:
    """What a convolution computes per channel: a run of outputs as wide as the planes it reads.

    `length` outputs, in tiles of `tile`; each row ends with some that nobody wants. `reach` is how
    far from its start the layout is read, perhaps beyond its end.
    """

    tile: int
    length: int
    reach: int


@dataclass(frozen=True)
class Draft:
    """A loop and what it reads and writes.

    It goes through `shape`: channels, rows, columns. `reads` is what its kernel reads, `operands`
    what its elementwise steps do, by value. `sums_first`: all of its kernel's outputs are in the
    result's place before the first elementwise step (a Linear's), so nothing else may be there.
    """

    fused: Fused
    shape: Shape
    reads: Stored | None
    operands: dict[int, Stored]
    writes: Stored
    run: Run | None = None
    sums_first: bool = False

    @property
    def read(self) -> list[Stored]:
        """All that it reads."""
        return [*self.operands.values(), *(() if self.reads is None else (self.reads,))]


@dataclass
class Drafting:
    """Chooses layouts: each value has the one that the first convolution to read it wants.

    A convolution with other strides reads a copy, and so does one that would read the caller's
    input, or what must not have gaps because it is flattened.
    """

    fusion: Fusion
    drafts: list[Draft] = field(default_factory=list)

    def __post_init__(self) -> None:
        fusion = self.fusion
        self.wanted = self._wanted()
        self.homes = {v: Stored(v, Layout.plain(fusion.channels(v))) for v in fusion.stored}
        fixed = self._plain()
        for (value, _), layout in self.wanted.items():
            if value not in fixed:
                self.homes[value] = Stored(value, layout)
                fixed.add(value)
        for fused in fusion.loops:
            self._draft(fused)

    def _shape(self, fused: Fused) -> Shape:
        """What a loop goes through: its kernel's outputs, or its values before flattening."""
        value = min(*fused.stored, fused.result) if fused.kernel is None else fused.kernel
        return self.fusion.channels(value)

    def _plain(self) -> set[int]:
        """Values that must not have gaps: the input, and what is flattened on the way."""
        plain = {0}
        for fused in self.fusion.loops:
            values, shape = (*fused.stored, fused.result), self._shape(fused)
            plain.update(v for v in values if self.fusion.channels(v) != shape)
        return plain

    def _wanted(self) -> dict[tuple[int, tuple[int, int]], Layout]:
        """The layout for all convolutions of the same strides that read a value."""
        wanted: dict[tuple[int, tuple[int, int]], Layout] = {}
        for fused in self.fusion.loops:
            conv = None if fused.kernel is None else self.fusion.op(fused.kernel)
            if fused.kernel is not None and isinstance(conv, nn.Conv2d):
                (value,) = self.fusion.inputs(fused.kernel)
                layout = layout_for(conv, self.fusion.channels(value))
                key = value, layout.strides
                wanted[key] = layout.joined(wanted.get(key, layout))
        return wanted

    def _draft(self, fused: Fused) -> None:
        reads, run, op, shape = None, None, None, self._shape(fused)
        if fused.kernel is not None:
            (value,), op = self.fusion.inputs(fused.kernel), self.fusion.op(fused.kernel)
            reads = self.homes[value]
            if isinstance(op, nn.Conv2d):
                down, across = op.stride
                reads = self._available(value, self.wanted[value, (down, across)])
                run = _run(op, shape, reads.layout)
        operands = {value: self.homes[value] for value in fused.stored}
        writes = self.homes[fused.result]
        sums_first = isinstance(op, nn.Linear)
        self.drafts.append(Draft(fused, shape, reads, operands, writes, run, sums_first))

    def _available(self, value: int, layout: Layout) -> Stored:
        """A value in a layout: where it is, or copied before the first loop that needs it."""
        home, copy = self.homes[value], Stored(value, layout, copied=True)
        if value != 0 and home.layout == layout:
            return home
        if all(draft.writes != copy for draft in self.drafts):
            fused = Fused(None, (), (value,), value)
            self.drafts.append(Draft(fused, layout.shape, None, {value: home}, copy))
        return copy


def _run(conv: nn.Conv2d, shape: Shape, layout: Layout) -> Run:
    """Tiles that cover a channel of outputs."""
    outputs = (shape[1] - 1) * layout.plane[1] + shape[2]
    tile = next((t for t in TILES if t >= outputs), TILES[-1])
    if outputs > tile and -outputs % (tile // 2) < -outputs % tile:
        tile //= 2  # fewer outputs that nobody wants
    length = -(-outputs // tile) * tile
    last_group = (conv.in_channels - conv.in_channels // conv.groups) * layout.channel
    return Run(tile, length, last_group + int(tap_offsets(conv, layout).max()) + length)
