"""int8.onnx: made the same each time, read as it runs, and never proved where it can be fooled."""

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

from analysis.exports.int8 import int8_bytes
from trainers.bounds import IntervalPass
from trainers.bounds.arithmetic import allow_for_float32
from trainers.bounds.rounded import Rounded
from trainers.lowering import simplify
from trainers.lowering.onnx_reader import read_onnx
from trainers.lowering.onnx_writer import onnx_model
from trainers.lowering.runtime import OnnxNetwork
from trainers.verify import Artifact, verify_artifact

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "trainers"))
from networks import FAMILIES, family

N = 16


def in_8_bits(name: str, reach: float = 1.0) -> tuple[bytes, Tensor]:
    """A network of a family, quantised on examples in [0, reach], and others in [0, 1]."""
    network, x = family(name, num_examples=300)
    compact = onnx_model(simplify(network.float(), x.shape[1:]), x.shape[1:]).SerializeToString()
    return int8_bytes(compact, reach * x[N:].float()), x[:N].float()


def artifact(content: bytes) -> Artifact:
    runtime = OnnxNetwork(content)

    def run(x: Tensor) -> Tensor:
        return torch.cat([torch.from_numpy(runtime.logits(part.numpy())) for part in x.split(1)])

    return Artifact(read_onnx(content), run)


def as_the_file_is_written(content: bytes, x: Tensor) -> Tensor:
    """Node by node, in float32 between roundings, without the runtime's integer kernels."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(content, options)
    logits = [session.run(None, {"x": part.numpy()})[0] for part in x.split(1)]
    return torch.from_numpy(np.concatenate(logits))


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_the_same_network_and_examples_give_the_same_bytes(name: str) -> None:
    assert in_8_bits(name)[0] == in_8_bits(name)[0]


def test_networks_with_convolutions_have_fixed_steps_and_others_their_own() -> None:
    for name, dynamic in (("mlp", True), ("cnn", False)):
        program = read_onnx(in_8_bits(name)[0])
        scales = [op.scale for op in program.ops if isinstance(op, Rounded)]
        assert scales and all((scale is None) == dynamic for scale in scales)
    assert not artifact(in_8_bits("cnn")[0]).is_dynamic and artifact(in_8_bits("mlp")[0]).is_dynamic


def test_logits_are_not_rounded_and_weights_take_seven_bits() -> None:
    model = onnx.load_model_from_string(in_8_bits("cnn")[0])
    assert model.graph.node[-1].op_type == "Gemm"
    weights = [
        onnx.numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) > 1
    ]
    assert len(weights) == 4
    assert max(abs(int(w.min())) for w in weights) <= 64 >= max(int(w.max()) for w in weights)
    assert not model.metadata_props


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_read_is_what_runs(name: str) -> None:
    content, x = in_8_bits(name)
    program, run = read_onnx(content), artifact(content).run
    error = allow_for_float32(program, x.double(), x.double())
    lower, upper = IntervalPass(program).bounds(x.double(), x.double())
    logits_BK = run(x)
    for found_BK in (logits_BK, as_the_file_is_written(content, x)):
        assert ((found_BK >= lower - error) & (found_BK <= upper + error)).all()
    if name != "residual":  # where means of four integers are often in the middle between two
        assert (logits_BK - program(x.double())).abs().median() <= 1e-5


@pytest.mark.parametrize("name", ["mlp", "cnn", "shortcut", "relu last"])
def test_fixed_steps_give_the_same_logits_in_every_batch(name: str) -> None:
    content, x = in_8_bits(name)
    difference = abs(OnnxNetwork(content).logits(x.numpy()) - artifact(content).run(x).numpy())
    assert artifact(content).is_dynamic or difference.max() <= 1e-6


@pytest.mark.parametrize(
    ("name", "reach"),
    [
        ("mlp", 1.0),
        ("cnn", 1.0),
        ("cnn", 0.6),
        ("residual", 1.0),
        ("shortcut", 0.7),
        ("grafted", 1.0),
    ],
)
def test_no_point_of_the_ball_of_a_verified_example_is_misclassified(
    name: str, reach: float
) -> None:
    content, x = in_8_bits(name, reach)
    network, radius = artifact(content), 0.02
    y_B = network.run(x).argmax(1)
    y_B[0] = (y_B[0] + 1) % 4
    found = verify_artifact(network, x, y_B, radius, timeout_s=0.3)
    assert found.verdicts[0] == "misclassified" and "verified" in found.verdicts
    draw = torch.Generator().manual_seed(0)
    lower, upper = (x - radius).clamp(0.0, 1.0), (x + radius).clamp(0.0, 1.0)
    for _ in range(12):
        share = torch.rand(x.shape, generator=draw)
        for point in (lower + share * (upper - lower), torch.where(share < 0.5, lower, upper)):
            wrong = network.run(point).argmax(1) != y_B
            assert not any(
                found.verdicts[i] == "verified" for i in wrong.nonzero().flatten().tolist()
            )
    for i, point in found.counterexamples.items():
        assert (point - x[i]).abs().max() <= radius and ((point >= 0) & (point <= 1)).all()
        assert int(network.run(point[None]).argmax()) != int(y_B[i])


def test_values_beyond_the_range_of_calibration_are_cut_off_and_bounds_know_it() -> None:
    content, x = in_8_bits("cnn", reach=0.3)
    program = read_onnx(content)
    values = program.values(x.double())
    cut = [
        (values[step.inputs[0]] > step.op.scale * step.op.largest).any()
        for step in program.steps
        if isinstance(step.op, Rounded)
    ]
    assert any(cut)
    network = artifact(content)
    found = verify_artifact(network, x, network.run(x).argmax(1), 0.01, timeout_s=0.3)
    assert "verified" in found.verdicts
