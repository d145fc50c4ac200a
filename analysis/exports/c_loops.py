"""Each loop of a network as one function in C, with its constant arrays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from analysis.exports import c_kernels
from analysis.exports.c_pooling import average_pool, mean
from analysis.exports.c_steps import Steps
from analysis.exports.c_text import Position, bits, c_type, indented, literal, loop, times, total
from trainers.bounds.program import Flatten, SpatialMean
from trainers.lowering.fusion import Fusion
from trainers.lowering.layout import Layout
from trainers.lowering.memory import Loop, Place
from trainers.lowering.storage import StoredWeights


@dataclass(frozen=True)
class LoopFunction:
    """A loop's C: `kernels` by name (shared by all loops), arrays and function, the call of it."""

    kernels: dict[str, str]
    text: str
    call: str


def loop_function(fusion: Fusion, loop: Loop, name: str) -> LoopFunction:
    """Write a loop as `static void <name>(...)`; its arrays are called <name>_..."""
    return _Writer(fusion, loop, name).write()


class _Writer:
    def __init__(self, fusion: Fusion, planned: Loop, name: str) -> None:
        self.fusion, self.loop, self.name = fusion, planned, name
        self.steps = Steps(fusion, planned, name)
        self.kernels: dict[str, str] = {}
        self.shape, self.value = planned.draft.shape, planned.draft.fused.kernel
        self.op = None if self.value is None else fusion.op(self.value)
        # The index of an axis of size 1 is 0, and there is no loop over it.
        self.channel, self.row, self.column = (
            variable if size > 1 else "0" for variable, size in zip("cij", self.shape, strict=True)
        )

    def write(self) -> LoopFunction:
        """Everything."""
        parameters: dict[str, Place] = {}
        weights = self.loop.weights
        if self.loop.reads is not None and (weights is None or weights.values.size):
            parameters["const float *in"] = self.loop.reads
        for value, place in self.loop.operands.items():
            parameters[f"const float *a{value}"] = place
        parameters["float *out"] = self.loop.writes
        arguments = [
            total(["workspace", place.offset]) if place.memory == "workspace" else place.memory
            for place in parameters.values()
        ]
        signature = list(parameters)
        if self.loop.line is not None:
            signature.append("float *line")
            arguments.append(total(["workspace", self.loop.line]))
        lines = [
            f"/* {self._summary()} */",
            f"static void {self.name}({', '.join(signature)})",
            "{",
            *indented([*self._before(), *self._body()]),
            "}\n",
        ]
        text = "".join(self.steps.arrays.values()) + "\n".join(lines)
        return LoopFunction(self.kernels, text, f"{self.name}({', '.join(arguments)});")

    def _summary(self) -> str:
        """What the loop does, in words."""
        parts, weights = [], self.loop.weights
        if self.value is not None:
            place = self.fusion.place(self.value).replace("*/", "* /")
            parts.append(f"{type(self.op).__name__} {place}")
        if weights is not None and isinstance(self.op, nn.Linear | nn.Conv2d):
            form = "dense" if weights.counts is None else "sparse rows"
            parts[0] += f" ({weights.values.size} of {self.op.weight.numel()} weights, {form})"
        parts += [type(self.fusion.op(value)).__name__ for value in self.steps.steps]
        size = " x ".join(str(n) for n in self.shape)
        return f"{', '.join(parts) or 'a copy'}: {size}"

    def _before(self) -> Iterator[str]:
        """What comes before the loop over channels; the arrays of the layer."""
        weights = self.loop.weights
        if self.loop.clears:
            yield from loop("k", self.loop.writes.layout.size, ["out[k] = 0.0f;"])
        if weights is None:
            return
        if weights.values.size:
            yield f"const float *w = {self.steps.add_array('values', weights.values)};"
        if weights.offsets is not None:
            name = self.steps.add_array("offsets", weights.offsets)
            yield f"const {c_type(weights.offsets)} *at = {name};"
        for kind, values in (("counts", weights.counts), ("bias", weights.bias)):
            if values is not None:
                self.steps.add_array(kind, values)

    def _body(self) -> list[str]:
        weights, bias = self.loop.weights, literal(0.0)
        if weights is not None and weights.bias is not None:
            bias = f"{self.name}_bias[{self.channel}]"
        if isinstance(self.op, nn.Linear):
            assert weights is not None
            # Sums first: a loop of steps alone can be done in vectors, without branches.
            sums = self._over_channels(list(self._linear(self.op, weights, bias)))
            return sums + (self._over_channels(self._elements()) if self.steps.steps else [])
        if isinstance(self.op, nn.Conv2d):
            assert weights is not None
            run = list(self._convolution(self.op, weights, bias))
            return self._over_channels([*run, *self._elements(done=self.steps.are_alike)])
        return self._over_channels(self._elements())

    def _over_channels(self, body: list[str]) -> list[str]:
        channels = self.shape[0]
        return list(loop(self.channel, channels, body)) if channels > 1 else body

    def _elements(self, done: bool = False) -> list[str]:
        """The loops over rows and columns; `done`: the steps have been done already."""
        _, rows, columns = self.shape
        phases = self.steps.phases
        inner: list[str] = []
        for start in range(phases):
            position = Position(self.channel, self.row, self.column, start, phases)
            body = list(self.steps.element(self._kernel_value(position), position, done))
            count = -(-(columns - start) // phases)
            inner += loop(self.column, count, body) if columns > 1 else body
        return list(loop(self.row, rows, inner)) if rows > 1 else inner

    def _linear(self, op: nn.Linear, weights: StoredWeights, bias: str) -> Iterator[str]:
        """The sum of one row."""
        result = f"out[{self.channel}] ="
        if not weights.values.size:
            yield f"{result} {bias};"
        elif weights.offsets is None:
            self.kernels["dense_dot"] = c_kernels.dense_dot()
            yield f"{result} dense_dot(in, w, {op.in_features}, {bias});"
            yield from self._advance(str(op.in_features), offsets=False)
        else:
            width = bits(weights.offsets)
            self.kernels[f"sparse_dot_u{width}"] = c_kernels.sparse_dot(width)
            yield self._count()
            yield f"{result} sparse_dot_u{width}(in, w, at, n, {bias});"
            yield from self._advance("n")

    def _convolution(self, op: nn.Conv2d, weights: StoredWeights, bias: str) -> Iterator[str]:
        """The run of one channel, with the steps that are the same for all of it."""
        run = self.loop.draft.run
        assert run is not None and self.value is not None
        if weights.values.size:
            yield from self._taps(op, weights, bias)
        else:
            yield from loop("t", run.length, [f"line[t] = {bias};"])
        steps = (self.fusion.op(value) for value in self.steps.steps)
        if self.steps.are_alike and any(not isinstance(step, Flatten) for step in steps):
            yield from loop("t", run.length, self.steps.in_line(self.value, self.channel))

    def _taps(self, op: nn.Conv2d, weights: StoredWeights, bias: str) -> Iterator[str]:
        """The sums of one channel, tile by tile."""
        run, reads = self.loop.draft.run, self.loop.reads
        assert run is not None and reads is not None and weights.offsets is not None
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
        past = " + t" if many else ""
        call = f"{kernel}({source}{past}, w, at, {count}, {bias}, line{past});"
        if many:
            yield f"for (int t = 0; t < {run.length}; t += {run.tile})"
        yield f"    {call}" if many else call
        yield from self._advance(count, offsets=weights.counts is not None)

    def _first_of_group(self, op: nn.Conv2d, layout: Layout) -> str:
        if op.groups == 1:
            return "in"
        outputs, inputs = op.out_channels // op.groups, op.in_channels // op.groups
        group = self.channel if outputs == 1 else f"{self.channel} / {outputs}"
        return f"in + {group} * {inputs * layout.channel}"

    def _count(self) -> str:
        return f"const int n = (int){self.name}_counts[{self.channel}];"

    def _advance(self, count: str, offsets: bool = True) -> Iterator[str]:
        """On to the next row of weights."""
        if self.channel != "0":
            yield f"w += {count};"
            if offsets:
                yield f"at += {count};"

    def _kernel_value(self, position: Position) -> Iterator[str]:
        """What the kernel makes, or has made, at a position."""
        reads, value = self.loop.reads, f"v{self.value}"
        if reads is None:
            return
        if isinstance(self.op, nn.Linear):
            yield f"const float {value} = out[{self.channel}];"
        elif isinstance(self.op, nn.Conv2d):
            place = total([times(self.row, reads.layout.plane[1]), *position.columns])
            yield f"const float {value} = line[{place}];"
        elif isinstance(self.op, SpatialMean):
            yield from mean(value, reads.layout, self.channel)
        elif isinstance(self.op, nn.AvgPool2d):
            yield from average_pool(value, self.op, reads.layout, position, self.shape[1:])
