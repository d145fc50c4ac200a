"""Networks read back from their files: the same outputs, and nothing that is not understood."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from networks import FAMILIES, family
from onnx import TensorProto, helper, numpy_helper

from trainers.bounds.rounded import Rounded
from trainers.errors import UnsupportedLayer
from trainers.lowering import simplify
from trainers.lowering.onnx_reader import read_onnx
from trainers.lowering.onnx_writer import onnx_model
from trainers.lowering.runtime import OnnxNetwork
from trainers.verify import verify

Array = np.ndarray[Any, np.dtype[Any]]


def model(nodes: list[onnx.NodeProto], sizes: list[int], /, **constants: Array) -> onnx.ModelProto:
    """A network of one input `x` and one output `logits`."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *sizes])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", None])],
        initializer=[numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def floats(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def agree(content: bytes, x: torch.Tensor, tolerance: float = 1e-5) -> None:
    found = read_onnx(content)(x.double())
    expected = OnnxNetwork(content).logits(x.float().numpy())
    assert np.abs(found.numpy() - expected).max() <= tolerance * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_read_as_the_runtime_computes_it(name: str) -> None:
    network, x = family(name)
    content = onnx_model(simplify(network.float(), x.shape[1:]), x.shape[1:]).SerializeToString()
    agree(content, x)
    y_B = torch.zeros(len(x), dtype=torch.int64)
    assert verify(read_onnx(content), x.double(), y_B, 0.01, methods=["ibp"]).num_examples == len(x)


def test_weights_are_those_of_the_file_bit_for_bit() -> None:
    weight, bias = floats(3, 4), floats(3)
    node = helper.make_node("Gemm", ["x", "w", "b"], ["logits"], transB=1)
    program = read_onnx(model([node], [4], w=weight, b=bias).SerializeToString())
    (layer,) = program.ops
    assert layer.weight.dtype == torch.float64
    assert np.array_equal(layer.weight.float().numpy(), weight)
    assert np.array_equal(layer.bias.float().numpy(), bias)


def node(kind: str, *inputs: str, made: str = "logits", **options: Any) -> onnx.NodeProto:
    return helper.make_node(kind, list(inputs), [made], **options)


NORM = {n: floats(3, seed=i) for i, n in enumerate(("s", "b", "m"))}
READ: dict[str, tuple[list[onnx.NodeProto], list[int], dict[str, Array]]] = {
    "matmul and bias": (
        [node("MatMul", "x", "w", made="a"), node("Add", "a", "b")],
        [4],
        {"w": floats(4, 3), "b": floats(3)},
    ),
    "arithmetic with constants": (
        [
            node("Sub", "x", "c", made="a"), node("Div", "a", "d", made="e"),
            node("Mul", "c", "e", made="f"), node("Sub", "c", "f", made="g"), node("Add", "g", "d"),
        ],
        [4],
        {"c": floats(4), "d": floats(4, seed=1)},
    ),
    "batch normalisation": (
        [node("BatchNormalization", "x", "s", "b", "m", "v", made="a"), node("Flatten", "a")],
        [3, 2, 2],
        {**NORM, "v": np.abs(floats(3, seed=5))},
    ),
    "pooling": (
        [
            node("AveragePool", "x", made="a", kernel_shape=[2, 2], pads=[1, 1, 1, 1]),
            node("GlobalAveragePool", "a", made="b"), node("Reshape", "b", "shape"),
        ],
        [3, 4, 4],
        {"shape": np.array([0, -1])},
    ),
    "a mean, and a reshape to a known size": (
        [
            node("ReduceMean", "x", "axes", made="a", keepdims=1),
            node("Reshape", "a", "shape", made="b", allowzero=1), node("Relu", "b"),
        ],
        [3, 4, 4],
        {"axes": np.array([-1, -2]), "shape": np.array([-1, 3])},
    ),
    "a convolution with groups, dilation and uneven padding": (
        [
            node("Conv", "x", "w", made="a", group=2, dilations=[2, 1], pads=[1, 0, 1, 1],
                 kernel_shape=[2, 2]),
            node("Identity", "a", made="b"), node("Flatten", "b"),
        ],
        [4, 5, 5],
        {"w": floats(6, 2, 2, 2)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_nodes_are_read_as_the_runtime_computes_them(name: str) -> None:
    nodes, shape, constants = READ[name]
    content = model(nodes, shape, **constants).SerializeToString()
    agree(content, torch.rand(5, *shape, generator=torch.Generator().manual_seed(0)))


def test_a_bias_that_is_added_later_belongs_to_its_layer() -> None:
    nodes, shape, constants = READ["matmul and bias"]
    program = read_onnx(model(nodes, shape, **constants).SerializeToString())
    assert len(program.ops) == 1  # so that margins are bounded by differences of weights


# Networks in 8 bits -------------------------------------------------------------------------------


def int8(**changes: Array) -> onnx.ModelProto:
    """x to uint8, one layer of int8 weights with its ReLU in the next rounding, and another."""
    constants: dict[str, Array] = {
        "xs": np.float32(0.004), "xz": np.uint8(3),
        "w": np.array([[64, -3], [5, 7]], np.int8), "ws": np.array([0.01, 0.02], np.float32),
        "b": np.array([100, -2000], np.int32), "bs": np.array([4e-5, 8e-5], np.float32),
        "as": np.float32(0.003), "az": np.uint8(0),
        "v": np.array([[1, 2], [-30, 4]], np.int8), "vs": np.float32(0.1),
        "c": np.array([1, 2], np.int32), "cs": np.float32(3e-4),
        **changes,
    }  # fmt: skip
    nodes = [
        node("QuantizeLinear", "x", "xs", "xz", made="xq"),
        node("DequantizeLinear", "xq", "xs", "xz", made="xd"),
        node("DequantizeLinear", "w", "ws", made="wd", axis=0),
        node("DequantizeLinear", "b", "bs", made="bd", axis=0),
        node("Gemm", "xd", "wd", "bd", made="a", transB=1),
        node("QuantizeLinear", "a", "as", "az", made="aq"),
        node("DequantizeLinear", "aq", "as", "az", made="ad"),
        node("DequantizeLinear", "v", "vs", made="vd"),
        node("DequantizeLinear", "c", "cs", made="cd"),
        node("Gemm", "ad", "vd", "cd"),
    ]
    return model(nodes, [2], **constants)


def test_integers_are_read_exactly_and_places_that_round_are_steps() -> None:
    program = read_onnx(int8().SerializeToString())
    kinds = ["Rounded", "Linear", "ReLU", "Rounded", "Linear"]
    assert [type(op).__name__ for op in program.ops] == kinds
    first, layer, _, second, last = program.ops
    scale = np.float64(np.float32(0.01))
    assert layer.weight[0].tolist() == [64 * scale, -3 * scale]
    assert layer.bias[0].item() == 100 * np.float64(np.float32(4e-5))
    assert np.array_equal(last.weight, np.float64(np.float32(0.1)) * np.array([[1, -30], [2, 4]]))
    assert isinstance(first, Rounded) and isinstance(second, Rounded)
    assert (first.scale, first.least, first.largest) == (np.float32(0.004), -3, 252)
    assert (second.least, second.largest, second.is_positive) == (0, 255, True)
    agree(
        int8().SerializeToString(), torch.rand(200, 2, generator=torch.Generator().manual_seed(0))
    )


def test_a_rounding_to_what_is_rounded_already_is_no_step() -> None:
    nodes = [
        node("QuantizeLinear", "x", "s", "z", made="q"),
        node("DequantizeLinear", "q", "s", "z", made="d"), node("Flatten", "d", made="f"),
        node("QuantizeLinear", "f", "s", "z", made="p"), node("DequantizeLinear", "p", "s", "z"),
    ]  # fmt: skip
    content = model(nodes, [1, 2, 2], s=np.float32(0.1), z=np.uint8(0)).SerializeToString()
    assert [type(op).__name__ for op in read_onnx(content).ops] == ["Rounded", "Flatten"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"w": np.array([[65, 0], [0, 0]], np.int8)}, "8-bit weights up to 65 .*reduce_range"),
        ({"w": np.array([[1, 0], [0, 0]], np.uint8)}, "weights of type uint8"),
        ({"az": np.int8(0)}, "activations of type int8"),
        ({"xs": np.array([0.1, 0.1], np.float32)}, "a scale of .*one positive float32"),
        ({"xs": np.float32(0.0)}, "a scale of .*one positive float32"),
        ({"bs": np.array([4e-5, 9e-5], np.float32)}, "a bias of type int32 whose scale is not"),
        ({"bs": np.float32([4e-5 * (1 + 9e-7), 8e-5])}, "a bias of type int32 whose scale is not"),
        ({"c": np.array([2**31 - 10, 0], np.int32)}, "sums up to 2147"),
    ],
)
def test_integers_that_some_processor_adds_otherwise_are_refused(changes, words: str) -> None:
    with pytest.raises(UnsupportedLayer, match=words):
        read_onnx(int8(**changes).SerializeToString())


def changed(change: Callable[[onnx.GraphProto], Any]) -> bytes:
    found = int8()
    change(found.graph)
    return found.SerializeToString()


def float_bias(graph: onnx.GraphProto) -> None:
    graph.node[4].input[2] = "ws"


def float_weights(graph: onnx.GraphProto) -> None:
    graph.initializer.append(numpy_helper.from_array(floats(2, 2), "f"))
    graph.node[4].input[1] = "f"


def other_scale(graph: onnx.GraphProto) -> None:
    graph.node[1].input[1] = "as"


def not_rounded(graph: onnx.GraphProto) -> None:
    graph.node[4].input[0] = "x"


def elsewhere(graph: onnx.GraphProto) -> None:
    graph.initializer[2].data_location = TensorProto.EXTERNAL
    graph.initializer[2].ClearField("raw_data")
    graph.initializer[2].external_data.add(key="location", value="other.bin")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (float_bias, "Gemm a: a bias that is not in integers"),
        (float_weights, "weights and activations one is in 8 bits and the other is not"),
        (not_rounded, "weights and activations one is in 8 bits and the other is not"),
        (other_scale, "DequantizeLinear xd: a scale other than that of the rounding"),
        (elsewhere, "lies in another file|is not a valid ONNX file"),
    ],
)
def test_what_a_runtime_may_compute_otherwise_is_refused(change, words: str) -> None:
    with pytest.raises(UnsupportedLayer, match=words):
        read_onnx(changed(change))


