"""A network as a list of steps that every bound method knows how to follow.

Whatever way a network is written (modules, functions, methods, operators), it becomes the same few
kinds of step. What is not understood is refused here, before any bound is computed.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from trainers.bounds.program import (
    Add,
    Affine,
    Expression,
    Flatten,
    GraftSum,
    Program,
    SpatialMean,
    Step,
)
from trainers.errors import UnsupportedLayer
from trainers.models.grafted import GraftedReLU


def trace(model: nn.Module) -> Program:
    """Follow `model` once with torch.fx and write it as steps, in order of execution.

    A Program is itself. Raises UnsupportedLayer, naming the layer and its place, for whatever has
    no bound.
    """
    if isinstance(model, Program):
        return model
    if any(_behaves_as(model, layer) for layer in _PLAIN_LAYERS):
        model = nn.Sequential(model)
    if model._forward_hooks or model._forward_pre_hooks:
        raise UnsupportedLayer(_hooks_message(model, "the network"))
    try:
        graph = _Tracer().trace(model)
    except UnsupportedLayer:
        raise
    except (fx.proxy.TraceError, TypeError, AttributeError, RuntimeError, ValueError) as error:
        raise UnsupportedLayer(
            f"the forward of {type(model).__name__} cannot be followed: {error}; write it without "
            "control flow that depends on activations"
        ) from error
    return _Reader(model, graph).read()


def _hooks_message(module: nn.Module, place: str) -> str:
    return (
        f"{type(module).__name__} at {place} has forward hooks, which change what it computes "
        "unseen: remove them first (for torch.nn.utils.prune: prune.remove)"
    )


class _Proxy(fx.Proxy):
    """fx records `x += y` as `x + y`; the difference matters when x is used again."""

    def __iadd__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.iadd, (self, other), {})

    def __isub__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.isub, (self, other), {})

    def __imul__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.imul, (self, other), {})

    def __itruediv__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.itruediv, (self, other), {})


class _Tracer(fx.Tracer):
    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        known = any(_behaves_as(m, layer) for layer in _PLAIN_LAYERS)
        return known or super().is_leaf_module(m, module_qualified_name)


_PLAIN_LAYERS = (
    nn.Linear,
    nn.Conv2d,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.AvgPool2d,
    nn.Dropout,
    nn.Dropout2d,
    GraftedReLU,
)
_RELU = {F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_"}
_MEAN = {torch.mean, "mean"}
_FLATTEN = {torch.flatten, "flatten"}
_RESHAPE = {torch.reshape, "reshape", "view"}
_POOL_OPTIONS = (
    "kernel_size",
    "stride",
    "padding",
    "ceil_mode",
    "count_include_pad",
    "divisor_override",
)
_SAME = {"contiguous", "clone", torch.clone}
_ADD = {operator.add, operator.iadd, torch.add, "add", "add_"}
_SUB = {operator.sub, operator.isub, torch.sub, "sub", "sub_"}
_MUL = {operator.mul, operator.imul, torch.mul, "mul", "mul_"}
_DIV = {operator.truediv, operator.itruediv, torch.div, "div", "div_"}
_ARITHMETIC = _ADD | _SUB | _MUL | _DIV
_IN_PLACE = {operator.iadd, operator.isub, operator.imul, operator.itruediv, F.relu_, torch.relu_}


class _Reader:
    """Reads a traced graph node by node, keeping track of which value each node stands for."""

    def __init__(self, model: nn.Module, graph: fx.Graph) -> None:
        self.model, self.nodes = model, list(graph.nodes)
        self.steps: list[Step] = []
        self.value: dict[fx.Node, int] = {}
        self.constant: dict[fx.Node, Any] = {}
        self.storage = [0]  # per value: values with the same number share their memory

    def read(self) -> Program:
        """All steps up to the output."""
        for node in self.nodes:
            if node.op == "placeholder":
                self._read_input(node)
            elif node.op == "output":
                return self._finish(node)
            elif node.op == "get_attr":
                self.constant[node] = Expression(_attribute, (self.model, str(node.target)))
            elif self._is_shape(node):
                pass
            elif not any(i in self.value for i in node.all_input_nodes):
                self.constant[node] = self._constant_expression(node)
            elif node.op == "call_module":
                self._read_module(node)
            else:
                self._read_function(node)
        raise AssertionError("a traced graph has an output node")

    def _read_input(self, node: fx.Node) -> None:
        if self.value:
            if node.args:
                self.constant[node] = node.args[0]
                return
            raise UnsupportedLayer(
                f"{type(self.model).__name__}.forward takes more than one input: bounds are for "
                "networks of one tensor x"
            )
        self.value[node] = 0

    def _finish(self, node: fx.Node) -> Program:
        output = node.args[0]
        if not isinstance(output, fx.Node) or output not in self.value:
            raise UnsupportedLayer(
                f"{type(self.model).__name__}.forward must return one tensor that depends on x, "
                f"the logits; it returns {output}"
            )
        return Program(self.steps, self.value[output])

    def _read_module(self, node: fx.Node) -> None:
        place = str(node.target)
        module = self.model.get_submodule(place)
        if module._forward_hooks or module._forward_pre_hooks:
            raise UnsupportedLayer(_hooks_message(module, place))
        inputs = (*node.args, *node.kwargs.values())
        if len(inputs) != 1 or not isinstance(inputs[0], fx.Node):
            raise self._unsupported(node, type(module).__name__)
        if _behaves_as(module, GraftedReLU):
            self._append_graft(node, module, self.value[inputs[0]])
            return
        op = self._module_op(node, module)
        in_place = bool(getattr(module, "inplace", False))
        self._append(node, op, (inputs[0],), in_place)

    def _module_op(self, node: fx.Node, module: nn.Module) -> nn.Module | None:
        """The step that stands for a layer; None when it changes nothing."""
        kind = type(module).__name__
        if _behaves_as(module, nn.Identity):
            return None
        if isinstance(module, nn.Conv2d) and module.padding_mode != "zeros":
            raise self._unsupported(node, f"{kind} with padding_mode={module.padding_mode!r}")
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.running_mean is None:
            raise self._unsupported(node, f"{kind} with track_running_stats=False")
        if any(_behaves_as(module, layer) for layer in _PLAIN_LAYERS):
            return module
        if _behaves_as(module, nn.ReLU):
            return nn.ReLU()
        if _behaves_as(module, nn.Flatten):
            if (module.start_dim, module.end_dim) == (1, -1):  # type: ignore[comparison-overlap]
                return Flatten()
            raise self._unsupported(node, f"{kind}({module.start_dim}, {module.end_dim})")
        if _behaves_as(module, nn.AdaptiveAvgPool2d):
            if module.output_size in (1, (1, 1)):
                return SpatialMean(keepdim=True)
            raise self._unsupported(node, f"{kind}({module.output_size})")
        raise self._unsupported(node, kind)

    def _read_function(self, node: fx.Node) -> None:
        target = node.target
        in_place = target in _IN_PLACE or bool(node.kwargs.get("inplace"))
        in_place |= isinstance(target, str) and target.endswith("_")
        in_place |= target is F.relu and any(node.args[1:])
        if target in _ARITHMETIC:
            self._read_arithmetic(node, in_place)
            return
        data, *rest = node.args if node.args else (node.kwargs.get("input"),)
        if not isinstance(data, fx.Node) or data not in self.value:
            raise self._unsupported(node, _name(target))
        self._append(node, self._function_op(node, rest), (data,), in_place)

    def _function_op(self, node: fx.Node, rest: list[Any]) -> nn.Module | None:
        target, keywords = node.target, {k: v for k, v in node.kwargs.items() if k != "input"}
        if target in _RELU:
            return nn.ReLU()
        if target in _SAME and not rest and not keywords:
            return nn.Identity()
        if target is F.dropout and not self._dropout_drops(rest, keywords):
            return nn.Identity()
        if target in _FLATTEN:
            dims = dict(zip(("start_dim", "end_dim"), rest, strict=False)) | keywords
            if dims in ({"start_dim": 1}, {"start_dim": 1, "end_dim": -1}):
                return Flatten()
        if target in _RESHAPE and not keywords:
            return self._reshape_op(node, rest)
        if target in _MEAN:
            options = dict(zip(("dim", "keepdim"), rest, strict=False)) | keywords
            dims = options.pop("dim", None)
            if isinstance(dims, tuple | list) and sorted(d % 4 for d in dims) == [2, 3]:
                if options.keys() <= {"keepdim"}:
                    return SpatialMean(keepdim=bool(options.get("keepdim", False)))
        given: dict[str, Any] = dict(zip(_POOL_OPTIONS, rest, strict=False)) | keywords
        if target is F.avg_pool2d and not any(isinstance(v, fx.Node) for v in given.values()):
            return nn.AvgPool2d(**given)
        if target is F.adaptive_avg_pool2d and [*rest, *keywords.values()] in ([1], [(1, 1)]):
            return SpatialMean(keepdim=True)
        raise self._unsupported(node, _name(target))

    def _dropout_drops(self, rest: list[Any], keywords: dict[str, Any]) -> bool:
        given = dict(zip(("p", "training"), rest, strict=False)) | keywords
        return bool(given.get("training", True)) and given.get("p", 0.5) > 0.0

    def _reshape_op(self, node: fx.Node, rest: list[Any]) -> nn.Module:
        """A view that flattens each example; its first size is the batch's, or -1."""
        shape = rest[0] if len(rest) == 1 and isinstance(rest[0], tuple | list) else rest
        if len(shape) == 2:
            batch, features = shape
            if isinstance(batch, fx.Node):
                batch = self.constant.get(batch)
            if batch is _BATCH_SIZE and features == -1:
                return Flatten()
            if (batch is _BATCH_SIZE or batch == -1) and isinstance(features, int) and features > 0:
                return Flatten(features)
        raise self._unsupported(node, _name(node.target), "flatten each example, x.flatten(1)")

    def _is_shape(self, node: fx.Node) -> bool:
        """Recognise x.size(0), x.shape[0], and x.shape and x.size() on the way to them."""
        data, *rest = [*node.args, None]
        if not isinstance(data, fx.Node):
            return False
        of_value = data in self.value
        if of_value and (node.target, rest) in (("size", [None]), (getattr, ["shape", None])):
            self.constant[node] = _SHAPE
        elif of_value and (node.target, rest) == ("size", [0, None]):
            self.constant[node] = _BATCH_SIZE
        elif node.target is operator.getitem and self.constant.get(data) is _SHAPE and rest[0] == 0:
            self.constant[node] = _BATCH_SIZE
        return node in self.constant

    def _read_arithmetic(self, node: fx.Node, in_place: bool) -> None:
        operands: tuple[Any, ...] = (*node.args, *node.kwargs.values())
        if node.kwargs.keys() - {"other"} or len(operands) != 2:
            raise self._unsupported(node, f"{_name(node.target)} with options")
        a, b = operands
        a_varies = isinstance(a, fx.Node) and a in self.value
        b_varies = isinstance(b, fx.Node) and b in self.value
        if a_varies and b_varies:
            if node.target not in _ADD:
                raise self._unsupported(node, f"{_name(node.target)} of two activations")
            self._append(node, Add(), (a, b), in_place)
        elif a_varies:
            self._append(node, _affine(node.target, self._known(b)), (a,), in_place)
        elif node.target in _DIV or in_place:
            raise self._unsupported(node, f"{_name(node.target)} of a constant by an activation")
        else:
            self._append(node, _affine(node.target, self._known(a), swapped=True), (b,), False)

    def _known(self, operand: Any) -> Any:
        known = self.constant[operand] if isinstance(operand, fx.Node) else operand
        if not isinstance(known, int | float | Expression):
            raise UnsupportedLayer(f"arithmetic with {known} is not supported: use a buffer")
        return known

    def _constant_expression(self, node: fx.Node) -> Expression:
        if node.target in _IN_PLACE or str(node.target).endswith("_"):
            raise self._unsupported(node, f"in-place {_name(node.target)} on a constant")
        arguments = tuple(fx.map_arg(node.args, lambda n: self.constant[n]))
        keywords = tuple(fx.map_arg(dict(node.kwargs), lambda n: self.constant[n]).items())
        if callable(node.target):
            return Expression(node.target, arguments, keywords)
        if node.op == "call_method":
            return Expression(_call_method, (node.target, *arguments), keywords)
        raise self._unsupported(node, f"{node.target} applied to a constant")

    def _append(
        self, node: fx.Node, op: nn.Module | None, inputs: tuple[fx.Node, ...], in_place: bool
    ) -> None:
        indices = tuple(self.value[i] for i in inputs)
        if op is None:
            self.value[node] = indices[0]
            return
        views = isinstance(op, Flatten | nn.Identity | nn.Dropout | nn.Dropout2d)
        shares = in_place or (views and node.target not in ("clone", torch.clone))
        made = self._add_step(op, indices, node, shares)
        if in_place:
            self._overwrite(node, indices[0], made)
        self.value[node] = made

    def _append_graft(self, node: fx.Node, module: Any, x: int) -> None:
        """relu((1 - m) x) + (m a) x + m b: exact on lines and on ReLUs, for every kind of bound."""
        gate = self._add_step(Affine(Expression(module.keep, ()), 0.0), (x,), node)
        relu = self._add_step(nn.ReLU(), (gate,), node)
        slope, bias = Expression(module.line_slope, ()), Expression(module.line_bias, ())
        line = self._add_step(Affine(slope, bias), (x,), node)
        self.value[node] = self._add_step(GraftSum(), (relu, line), node)

    def _add_step(
        self, op: nn.Module, inputs: tuple[int, ...], node: fx.Node, shares: bool = False
    ) -> int:
        """The number of the value that is made; it may share the memory of the first input."""
        self.steps.append(Step(op, inputs, self._place(node)))
        made = len(self.steps)
        self.storage.append(self.storage[inputs[0]] if shares else made)
        return made

    def _overwrite(self, node: fx.Node, old: int, new: int) -> None:
        """After an in-place operation every name of the old value means the new one."""
        later = set(self.nodes[self.nodes.index(node) + 1 :])
        for name, index in self.value.items():
            if index == old:
                self.value[name] = new
            elif self.storage[index] == self.storage[old] and later & name.users.keys():
                raise self._unsupported(
                    node,
                    f"in-place {_name(node.target)} on memory that {name} shares",
                    "write it without in-place operations",
                )

    def _place(self, node: fx.Node) -> str:
        if node.op == "call_module":
            return str(node.target)
        stack = node.meta.get("nn_module_stack")
        return next(reversed(stack)) if stack else f"{type(self.model).__name__}.forward"

    def _unsupported(self, node: fx.Node, what: str, instead: str = "") -> UnsupportedLayer:
        rule = instead or (
            "use Linear, Conv2d, BatchNorm, ReLU, AvgPool2d, Flatten, residual addition and "
            "normalisation by constants"
        )
        return UnsupportedLayer(f"{what} at {self._place(node)} has no bound: {rule}")


