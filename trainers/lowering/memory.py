"""Where everything of a network lies when it runs on one example, without torch and without malloc.

Activations share one block of memory, the workspace: each has its place for as long as something
reads it. Weights and constants are read-only. All of it is known before anything runs, so that
bytes of flash and RAM are exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from trainers.bounds.program import Affine, Program
from trainers.lowering.fusion import Fusion
from trainers.lowering.layout import Layout
from trainers.lowering.loops import Draft, Drafting, Stored
from trainers.lowering.storage import (
    StoredConstant,
    StoredWeights,
    stored_constants,
    stored_weights,
)

FLOAT_BYTES = 4


@dataclass(frozen=True)
class Place:
    """Where an activation lies: in the caller's input or logits, or in the workspace."""

    layout: Layout
    memory: Literal["x", "logits", "workspace"]
    offset: int = 0


@dataclass(frozen=True)
class Loop:
    """One loop with the places of all that it reads and writes, and what it reads from flash.

    `line` is where in the workspace a convolution puts the run of one channel. `clears`: the gaps
    in the result's place are not zero yet. `constants` are scale and shift, by elementwise step.
    """

    draft: Draft
    reads: Place | None
    operands: dict[int, Place]
    writes: Place
    line: int | None
    clears: bool
    weights: StoredWeights | None
    constants: dict[int, tuple[StoredConstant | None, StoredConstant | None]]


@dataclass(frozen=True)
class MemoryPlan:
    """A network as loops over one workspace (in floats), and what it takes of flash and RAM.

    `flash_bytes` are weights, offsets, counts, biases and constants as they are stored; code is
    not counted, it depends on the compiler. `ram_bytes` is the workspace: the input and the logits
    are the caller's.
    """

    fusion: Fusion
    loops: tuple[Loop, ...]
    num_inputs: int
    num_outputs: int
    workspace: int

    @property
    def flash_bytes(self) -> int:
        """Read-only data."""
        weights = sum(loop.weights.num_bytes for loop in self.loops if loop.weights is not None)
        constants = (c for loop in self.loops for pair in loop.constants.values() for c in pair)
        return weights + sum(c.num_bytes for c in constants if c is not None)

    @property
    def ram_bytes(self) -> int:
        """The workspace."""
        return FLOAT_BYTES * self.workspace


def memory_plan(program: Program, input_shape: Sequence[int]) -> MemoryPlan:
    """Plan the loops and the memory of a network for one example of `input_shape`.

    The same network and shape give the same plan. Raises UnsupportedLayer, naming the step, for
    what cannot be written as a loop, ModelError for weights that are not finite.
    """
    fusion = Fusion(program, input_shape)
    drafts = Drafting(fusion).drafts
    blocks = _blocks(drafts)
    lines = {
        i: _Block(draft.run.length, i, i) for i, draft in enumerate(drafts) if draft.run is not None
    }
    distinct = {id(block): block for block in (*blocks.values(), *lines.values())}
    _place(distinct.values())
    loops = [
        _loop(fusion, draft, blocks, lines[i].offset if i in lines else None)
        for i, draft in enumerate(drafts)
    ]
    ends = [block.offset + block.size for block in distinct.values()]
    for loop in loops:
        if loop.draft.run is not None and loop.reads is not None:
            ends.append(loop.reads.offset + loop.draft.run.reach)
    num_outputs = math.prod(fusion.shapes[program.output])
    # C has no arrays of size zero: a network without hidden layers has one float.
    return MemoryPlan(fusion, tuple(loops), math.prod(input_shape), num_outputs, max(1, *ends, 1))


@dataclass
class _Block:
    """Part of the workspace, from the loop that writes it to the last one that reads it."""

    size: int
    first: int
    last: int
    offset: int = 0


def _blocks(drafts: Sequence[Draft]) -> dict[Stored, _Block]:
    """The block of each value in memory, but for the caller's input and the logits.

    A loop that goes through a value element by element and is the last to read it writes its
    result over it, unless it needs the place for what comes before.
    """
    last = {stored: i for i, draft in enumerate(drafts) for stored in draft.read}
    blocks: dict[Stored, _Block] = {}
    for i, draft in enumerate(drafts[:-1]):
        over = (
            blocks[old]
            for old in draft.operands.values()
            if old in blocks and old.layout == draft.writes.layout
            if last[old] == i and old != draft.reads and not draft.sums_first
        )
        block = next(over, None) or _Block(draft.writes.layout.size, i, i)
        block.last = last[draft.writes]
        blocks[draft.writes] = block
    return blocks


def _place(blocks: Iterable[_Block]) -> None:
    """First fit, the largest first: no two that are in use at once overlap."""
    placed: list[_Block] = []
    for block in sorted(blocks, key=lambda b: (-b.size, b.first)):
        beside = [b for b in placed if b.first <= block.last and block.first <= b.last]
        for other in sorted(beside, key=lambda b: b.offset):
            if other.offset >= block.offset + block.size:
                break
            block.offset = max(block.offset, other.offset + other.size)
        placed.append(block)


def _loop(fusion: Fusion, draft: Draft, blocks: dict[Stored, _Block], line: int | None) -> Loop:
    def place(stored: Stored) -> Place:
        if stored in blocks:
            return Place(stored.layout, "workspace", blocks[stored].offset)
        return Place(stored.layout, "x" if stored.value == 0 else "logits")

    kernel, reads, weights = draft.fused.kernel, None, None
    if kernel is not None and draft.reads is not None:
        reads, op = place(draft.reads), fusion.op(kernel)
        if isinstance(op, nn.Linear | nn.Conv2d):
            weights = stored_weights(op, reads.layout, fusion.place(kernel))
    constants = {
        value: stored_constants(op, fusion.shapes[value], draft.shape, fusion.place(value))
        for value in draft.fused.steps
        if isinstance(op := fusion.op(value), Affine)
    }
    operands = {value: place(stored) for value, stored in draft.operands.items()}
    writes = place(draft.writes)
    clears = writes.layout.has_gaps and writes not in operands.values()
    return Loop(draft, reads, operands, writes, line, clears, weights, constants)