# What is not understood ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([node("Sigmoid", "x")], "Sigmoid logits: this operator .*known are Add"),
        ([node("Gemm", "x", "w", alpha=2.0)], r"Gemm logits: its option alpha=2.0 .*must be 1.0"),
        ([node("Gemm", "x", "x")], "Gemm logits: input x cannot be verified; a constant"),
        ([node("Mul", "x", "x")], "input x cannot be verified; a constant was expected"),
        ([node("Flatten", "x", axis=0)], "its option axis=0"),
        ([node("Reshape", "x", "shape")], r"a shape of \[2, 2\]"),
        ([node("Add", "x", "w")], r"a constant of shape \(4, 4\)"),
        ([node("Gemm", "x", "d")], "weights of type float64"),
        (
            [node("Relu", "x", made="a"), node("Relu", "a", made="b")],
            "logits' is not an output of any node",
        ),
    ],
)
def test_the_node_that_is_not_understood_is_named(nodes, words: str) -> None:
    found = model(nodes, [4], w=floats(4, 4), shape=np.array([2, 2]), d=np.zeros((4, 4)))
    with pytest.raises(UnsupportedLayer, match=words):
        read_onnx(found.SerializeToString())


def rounded(
    source: str, made: str, scale: str = "s", zero_point: str = "z"
) -> list[onnx.NodeProto]:
    return [
        node("QuantizeLinear", source, scale, zero_point, made=f"{made}_q"),
        node("DequantizeLinear", f"{made}_q", scale, zero_point, made=made),
    ]