_SHAPE, _BATCH_SIZE = object(), object()


def _attribute(model: nn.Module, path: str) -> Any:
    return operator.attrgetter(path)(model)


def _call_method(name: str, data: Any, *arguments: Any, **keywords: Any) -> Any:
    return getattr(data, name)(*arguments, **keywords)


def _behaves_as(module: nn.Module, layer: type[nn.Module]) -> bool:
    """Whether `module` is a `layer` whose subclasses, if any, left the computation alone."""
    if not isinstance(module, layer):
        return False
    classes = type(module).__mro__
    added = {name for cls in classes[: classes.index(layer)] for name in vars(cls)}
    return not any(
        hasattr(layer, name) and (name == "__call__" or not name.startswith("__"))
        for name in added - {"extra_repr"}
    )


def _affine(target: Any, constant: Any, swapped: bool = False) -> Affine:
    """As scale and shift: x (target) constant or, `swapped`, constant (target) x."""
    if target in _ADD:
        return Affine(1.0, constant)
    if target in _MUL:
        return Affine(constant, 0.0)
    if target in _DIV:
        return Affine(Expression(operator.truediv, (1.0, constant)), 0.0)
    if swapped:
        return Affine(-1.0, constant)
    return Affine(1.0, Expression(operator.neg, (constant,)))


def _name(target: Any) -> str:
    return target if isinstance(target, str) else getattr(target, "__name__", str(target))
