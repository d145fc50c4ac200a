"""Decides the sign of a margin by mixed-integer programming with HiGHS (no torch)."""

from __future__ import annotations

import functools
import os
import threading
import time
from dataclasses import dataclass
from typing import Any, Literal

import highspy
import numpy as np
import scipy.sparse as sp

Array = np.ndarray[Any, np.dtype[Any]]
Answer = Literal["positive", "point", "unknown"]

FEASIBILITY = 1e-7
"""By how much HiGHS may miss a constraint, or an integer."""
TIGHT = 1e-9
"""The same, for a second try."""


@dataclass(frozen=True)
class ReluProgram:
    """A network on one box: x in [input_lower, input_upper], and N open ReLUs a = max(z, 0).

    z = rows @ (x, a) + constants, (N,), within [below, above]; row n reads no output but those
    before n. The margin of class k is margin_rows[k] @ (x, a) + margin_constants[k].
    """

    input_lower: Array
    input_upper: Array
    rows: sp.csr_array
    constants: Array
    below: Array
    above: Array
    margin_rows: Array
    margin_constants: Array


def least_margin(
    program: ReluProgram,
    k: int,
    *,
    at_most: float,
    deadline: float,
    tolerance: float = FEASIBILITY,
    to_the_end: bool = False,
) -> tuple[Answer, Array | None]:
    """Whether the margin of class `k` can be `at_most` or less, found out by `deadline`.

    "positive": it cannot. "point": the input returned has, within `tolerance`, such a margin.
    "unknown": time ran out. The solver stops at the first point whose margin is below -at_most, or
    at the least margin `to_the_end`. `deadline` is on the clock of time.perf_counter.
    """
    left = deadline - time.perf_counter()
    if left <= 0.0:
        return "unknown", None
    solver = _solver()
    options = {
        "output_flag": False,
        "threads": 1,
        "time_limit": left,
        "primal_feasibility_tolerance": tolerance,
        "dual_feasibility_tolerance": tolerance,
        "mip_feasibility_tolerance": tolerance,
        # Attacks have looked for points already.
        "mip_heuristic_effort": 0.0,
    }
    if not to_the_end:
        options["objective_target"] = -at_most
    for name, value in options.items():
        assert solver.setOptionValue(name, value) == highspy.HighsStatus.kOk, name
    solver.passModel(_model(program, k, at_most))
    solver.run()
    if solver.getModelStatus() == highspy.HighsModelStatus.kInfeasible:
        return "positive", None
    solution = solver.getSolution()
    if not solution.value_valid:
        return "unknown", None
    return "point", np.asarray(solution.col_value)[: len(program.input_lower)]


_FIRST = threading.Lock()


def _solver() -> highspy.Highs:
    with _FIRST:
        _let_it_introduce_itself()
    return highspy.Highs()


@functools.cache
def _let_it_introduce_itself() -> None:
    """HiGHS 1.16 prints its name when first made, whatever its options: keep standard output clean.

    It writes to the file descriptor, past Python's own stream.
    """
    try:
        kept = os.dup(1)
    except OSError:  # there is no standard output
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        highspy.Highs()
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def _model(program: ReluProgram, k: int, at_most: float) -> highspy.HighsLp:
    """Minimise the margin of class k, which must be at_most or less.

    Beside x and a there are s = max(-z, 0) and a binary d for each open ReLU: a - s = z,
    a <= above * d and s <= -below * (1 - d).
    """
    n, num_open = len(program.input_lower), len(program.below)
    costs = np.concatenate([program.margin_rows[k], np.zeros(2 * num_open)])
    matrix, row_lower, row_upper = _rows(program)
    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = len(costs), len(row_lower) + 1
    lp.col_cost_, lp.offset_ = costs, program.margin_constants[k]
    zeros, ones = np.zeros(3 * num_open), np.ones(num_open)
    lp.col_lower_ = np.concatenate([program.input_lower, zeros])
    lp.col_upper_ = np.concatenate([program.input_upper, program.above, -program.below, ones])
    lp.row_lower_ = np.append(row_lower, -highspy.kHighsInf)
    lp.row_upper_ = np.append(row_upper, at_most - program.margin_constants[k])
    matrix = sp.vstack([matrix, sp.csr_array(costs[None])], format="csr")
    lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    lp.a_matrix_.start_, lp.a_matrix_.index_ = matrix.indptr, matrix.indices
    lp.a_matrix_.value_ = matrix.data
    kinds = highspy.HighsVarType
    lp.integrality_ = [kinds.kContinuous] * (n + 2 * num_open) + [kinds.kInteger] * num_open
    return lp


def _rows(program: ReluProgram) -> tuple[sp.csr_array, Array, Array]:
    """The constraints of the open ReLUs."""
    n, num_open = len(program.input_lower), len(program.below)
    if num_open == 0:
        return sp.csr_array((0, n)), np.zeros(0), np.zeros(0)
    one = sp.eye_array(num_open)
    inputs = sp.csr_array((num_open, n))
    matrix = sp.block_array(
        [
            [-program.rows[:, :n], one - program.rows[:, n:], -one, None],
            [inputs, one, None, -sp.diags_array(program.above)],
            [None, None, one, -sp.diags_array(program.below)],
        ],
        format="csr",
    )
    free = np.full(2 * num_open, -highspy.kHighsInf)
    upper = np.concatenate([program.constants, np.zeros(num_open), -program.below])
    return matrix, np.concatenate([program.constants, free]), upper
