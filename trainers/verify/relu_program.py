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
import scipy.sparse.linalg  # noqa: F401  (sp.linalg)

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

    @property
    def middle_and_half(self) -> tuple[Array, Array]:
        """The middle of the box, and half its widths."""
        return (self.input_lower + self.input_upper) / 2, (self.input_upper - self.input_lower) / 2


def least_margin(
    program: ReluProgram,
    k: int,
    *,
    at_most: float,
    deadline: float,
    unit: float = 1.0,
    tolerance: float = FEASIBILITY,
    to_the_end: bool = False,
) -> tuple[Answer, Array | None]:
    """Whether the margin of class `k` can be `at_most` or less, found out by `deadline`.

    "positive": it cannot. "point": the input returned has, within `tolerance`, such a margin.
    "unknown": time ran out. The solver stops at the first point whose margin is below -at_most, or
    at the least margin `to_the_end`. `deadline` is on the clock of time.perf_counter. The solver's
    tolerances are absolute: it sees inputs over their box, ReLUs over their bounds and the margin
    over `unit`, the largest logit, so that the scale of weights does not matter.
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
        # Smaller coefficients are taken for zero.
        "small_matrix_value": 1e-12,
    }
    if not to_the_end:
        options["objective_target"] = -at_most / unit
    for name, value in options.items():
        assert solver.setOptionValue(name, value) == highspy.HighsStatus.kOk, name
    scaled = _scaled(program, k, unit)
    if solver.passModel(_model(scaled, at_most / unit)) == highspy.HighsStatus.kError:
        return "unknown", None
    solver.run()
    if solver.getModelStatus() == highspy.HighsModelStatus.kInfeasible:
        return "positive", None
    solution = solver.getSolution()
    if not solution.value_valid:
        return "unknown", None
    shares = np.asarray(solution.col_value)[: len(program.input_lower)]
    middle, half = program.middle_and_half
    return "point", np.clip(middle + half * shares, program.input_lower, program.input_upper)


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


@dataclass(frozen=True)
class _Scaled:
    """A program in shares: inputs in [-1, 1], ReLUs over the larger end of their bounds.

    z = rows @ (x, a) + constants in [below, above], within [-1, 1]; the margin of one class is
    costs @ (x, a) + offset, over its unit.
    """

    rows: sp.csr_array
    constants: Array
    below: Array
    above: Array
    costs: Array
    offset: float

    @property
    def num_inputs(self) -> int:
        return len(self.costs) - len(self.below)


def _scaled(program: ReluProgram, k: int, unit: float) -> _Scaled:
    middle, half = program.middle_and_half
    n, sizes = len(middle), np.maximum(program.above, -program.below)
    columns = np.concatenate([half, sizes])
    per_row = sp.diags_array(1.0 / sizes)
    margin = program.margin_rows[k]
    return _Scaled(
        rows=(per_row @ program.rows @ sp.diags_array(columns)).tocsr(),
        constants=(program.constants + program.rows[:, :n] @ middle) / sizes,
        below=program.below / sizes,
        above=program.above / sizes,
        costs=margin * columns / unit,
        offset=float(program.margin_constants[k] + margin[:n] @ middle) / unit,
    )


def reach_of_tolerances(program: ReluProgram, k: int, unit: float) -> float:
    """By how much the margin of class `k`, over `unit`, moves when each equation is missed.

    Each open ReLU is off by FEASIBILITY and by what reaches it from those before, in the worst
    case of signs: to first order, what the solver's tolerances can hide.
    """
    scaled = _scaled(program, k, unit)
    if not len(scaled.below):
        return FEASIBILITY
    n = scaled.num_inputs
    # Rows read earlier outputs only, so that this is solved from the first to the last.
    chain = (sp.eye_array(len(scaled.below)) - abs(scaled.rows[:, n:])).tocsr()
    missed = np.full(len(scaled.below), FEASIBILITY)
    off = sp.linalg.spsolve_triangular(chain, missed, lower=True, unit_diagonal=True)
    return FEASIBILITY + float(np.abs(scaled.costs[n:]) @ off)


def _model(program: _Scaled, at_most: float) -> highspy.HighsLp:
    """Minimise the margin, which must be at_most or less.

    Beside x and a there are s = max(-z, 0) and a binary d for each open ReLU: a - s = z,
    a <= above * d and s <= -below * (1 - d).
    """
    n, num_open = program.num_inputs, len(program.below)
    costs = np.concatenate([program.costs, np.zeros(2 * num_open)])
    matrix, row_lower, row_upper = _rows(program)
    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = len(costs), len(row_lower) + 1
    lp.col_cost_, lp.offset_ = costs, program.offset
    zeros, ones = np.zeros(3 * num_open), np.ones(num_open)
    lp.col_lower_ = np.concatenate([-np.ones(n), zeros])
    lp.col_upper_ = np.concatenate([np.ones(n), program.above, -program.below, ones])
    lp.row_lower_ = np.append(row_lower, -highspy.kHighsInf)
    lp.row_upper_ = np.append(row_upper, at_most - program.offset)
    matrix = sp.vstack([matrix, sp.csr_array(costs[None])], format="csr")
    lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    lp.a_matrix_.start_, lp.a_matrix_.index_ = matrix.indptr, matrix.indices
    lp.a_matrix_.value_ = matrix.data
    kinds = highspy.HighsVarType
    lp.integrality_ = [kinds.kContinuous] * (n + 2 * num_open) + [kinds.kInteger] * num_open
    return lp


def _rows(program: _Scaled) -> tuple[sp.csr_array, Array, Array]:
    """The constraints of the open ReLUs."""
    n, num_open = program.num_inputs, len(program.below)
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