ROUNDED = {
    "s": np.float32(0.1), "z": np.uint8(7), "s2": np.float32(0.07), "z2": np.uint8(0),
    "one": np.float32(1.0), "zero": np.float32(0.0), "shape": np.array([0, -1]),
}  # fmt: skip


@pytest.mark.parametrize(
    "between",
    [
        [node("Identity", "d", made="r")],
        [node("Mul", "d", "one", made="r")],
        [node("Sub", "d", "zero", made="e"), node("Div", "e", "one", made="r")],
        [node("Reshape", "d", "shape", made="r")],
    ],
)
def test_a_rounding_of_a_rounding_is_refused_since_runtimes_make_one_of_them(between) -> None:
    nodes = [*rounded("x", "d"), *between, *rounded("r", "logits", "s2", "z2")]
    with pytest.raises(UnsupportedLayer, match="rounding of what another has just rounded"):
        read_onnx(model(nodes, [3], **ROUNDED).SerializeToString())
    nodes = [*rounded("x", "d"), node("Relu", "d", made="r"), *rounded("r", "logits", "s2", "z2")]
    draw = torch.Generator().manual_seed(0)
    x = 12.0 * torch.rand(100, 3, generator=draw) - 6.0
    agree(model(nodes, [3], **ROUNDED).SerializeToString(), x)


