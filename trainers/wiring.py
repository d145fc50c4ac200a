"""How the units of a network hang together: which rows, columns and vectors belong to one unit.

A unit is an output channel of a convolution or an output neuron of a linear layer. Removing one
means cutting the same place of every weight that makes it, scales it or reads it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from torch import Tensor, nn

from trainers.bounds.program import (
    Add,
    Affine,
    Expression,
    Flatten,
    Program,
    SpatialMean,
    Step,
    evaluate,
)
from trainers.bounds.trace import trace
from trainers.models.weights import prunable_layers


@dataclass(frozen=True)
class UnitGroup:
    """Units (output channels or neurons) that exist or vanish together.

    `name` is the first producer's. Rows of `producers` make the units (several where branches are
    added), columns of `consumers` read them: those of unit j are j * k to (j + 1) * k - 1, with k
    given beside the consumer's name (H * W after a flatten, else 1). `vectors` have one entry per
    unit: biases, weights and biases of batch normalisation. All are names of parameters.
    """

    name: str
    size: int
    producers: tuple[str, ...]
    consumers: tuple[tuple[str, int], ...]
    vectors: tuple[str, ...]


@dataclass(frozen=True)
class Wiring:
    """The groups of units that can be pruned, and what stands behind each weight.

    Never the input's, never the logits', and none that something else depends on (grouped
    convolutions, constants that are not one number): a group that is left out is never wrong.
    `gains` and `relus` are by weight name: the weight of the batch normalisation that scales its
    units, and the number (as in IntervalResult.relu_inputs) of the ReLU that they enter, through
    batch normalisation, affine maps and additions; weights without one are not listed.
    `units` tells the group's name for each value of `program`, None where it cannot be pruned.
    """

    groups: tuple[UnitGroup, ...]
    gains: dict[str, str]
    relus: dict[str, int]
    program: Program = field(repr=False, compare=False)
    units: tuple[str | None, ...] = field(repr=False, compare=False)

    @classmethod
    def of(cls, model: nn.Module) -> Wiring:
        """Trace `model`, a network with logits (B, K), and follow its units from layer to layer.

        Raises UnsupportedLayer for what cannot be traced, ModelError for parametrized weights.
        """
        return _Follower(model).wiring()


Layout = Literal["input", "channels", "last", "features", "flat"]
"""Where the units of a value lie: somewhere; (B, units, H, W); the last of some axes;
(B, units); (B, units * k), each unit's in a row."""


@dataclass(frozen=True)
class _Value:
    """A value's axis of units and its layout.

    `made_by` names the weights whose units these are, with nothing but affine maps and additions
    since; `unscaled` those without batch normalisation or addition since.
    """

    axis: Hashable
    layout: Layout
    made_by: tuple[str, ...] = ()
    unscaled: tuple[str, ...] = ()


class _Axes:
    """Axes of units; those tied together are cut together, and fixed ones never (union-find)."""

    def __init__(self) -> None:
        self.parent: dict[Hashable, Hashable] = {}
        self.size: dict[Hashable, int | None] = {}
        self.fixed: set[Hashable] = set()

    def root(self, axis: Hashable, size: int | None = None) -> Hashable:
        """The axis that stands for all that `axis` is tied to; a new one has `size` units."""
        if axis not in self.parent:
            self.parent[axis], self.size[axis] = axis, size
        while self.parent[axis] != axis:
            axis = self.parent[axis]
        return axis

    def fix(self, *axes: Hashable) -> None:
        """Never cut these, nor what is tied to them, now or later."""
        self.fixed.update(map(self.root, axes))

    def tie(self, a: Hashable, b: Hashable) -> None:
        """Cut both alike; never, when they have different numbers of units."""
        a, b = self.root(a), self.root(b)
        sizes = {self.size[a], self.size[b]} - {None}
        if len(sizes) > 1:
            self.fix(a, b)
        elif a != b:
            self.parent[b] = a
            self.size[a] = next(iter(sizes), None)
            if b in self.fixed:
                self.fixed.add(a)

    def group(self, axis: Hashable) -> Hashable | None:
        """The root of an axis that may be cut, else None."""
        root = self.root(axis)
        return None if root in self.fixed or self.size[root] is None else root


