"""Each loop of a network as one function in C, with its constant arrays."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import nn

from analysis.exports import c_kernels
from analysis.exports.c_pooling import average_pool, mean
from analysis.exports.c_text import (
    Position,
    array,
    bits,
    c_type,
    indented,
    literal,
    loop,
    times,
    total,
)
from trainers.bounds.program import Add, Affine, Flatten, SpatialMean
from trainers.lowering.fusion import Fusion
from trainers.lowering.layout import Layout
from trainers.lowering.memory import Loop
from trainers.lowering.storage import StoredConstant, StoredWeights


@dataclass(frozen=True)
class LoopFunction:
    """A loop's C: `kernels` by name (shared by all loops), arrays, function, and the call of it."""

    kernels: dict[str, str]
    text: str
    call: str


def loop_function(fusion: Fusion, loop: Loop, name: str) -> LoopFunction:
    """Write a loop as `static void <name>(...)`; its arrays are called <name>_..."""
    return _Writer(fusion, loop, name).write()


class _Writer:
    def __init__(self, fusion: Fusion, loop: Loop, name: str) -> None:
        self.fusion, self.loop, self.name = fusion, loop, name
        self.draft = loop.draft
        self.kernel = self.draft.fused.kernel
        self.op = None if self.kernel is None else fusion.op(self.kernel)
        self.kernels: dict[str, str] = {}
        self.arrays: list[str] = []
        self.channel, self.row, self.column = (
            variable if size > 1 else "0"
            for variable, size in zip("cij", self.draft.shape, strict=True)
        )

    def write(self) -> LoopFunction:
        """Everything."""
        body = [*self._before(), *self._channels()]
        parameters = {}
        if self.loop.reads is not None:
            parameters["const float *in"] = self.loop.reads
        for value, place in self.loop.operands.items():
            parameters[f"const float *a{value}"] = place
        arguments = [
            place.memory if place.memory != "workspace" else total(["workspace", place.offset])
            for place in (*parameters.values(), self.loop.writes)
        ]
        signature = [*parameters, "float *out"]
        if self.loop.line is not None:
            signature.append("float *line")
            arguments.append(total(["workspace", self.loop.line]))
        head = [
            f"/* {self._summary()} */",
            f"static void {self.name}({', '.join(signature)})",
            "{",
            *indented(body),
            "}",
        ]
        text = "".join(self.arrays) + "\n".join(head) + "\n"
        return LoopFunction(self.kernels, text, f"{self.name}({', '.join(arguments)});")

    def _summary(self) -> str:
        """What the loop does, in words."""
        fused, weights = self.draft.fused, self.loop.weights
        parts = []
        if self.op is not None and self.kernel is not None:
            parts.append(f"{type(self.op).__name__} {self.fusion.place(self.kernel)}")
            if weights is not None and isinstance(self.op, nn.Linear | nn.Conv2d):
                form = "dense" if weights.counts is None else "sparse rows"
                parts[0] += f" ({weights.values.size} of {self.op.weight.numel()} weights, {form})"
        parts += [type(self.fusion.op(value)).__name__ for value in fused.steps]
        size = " x ".join(str(n) for n in self.draft.shape)
        return f"{', '.join(parts) or 'a copy'}: {size}".replace("*/", "* /")

    def _before(self) -> Iterator[str]:
        """What comes before the loop over channels."""
        weights = self.loop.weights
        if self.loop.clears:
            yield f"memset(out, 0, {self.loop.writes.layout.size} * sizeof(float));"
        if weights is None:
            return
        if weights.values.size:
            self._array("values", weights.values)
            yield f"const float *w = {self.name}_values;"
        if weights.offsets is not None and weights.offsets.size:
            self._array("offsets", weights.offsets)
            yield f"const {c_type(weights.offsets)} *at = {self.name}_offsets;"
        if weights.counts is not None:
            self._array("counts", weights.counts)
        if weights.bias is not None:
            self._array("bias", weights.bias)

    def _array(self, kind: str, values: object) -> None:
        self.arrays.append(array(f"{self.name}_{kind}", values))  # type: ignore[arg-type]

    def _channels(self) -> list[str]:
        channels, rows, columns = self.draft.shape
        phases = self._phases() if columns > 1 else 1
        inner: list[str] = []
        for start in range(phases):
            count = -(-(columns - start) // phases)
            position = Position(self.channel, self.row, self.column, start, phases)
            body = list(self._element(position))
            inner += loop(self.column, count, body) if columns > 1 else body
        inner = list(loop(self.row, rows, inner)) if rows > 1 else inner
        whole = [*self._channel(), *inner]
        return list(loop(self.channel, channels, whole)) if channels > 1 else whole

    def _phases(self) -> int:
        """Columns are gone through in so many turns that each turn keeps to one plane."""
        layouts = [p.layout for p in (*self.loop.operands.values(), self.loop.writes)]
        phases = math.lcm(*(layout.strides[1] for layout in layouts))
        return min(phases, self.draft.shape[2])

    def _channel(self) -> Iterable[str]:
        """What is done once per channel: the sums of a Linear, a convolution's whole run."""
        weights, op = self.loop.weights, self.op
        if weights is None:
            return
        bias = literal(0.0) if weights.bias is None else f"{self.name}_bias[{self.channel}]"
        if isinstance(op, nn.Linear):
            yield from self._linear(op, weights, bias)
        elif isinstance(op, nn.Conv2d):
            yield from self._convolution(op, weights, bias)

    def _linear(self, op: nn.Linear, weights: StoredWeights, bias: str) -> Iterator[str]:
        result = f"const float v{self.kernel} ="
        if not weights.values.size:
            yield f"{result} {bias};"
        elif weights.counts is None:
            self.kernels["dense_dot"] = c_kernels.DENSE_DOT
            yield f"{result} dense_dot(in, w, {op.in_features}, {bias});"
            yield from self._advance(str(op.in_features), offsets=False)
        else:
            assert weights.offsets is not None
            width = bits(weights.offsets)
            self.kernels[f"sparse_dot_u{width}"] = c_kernels.sparse_dot(width)
            yield self._count()
            yield f"{result} sparse_dot_u{width}(in, w, at, n, {bias});"
            yield from self._advance("n")

    def _convolution(self, op: nn.Conv2d, weights: StoredWeights, bias: str) -> Iterator[str]:
        run, reads = self.draft.run, self.loop.reads
        assert run is not None and reads is not None
        if not weights.values.size:
            yield from loop("t", run.length, [f"line[t] = {bias};"])
            return
        assert weights.offsets is not None
        width = bits(weights.offsets)
        kernel = f"taps_{run.tile}_u{width}"
        self.kernels[kernel] = c_kernels.taps(run.tile, width)
        source, count = "in", "n"
        if weights.counts is None:
            count = str(weights.offsets.size)
            source = self._first_of_group(op, reads.layout)
        else:
            yield self._count()
        many = run.length > run.tile
        if many:
            yield f"for (int t = 0; t < {run.length}; t += {run.tile})"
        past = " + t" if many else ""
        call = f"{kernel}({source}{past}, w, at, {count}, {bias}, line{past});"
        yield f"    {call}" if many else call
        yield from self._advance(count, offsets=weights.counts is not None)

    def _first_of_group(self, op: nn.Conv2d, layout: Layout) -> str:
        if op.groups == 1:
            return "in"
        outputs, inputs = op.out_channels // op.groups, op.in_channels // op.groups
        return f"in + {self.channel} / {outputs} * {inputs * layout.channel}"

    def _count(self) -> str:
        return f"const int n = (int){self.name}_counts[{self.channel}];"

    def _advance(self, count: str, offsets: bool = True) -> Iterator[str]:
        """On to the next row of weights."""
        if self.channel != "0":
            yield f"w += {count};"
            if offsets:
                yield f"at += {count};"

    def _element(self, position: Position) -> Iterator[str]:
        """One element: the kernel's value, the elementwise steps, the result."""
        names = {}
        for value, place in self.loop.operands.items():
            names[value] = f"v{value}"
            yield f"const float v{value} = a{value}[{self._index(place.layout, position)}];"
        if self.kernel is not None:
            names[self.kernel] = f"v{self.kernel}"
            yield from self._kernel_value(position)
        for value in self.draft.fused.steps:
            op, inputs = self.fusion.op(value), [names[i] for i in self.fusion.inputs(value)]
            if isinstance(op, Flatten):
                names[value] = inputs[0]
                continue
            names[value] = f"v{value}"
            yield f"const float v{value} = {self._step(op, inputs, value, position)};"
        # A copy has the number of what it copies.
        result = names[self.draft.fused.result]
        yield f"out[{self._index(self.loop.writes.layout, position)}] = {result};"

    def _index(self, layout: Layout, position: Position) -> str:
        same = layout.shape == self.draft.shape
        return position.index(layout if same else Layout.plain(self.draft.shape))

    def _step(self, op: nn.Module, inputs: list[str], value: int, position: Position) -> str:
        if isinstance(op, nn.ReLU):
            return f"{inputs[0]} < 0.0f ? 0.0f : {inputs[0]}"
        if isinstance(op, Add):
            return f"{inputs[0]} + {inputs[1]}"
        assert isinstance(op, Affine), "all kinds of elementwise steps are written"
        scale, shift = self.loop.constants[value]
        text = inputs[0]
        if scale is not None:
            text += f" * {self._constant(scale, f'scale{value}', position)}"
        if shift is not None:
            text += f" + {self._constant(shift, f'shift{value}', position)}"
        return text

    def _constant(self, constant: StoredConstant, kind: str, position: Position) -> str:
        if constant.per == "all":
            number = literal(constant.values[0])
            return f"({number})" if number.startswith("-") else number
        name = f"{self.name}_{kind}"
        if not any(f" {name}[" in text for text in self.arrays):
            self._array(kind, constant.values)
        if constant.per == "channel":
            return f"{name}[{self.channel}]"
        return f"{name}[{position.index(Layout.plain(self.draft.shape))}]"

    def _kernel_value(self, position: Position) -> Iterator[str]:
        """What a convolution or a pooling has made at a position; a Linear's is there already."""
        reads, value = self.loop.reads, f"v{self.kernel}"
        assert reads is not None
        if isinstance(self.op, nn.Conv2d):
            pitch = times(self.row, reads.layout.plane[1])
            yield f"const float {value} = line[{total([pitch, *position.columns])}];"
        elif isinstance(self.op, SpatialMean):
            yield from mean(value, reads.layout, self.channel)
        elif isinstance(self.op, nn.AvgPool2d):
            outputs = self.draft.shape[1:]
            yield from average_pool(value, self.op, reads.layout, position, outputs)