def test_weights_with_a_scale_for_each_input_are_refused() -> None:
    nodes = [
        *rounded("x", "d"), node("DequantizeLinear", "w", "ws", made="wd", axis=1),
        node("Conv", "d", "wd", made="c"), *rounded("c", "e"), node("Flatten", "e"),
    ]  # fmt: skip
    constants = {**ROUNDED, "w": np.ones((2, 2, 1, 1), np.int8), "ws": np.float32([0.01, 0.02])}
    with pytest.raises(UnsupportedLayer, match="weights with a scale for each input"):
        read_onnx(model(nodes, [2, 2, 2], **constants).SerializeToString())


def test_averages_in_8_bits_count_no_more_than_the_padding() -> None:
    def content(**options: int) -> bytes:
        pool = node("AveragePool", "d", made="a", kernel_shape=[2, 2], strides=[2, 2], **options)
        nodes = [*rounded("x", "d"), pool, *rounded("a", "e"), node("Flatten", "e")]
        return model(nodes, [1, 5, 5], **ROUNDED).SerializeToString()

    read_onnx(content(ceil_mode=1)), read_onnx(content(count_include_pad=1))
    with pytest.raises(UnsupportedLayer, match="ceil_mode with count_include_pad"):
        read_onnx(content(ceil_mode=1, count_include_pad=1))


def test_a_bias_that_only_another_name_of_the_layer_gets_is_a_step_of_its_own() -> None:
    nodes = [
        node("MatMul", "x", "w", made="m"), node("Identity", "m", made="i"),
        node("Identity", "m", made="j"), node("Add", "i", "b", made="a"), node("Add", "a", "j"),
    ]  # fmt: skip
    content = model(nodes, [4], w=floats(4, 3), b=floats(3)).SerializeToString()
    agree(content, torch.rand(5, 4, generator=torch.Generator().manual_seed(0)))


def test_a_constant_of_as_many_numbers_along_another_axis_is_no_bias() -> None:
    nodes = [node("MatMul", "x", "w", made="m"), node("Add", "m", "b", made="a")]
    nodes += [node("Flatten", "a")]
    content = model(nodes, [3, 4], w=floats(4, 3), b=floats(3, 1)).SerializeToString()
    agree(content, torch.rand(5, 3, 4, generator=torch.Generator().manual_seed(0)))


def test_an_input_with_a_value_in_the_file_is_refused() -> None:
    content = model([node("Gemm", "x", "x", transB=1)], [4], x=floats(1, 4)).SerializeToString()
    with pytest.raises(UnsupportedLayer, match="input x has a value in the file"):
        read_onnx(content)


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(number: float) -> None:
    weight = np.full((4, 4), number, np.float32)
    with pytest.raises(UnsupportedLayer, match=f"w holds {number}: weights must be finite"):
        read_onnx(model([node("Gemm", "x", "w")], [4], w=weight).SerializeToString())


def test_other_files_are_refused() -> None:
    for content in (b"no network", b"", int8().SerializeToString()[:-20]):
        with pytest.raises(UnsupportedLayer, match="not a valid ONNX file|the file has 0 inputs"):
            read_onnx(content)