class _Follower:
    """Follows the values of a program, tying the axes of units that each step connects."""

    def __init__(self, model: nn.Module) -> None:
        self.program = trace(model)
        self.names: dict[Tensor, str] = {p: name for name, p in model.named_parameters()}
        self.layers = prunable_layers(model)
        self.axes = _Axes()
        self.values = [_Value("input", "input")]
        self.gains: dict[str, str] = {}
        self.relus: dict[str, int] = {}
        self.num_relus = 0
        self.vectors: dict[str, None] = {}
        self.weights: dict[str, None] = {}
        self.deep = False  # whether values of layout "last" turned out to have inner axes
        self.axes.fix("input")

    def wiring(self) -> Wiring:
        """All steps, then the groups."""
        for step in self.program.steps:
            self.values.append(self._follow(step))
        self.axes.fix(self.values[self.program.output].axis)
        if self.deep:
            self.axes.fix(*(v.axis for v in self.values if v.layout == "last"))
        groups = {root: self._group(root) for root in self._roots()}
        roots = (self.axes.group(value.axis) for value in self.values)
        units = tuple(groups[root].name if root in groups else None for root in roots)
        return Wiring(tuple(groups.values()), self.gains, self.relus, self.program, units)

    def _roots(self) -> Iterator[Hashable]:
        roots = dict.fromkeys(self.axes.group(("rows", name)) for name in self.weights)
        return (root for root in roots if root is not None)

    def _group(self, root: Hashable) -> UnitGroup:
        def named(kind: str, names: dict[str, None]) -> tuple[str, ...]:
            return tuple(name for name in names if self.axes.root((kind, name)) == root)

        size = self.axes.size[root]
        assert size is not None
        producers, readers = named("rows", self.weights), named("columns", self.weights)
        consumers = tuple((name, self.layers[name].weight.shape[1] // size) for name in readers)
        return UnitGroup(producers[0], size, producers, consumers, named("vector", self.vectors))

    def _follow(self, step: Step) -> _Value:
        op: Any = step.op
        inputs = [self.values[i] for i in step.inputs]
        value = inputs[0]
        if isinstance(op, nn.Linear | nn.Conv2d):
            return self._layer(op, value)
        if isinstance(op, Add):
            return self._add(*inputs)
        if isinstance(op, nn.BatchNorm1d | nn.BatchNorm2d):
            return self._batch_norm(op, value)
        if isinstance(op, Affine):
            self._affine(op, value)
            return value
        if isinstance(op, nn.ReLU):
            for name in value.made_by:
                self.relus.setdefault(name, self.num_relus)
            self.num_relus += 1
        elif isinstance(op, nn.AvgPool2d | Flatten | SpatialMean):
            return _Value(value.axis, self._moved(op, value))
        else:
            assert isinstance(op, nn.Identity | nn.Dropout | nn.Dropout2d), op
            return value
        return _Value(value.axis, value.layout)

    def _layer(self, op: Any, value: _Value) -> _Value:
        name = self.names[op.weight]
        self.weights[name] = None
        rows, columns = ("rows", name), ("columns", name)
        size, inputs = op.weight.shape[:2]
        self.axes.root(rows, size)
        self.axes.tie(columns, value.axis)
        if op.bias is not None:
            self._own(op.bias, rows)
        image = isinstance(op, nn.Conv2d)
        expected = ("channels",) if image else ("last", "features", "flat")
        units = self.axes.size[self.axes.root(value.axis)] or inputs
        whole = inputs % units == 0 if value.layout == "flat" else inputs == units
        if value.layout not in (*expected, "input"):
            self.axes.fix(value.axis)
            self.deep |= not image or value.layout == "last"
        if not whole or getattr(op, "groups", 1) != 1:
            self.axes.fix(value.axis, rows)
        flat = value.layout in ("features", "flat")
        layout: Layout = "channels" if image else "features" if flat else "last"
        return _Value(rows, layout, (name,), (name,))

    def _batch_norm(self, op: Any, value: _Value) -> _Value:
        statistics = ("statistics", id(op))
        self.axes.root(statistics, op.num_features)
        self.axes.tie(value.axis, statistics)
        for vector in (op.weight, op.bias):
            if vector is not None:
                self._own(vector, statistics)
        if op.weight in self.names:
            for name in value.unscaled:
                self.gains.setdefault(name, self.names[op.weight])
        return replace(value, unscaled=())

    def _own(self, vector: Tensor, axis: Hashable) -> None:
        """One entry of `vector` per unit; one that is no plain parameter cannot be cut."""
        if vector not in self.names:
            self.axes.fix(axis)
            return
        name = self.names[vector]
        self.vectors[name] = None
        self.axes.root(("vector", name), len(vector))
        self.axes.tie(("vector", name), axis)

    def _affine(self, op: Affine, value: _Value) -> None:
        for constant in (op.scale, op.shift):
            found = evaluate(constant)
            if isinstance(found, Tensor) and found.numel() > 1:
                self.axes.fix(value.axis)
            for tensor in _tensors(constant):
                if tensor in self.names:  # a parameter that is read here must stay as it is
                    name = self.names[tensor]
                    self.axes.fix(*((kind, name) for kind in ("rows", "columns", "vector")))

    def _add(self, a: _Value, b: _Value) -> _Value:
        self.axes.tie(a.axis, b.axis)
        layouts = {a.layout, b.layout} - {"input"}
        if len(layouts) > 1 and layouts != {"last", "features"}:
            self.axes.fix(a.axis, b.axis)
            self.deep |= layouts == {"last", "channels"}
        made_by = tuple(dict.fromkeys((*a.made_by, *b.made_by)))
        layout = b.layout if a.layout in ("input", "last") else a.layout
        return _Value(a.axis, layout, made_by)

    def _moved(self, op: nn.Module, value: _Value) -> Layout:
        """The layout after pooling or flattening, which only "last" and "flat" cannot follow."""
        self.deep |= value.layout == "last"
        if isinstance(op, Flatten):
            return "features" if value.layout == "features" else "flat"
        if value.layout != "channels":
            self.axes.fix(value.axis)
        pooled = isinstance(op, SpatialMean) and not op.keepdim
        return "features" if pooled else "channels"


def _tensors(constant: Any) -> Iterator[Tensor]:
    """The tensors that an expression is computed from, and what it makes of them on the way."""
    if isinstance(constant, Expression):
        for argument in (*constant.arguments, *dict(constant.keywords).values()):
            yield from _tensors(argument)
        constant = constant()
    if isinstance(constant, tuple | list):
        for item in constant:
            yield from _tensors(item)
    elif isinstance(constant, Tensor):
        yield constant
