"""Compiling generated C, so that what ships can be compared with the network and timed."""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from analysis.errors import TicketError
from analysis.exports.c_source import CSource
from trainers.lowering.runtime import Call

STANDARD = ("-std=c99",)
FASTEST = ("-O3", "-march=native")
"""For the processor that it is compiled on."""
_HARNESS = """\
#include "{name}.h"

void {name}_batch(const float *x, float *logits, int examples, int repeats)
{{
    for (int r = 0; r < repeats; ++r)
        for (int i = 0; i < examples; ++i)
            {name}_logits(x + (long)i * {upper}_INPUTS, logits + (long)i * {upper}_LOGITS);
}}
"""


class CompiledModel:
    """Generated C as a shared library in this process; it computes one example at a time.

    `flags` are the compiler's, besides the C standard's. TicketError when there is no compiler, or
    when it refuses the source.
    """

    def __init__(self, source: CSource, flags: Sequence[str] = FASTEST) -> None:
        self.plan = source.plan
        self.compiler = compiler_version()
        self.flags = tuple(flags)
        # A loaded library needs its file no more, but for debuggers; it can go at once.
        with tempfile.TemporaryDirectory(prefix="goldenticket-") as folder:
            library = ctypes.CDLL(str(_compiled(source, Path(folder), self.flags)))
        self._batch = library[f"{source.name}_batch"]
        pointer = ctypes.POINTER(ctypes.c_float)
        self._batch.argtypes = [pointer, pointer, ctypes.c_int, ctypes.c_int]
        self._batch.restype = None

    def logits(self, x_BCHW: np.ndarray) -> np.ndarray:
        """Logits (B, K) of inputs (B, ...) in float32."""
        run, logits_BK = self._prepared(x_BCHW, 1)
        run()
        return logits_BK

    def call(self, x_BCHW: np.ndarray) -> Call:
        """The network on one batch, to be timed: inputs and outputs stay where they are."""
        return self._prepared(x_BCHW, 1)[0]

    def seconds(self, x_BCHW: np.ndarray, repeats: int) -> float:
        """Mean seconds for one example, of `repeats` turns over all of them, in a loop in C."""
        run, _ = self._prepared(x_BCHW, repeats)
        started = time.perf_counter()
        run()
        return (time.perf_counter() - started) / (repeats * len(x_BCHW))

    def _prepared(self, x_BCHW: np.ndarray, repeats: int) -> tuple[Call, np.ndarray]:
        """What computes, and where it will write the logits."""
        x = np.ascontiguousarray(x_BCHW, np.float32)
        if x.size != len(x) * self.plan.num_inputs:
            raise TicketError(
                f"inputs of shape {x.shape} do not fit the compiled network: each example must "
                f"have {self.plan.num_inputs} numbers"
            )
        logits_BK = np.empty((len(x), self.plan.num_outputs), np.float32)
        pointer = ctypes.POINTER(ctypes.c_float)  # it keeps its array alive
        arguments = x.ctypes.data_as(pointer), logits_BK.ctypes.data_as(pointer), len(x), repeats
        return partial(self._batch, *arguments), logits_BK


def find_compiler() -> list[str]:
    """The C compiler's command: $CC, else cc, gcc or clang. TicketError when there is none."""
    try:
        given = shlex.split(os.environ.get("CC", ""))
    except ValueError as error:
        raise TicketError(f"CC is {os.environ['CC']!r}, which is no command ({error})") from error
    names = [given[0]] if given else ["cc", "gcc", "clang"]
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        raise TicketError(
            f"there is no C compiler ({' or '.join(names)}) to try the generated C with: install "
            "gcc or clang (Debian: apt install gcc; macOS: xcode-select --install), or set CC"
        )
    return [found, *given[1:]]


def compiler_version() -> str:
    """The first line of what the compiler says of itself."""
    return _run([*find_compiler(), "--version"]).partition("\n")[0]


def write_source(source: CSource, folder: Path) -> list[Path]:
    """Write <name>.c and <name>.h; returns their paths."""
    paths = [folder / f"{source.name}.c", folder / f"{source.name}.h"]
    for path, text in zip(paths, (source.source, source.header), strict=True):
        path.write_text(text, encoding="ascii")
    return paths


def compile_c(files: Sequence[Path], output: Path, flags: Sequence[str]) -> None:
    """Run the compiler once. TicketError, with what it says, when it refuses."""
    _run([*find_compiler(), *STANDARD, *flags, *map(str, files), "-o", str(output)])


def _compiled(source: CSource, folder: Path, flags: Sequence[str]) -> Path:
    written, harness = write_source(source, folder), folder / "harness.c"
    harness.write_text(_HARNESS.format(name=source.name, upper=source.name.upper()))
    library = folder / "library.so"
    compile_c([written[0], harness], library, [*flags, "-shared", "-fPIC"])
    if not library.exists():
        raise TicketError(
            f"{shlex.join(find_compiler())} ends well but writes no library, as a C compiler does: "
            "set CC to gcc, clang or another one"
        )
    return library


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = "\n".join((done.stderr or done.stdout).strip().splitlines()[:10])
        raise TicketError(
            f"{shlex.join(command[:1])} ends with {done.returncode}: {said}\nChoose another "
            "compiler with CC, or flags that it knows"
        )
    return done.stdout
