"""Generated C: by hand, then every kind of layer, family and random networks against PyTorch."""

import ctypes
import os
import subprocess
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from c_networks import CONVOLUTIONS, FAMILIES, GRAPHS, POOLINGS, family, pruned, random_network
from torch import nn

from analysis.errors import TicketError
from analysis.exports.c_build import compile_c, find_compiler, write_source
from analysis.exports.c_source import CSource, c_source
from trainers.bounds.trace import trace
from trainers.errors import ModelError, UnsupportedLayer

STRICT = ("-O1", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror")
SANITIZED = ("-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


@pytest.fixture(scope="module", autouse=True)
def compiler():
    try:
        find_compiler()
    except TicketError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))


@dataclass
class Case:
    source: CSource
    x: torch.Tensor
    expected: np.ndarray


def case(name, model, shape, program=None) -> Case:
    model.eval()
    x = torch.rand(3, *shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(x).flatten(1).numpy()
    return Case(c_source(program or trace(model), shape, name), x, expected)


def all_cases():
    for name, (shape, options) in CONVOLUTIONS.items():
        for density in (0.1, 0.5):
            layers = nn.Sequential(nn.Conv2d(*options), nn.ReLU(), nn.Flatten())
            yield case(f"conv_{name}_{int(100 * density)}", pruned(layers, density), shape)
    for name, (shape, layer) in POOLINGS.items():
        before = nn.Sequential(nn.Conv2d(shape[0], shape[0], 3, 1, 1), nn.ReLU())
        yield case(name, nn.Sequential(before, layer, nn.Flatten()), shape)
    for name, (shape, make) in GRAPHS.items():
        yield case(name, pruned(make(), 0.7), shape)
    for name in FAMILIES:
        model, shape, program = family(name, 0.4)
        yield case(name, model, shape, program)
    for seed in range(16):
        yield case(f"random_{seed}", *random_network(seed))


@pytest.fixture(scope="module")
def cases() -> dict[str, Case]:
    torch.manual_seed(0)
    return {case.source.name: case for case in all_cases()}


@pytest.fixture(scope="module")
def library(cases, tmp_path_factory) -> ctypes.CDLL:
    """All networks in one library, compiled without a warning."""
    return load([case.source for case in cases.values()], tmp_path_factory.mktemp("c"))


def load(sources, folder) -> ctypes.CDLL:
    files = [write_source(source, folder)[0] for source in sources]
    compile_c(files, folder / "library.so", [*STRICT, "-shared", "-fPIC"])
    return ctypes.CDLL(str(folder / "library.so"))


def run(library, source: CSource, x_BCHW) -> np.ndarray:
    """Logits (B, K)."""
    rows = np.ascontiguousarray(x_BCHW, np.float32)
    logits = np.full((len(rows), source.plan.num_outputs), np.nan, np.float32)
    for x, out in zip(rows, logits, strict=True):
        library[f"{source.name}_logits"](pointer(x), pointer(out))
    return logits


def pointer(array):
    return array.ctypes.data_as(ctypes.POINTER(ctypes.c_float))


class TestByHand:
    @pytest.fixture(scope="class")
    def by_hand(self, tmp_path_factory):
        """Two small networks; each is given the weights that the tests speak of."""
        rows = nn.Linear(3, 4)
        rows.weight.data = torch.tensor([[0, 2, 0], [0, 0, 0], [1, 0, -1], [0.5, 0.25, 0.125]])
        rows.bias.data = torch.tensor([1.0, -7.0, 0.0, 0.0])
        conv = nn.Conv2d(1, 1, 2, padding=1)
        conv.weight.data, conv.bias.data = torch.tensor([[[[1.0, 0], [0, 2]]]]), torch.ones(1)
        models = {"rows": rows, "conv": nn.Sequential(conv, nn.Flatten())}
        shapes = {"rows": (3,), "conv": (1, 2, 2)}
        sources = {n: c_source(trace(m), shapes[n], n) for n, m in models.items()}
        return sources, load(sources.values(), tmp_path_factory.mktemp("hand"))

    def test_a_row_without_weights_is_its_bias(self, by_hand):
        sources, library = by_hand
        logits = run(library, sources["rows"], [[1.0, 2.0, 4.0]])
        assert logits.tolist() == [[5.0, -7.0, -3.0, 1.5]]
        assert library.rows_predict(pointer(np.float32([1.0, 2.0, 4.0]))) == 0
        assert library.rows_predict(pointer(np.float32([-2.0, -9.0, -4.0]))) == 2

    def test_a_convolution_reads_zeros_around_the_image(self, by_hand):
        sources, library = by_hand
        logits = run(library, sources["conv"], [[[[1.0, 2.0], [3.0, 4.0]]]])
        assert logits.tolist() == [[3, 5, 1, 7, 10, 3, 1, 4, 5]]

    def test_every_float_is_written_exactly(self):
        layer = nn.Linear(3, 2)
        layer.weight.data = torch.tensor([[0.1, -1e-40, 3.0], [0.0, 3.4e38, -0.0]])
        text = c_source(trace(layer), (3,)).source
        assert "{\n    0x1.99999ap-4f, -0x1.16c2p-133f, 0x1.8p+1f, 0x1.ff933cp+127f};" in text


@pytest.mark.slow
class TestAgainstPyTorch:
    def test_every_network_has_the_same_logits(self, cases, library):
        wrong = {}
        for name, case in cases.items():
            found = run(library, case.source, case.x.numpy())
            difference = float(np.abs(found - case.expected).max())
            if not difference <= 1e-5 * max(1.0, float(np.abs(case.expected).max())):
                wrong[name] = difference
        assert not wrong

    def test_predict_is_the_class_with_the_greatest_logit(self, cases, library):
        for name in FAMILIES:
            case = cases[name]
            for x, logits in zip(case.x.numpy(), case.expected, strict=True):
                assert library[f"{name}_predict"](pointer(x)) == logits.argmax()

    def test_memory_is_only_used_as_declared(self, cases, tmp_path):
        """Inputs, logits and workspaces of exactly their sizes; the workspace holds anything."""
        skipped = {*POOLINGS, *FAMILIES}  # sanitizers make compilers slow
        cases = {n: c for n, c in cases.items() if n not in skipped and not n.endswith("_50")}
        checks = "".join(
            f"    check({n}_logits, {n}_logits_in, {n.upper()}_INPUTS, {n.upper()}_LOGITS, "
            f"{n.upper()}_WORKSPACE);\n"
            for n in cases
        )
        files = [write_source(case.source, tmp_path)[0] for case in cases.values()]
        includes = "".join(f'#include "{name}.h"\n' for name in cases)
        main = tmp_path / "main.c"
        main.write_text(includes + _CHECK + f"int main(void)\n{{\n{checks}    return 0;\n}}\n")
        compile_c([main, *files], tmp_path / "main", SANITIZED)
        subprocess.run([tmp_path / "main"], check=True, timeout=60)


_CHECK = """\
#include <stdlib.h>

static void check(void (*logits)(const float *, float *),
    void (*logits_in)(float *, const float *, float *), int inputs, int outputs, int floats)
{
    float *x = malloc(sizeof(float) * (size_t)inputs);
    float *first = malloc(sizeof(float) * (size_t)outputs);
    float *second = malloc(sizeof(float) * (size_t)outputs);
    float *workspace = malloc(sizeof(float) * (size_t)floats);
    for (int i = 0; i < inputs; ++i)
        x[i] = 0.5f;
    for (int i = 0; i < floats; ++i)
        workspace[i] = 1e30f;
    logits(x, first);
    logits_in(workspace, x, second);
    for (int k = 0; k < outputs; ++k)
        if (!(first[k] == second[k]))
            abort();
    free(x), free(first), free(second), free(workspace);
}

"""


class TestText:
    def test_the_same_network_gives_the_same_bytes(self):
        first, second = (c_source(family("resnet", 0.3)[2], (1, 10, 10)) for _ in range(2))
        assert (first.source, first.header) == (second.source, second.header)

    def test_lines_are_readable_and_plain_ascii(self, cases):
        for case in cases.values():
            text = case.source.source + case.source.header
            assert text.isascii() and max(map(len, text.splitlines())) <= 140

    def test_the_header_says_what_goes_in_and_out(self):
        header = c_source(family("cnn", 0.5)[2], (1, 12, 12), "digits").header
        assert "Input: 144 floats, 1x12x12 (channels, rows, columns" in header
        assert "#define DIGITS_INPUTS 144\n#define DIGITS_LOGITS 5\n" in header
        assert "void digits_logits(const float *x, float *logits);" in header

    @pytest.mark.parametrize("name", ["", "2nd", "Model", "a-b", "a b"])
    def test_a_name_must_be_an_identifier(self, name):
        with pytest.raises(TicketError, match="begin with a letter"):
            c_source(trace(nn.Linear(1, 1)), (1,), name)

    def test_other_layers_are_refused_by_name_and_place(self):
        model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).eval()
        with pytest.raises(UnsupportedLayer, match="BatchNorm1d at 1 cannot .*simplify"):
            c_source(trace(model), (4,))
        with pytest.raises(UnsupportedLayer, match=r"\(3, 4\).*flatten"):
            c_source(trace(nn.Linear(4, 2)), (3, 4))

    def test_weights_that_are_not_finite_are_refused(self):
        layer = nn.Linear(2, 2)
        layer.bias.data[1] = torch.inf
        with pytest.raises(ModelError, match="inf in float32"):
            c_source(trace(layer), (2,))
