"""The compiled network: its logits, its time, the bytes of its object file, and compilers."""

import os
import re
import subprocess

import numpy as np
import pytest
import torch
from c_networks import FAMILIES, family, pruned
from torch import nn

from analysis.errors import TicketError
from analysis.exports import c_build
from analysis.exports.c_build import CompiledModel, compile_c, find_compiler, write_source
from analysis.exports.c_source import c_source
from trainers.bounds.trace import trace


@pytest.fixture(autouse=True)
def compiler():
    try:
        return find_compiler()
    except TicketError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))


class TestCompiledModel:
    @pytest.fixture(scope="class")
    def network(self):
        model, shape, program = family("cnn", 0.3)
        return model, shape, CompiledModel(c_source(program, shape))

    def test_logits_of_a_batch(self, network):
        model, shape, compiled = network
        x = torch.rand(9, *shape)
        with torch.no_grad():
            np.testing.assert_allclose(compiled.logits(x.numpy()), model(x).numpy(), atol=1e-5)

    def test_seconds_are_those_of_one_example(self, network):
        _, shape, compiled = network
        x = np.zeros((4, *shape), np.float32)
        assert 1e-8 < compiled.seconds(x, repeats=50) < 1e-3

    def test_it_says_what_compiled_it(self, network):
        assert re.search(r"\d+\.\d+", network[2].compiler)
        assert network[2].flags == c_build.FASTEST

    def test_inputs_of_another_size_are_refused(self, network):
        with pytest.raises(TicketError, match=r"\(2, 1, 3, 3\) do not fit .* 144 numbers"):
            network[2].logits(np.zeros((2, 1, 3, 3)))

    def test_two_networks_of_one_name_do_not_meet(self):
        sources = []
        for weight in (2.0, 3.0):
            layer = nn.Linear(1, 1, bias=False)
            layer.weight.data.fill_(weight)
            sources.append(c_source(trace(layer), (1,)))
        two, three = (CompiledModel(source, ["-O0"]) for source in sources)
        assert (two.logits(np.ones((1, 1))), three.logits(np.ones((1, 1)))) == (2.0, 3.0)


class TestBytes:
    @pytest.mark.parametrize("name", FAMILIES)
    def test_flash_and_ram_are_those_of_the_object_file(self, name, tmp_path):
        _, shape, program = family(name, 0.3)
        self.check(c_source(program, shape), tmp_path)

    def test_with_constants_and_dense_layers(self, tmp_path):
        torch.manual_seed(0)
        layers = nn.Conv2d(1, 3, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(48, 300)
        model = nn.Sequential(*layers, nn.Linear(300, 4))
        source = c_source(trace(pruned(model, 0.9)), (1, 8, 8))
        assert {loop.weights.counts is None for loop in source.plan.loops if loop.weights} == {True}
        self.check(source, tmp_path)

    def check(self, source, folder):
        """Without optimisation, because that may leave out arrays of a few numbers."""
        file = write_source(source, folder)[0]
        compile_c([file], folder / "model.o", ["-O0", "-c"])
        command = ["nm", "--print-size", "--radix=d", folder / "model.o"]
        symbols = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        sizes = {"r": 0, "b": 0}
        for size, kind in re.findall(r"^\d+ (\d+) (\w) ", symbols, re.MULTILINE):
            sizes[kind] = sizes.get(kind, 0) + int(size)
        assert (source.plan.flash_bytes, source.plan.ram_bytes) == (sizes["r"], sizes["b"])
        assert sizes.get("d", 0) == 0
        header = folder.joinpath("model.h").read_text()
        assert f"#define MODEL_FLASH_BYTES {sizes['r']} " in header
        assert f"#define MODEL_RAM_BYTES {sizes['b']} " in header


class TestCompilers:
    def test_the_source_is_cpp_too(self, compiler, tmp_path):
        _, shape, program = family("resnet", 0.3)
        file = write_source(c_source(program, shape), tmp_path)[0]
        flags = ["-x", "c++", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsyntax-only"]
        try:
            subprocess.run([*compiler, *flags, file], check=True, capture_output=True)
        except subprocess.CalledProcessError as error:
            if b"cc1plus" in error.stderr:
                pytest.skip("this compiler has no C++")
            raise AssertionError(error.stderr.decode()) from error

    def test_without_one_the_error_says_what_to_install(self, monkeypatch):
        monkeypatch.setenv("PATH", "/nowhere")
        monkeypatch.delenv("CC", raising=False)
        with pytest.raises(TicketError, match="no C compiler .cc or gcc or clang.*install gcc"):
            find_compiler()

    def test_cc_chooses_it_with_options(self, monkeypatch, compiler):
        monkeypatch.setenv("CC", f"{compiler[0]} -pipe")
        assert find_compiler() == [compiler[0], "-pipe"]
        monkeypatch.setenv("CC", "no-such-compiler")
        with pytest.raises(TicketError, match="no-such-compiler"):
            find_compiler()

    @pytest.mark.parametrize(
        ("cc", "words"), [("true", "true ends well but writes no library"), ("'gcc", "no command")]
    )
    def test_what_is_no_compiler_is_told(self, monkeypatch, cc, words):
        monkeypatch.setenv("CC", cc)
        with pytest.raises(TicketError, match=words):
            CompiledModel(c_source(trace(nn.Linear(1, 1)), (1,)))

    def test_what_the_compiler_says_is_told(self):
        source = c_source(trace(nn.Linear(1, 1)), (1,))
        with pytest.raises(TicketError, match="no-such-flag"):
            CompiledModel(source, ["--no-such-flag"])
