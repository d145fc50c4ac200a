"""What every topology method must satisfy, as checks that its author can run.

    from trainers.sparsifier import Sparsifier
    from trainers.topology.conformance import CHECKS, Case, record

    run = record(Case(MyConfig(density=0.1, update_every=3), MyMethod, Sparsifier))
    for check in CHECKS:
        check(run)

`check_new_process` is not among them because it starts a Python process. Each check looks at a
small training, or starts more of them, and raises AssertionError, saying what was expected.
"""

from __future__ import annotations

import hashlib
import math
import multiprocessing
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from trainers.errors import TopologyError
from trainers.topology.base import Signals
from trainers.topology.conformance_record import (
    check_exact_counts,
    check_final_density,
    check_frozen,
    check_grown_is_zero,
    check_pattern,
    check_pruned_is_zero,
    check_survivors,
    check_units_are_off,
    check_update_steps,
    equal,
)
from trainers.topology.conformance_training import Case, Run, SmallTraining, record
from trainers.topology.masks import Masks, count_ones
from trainers.topology.patterns import build_pattern


def check_settling(run: Run) -> None:
    """A run that is settled only at its end is the same: `settle` may be called at any time."""
    if not any(moment.relaxed for moment in run.moments):
        return
    training = SmallTraining(run.case)
    for _ in range(run.case.total_steps):
        training.step(settle=False)
    training.sparsifier.settle()
    _assert_same(training.state(), run.moments[-1].saved, "settled at the end only")


def check_no_empty_layer(run: Run) -> None:
    """Not even the smallest possible density empties a layer."""
    if not hasattr(run.case.config, "density"):
        return
    pattern = build_pattern(run.case.config.granularity, run.layout)
    smallest = pattern.total(dict.fromkeys(pattern.items, 1)) / run.layout.num_weights
    config = run.case.config.model_copy(update={"density": math.nextafter(smallest, 1.0)})
    training = SmallTraining(replace(run.case, config=config))
    for step in range(run.case.total_steps):
        counts = count_ones(training.masks)
        assert min(counts.values()) >= 1, f"after step {step}: {counts}"
        training.step()


def check_impossible_density(run: Run) -> None:
    """A density with fewer weights than layers is refused when the method is built."""
    if not hasattr(run.case.config, "density"):
        return
    config = run.case.config.model_copy(update={"density": 1e-9})
    try:
        run.case.build(config, run.layout, run.case.total_steps)
    except TopologyError as error:
        assert "density" in str(error), f"the message does not name the density: {error}"
    else:
        raise AssertionError("density 1e-9 was accepted; raise TopologyError (see weight_budget)")


def check_purity(run: Run) -> None:
    """Masks and gates depend on arguments and generator alone; nothing given is changed."""
    training = SmallTraining(run.case)
    method, masks = training.method, training.masks
    initial = training.signals(method.init_inputs)
    _check_pure(lambda generator: method.init_masks(initial, generator), initial, masks)
    for step in range(1, run.case.total_steps + 1):
        if method.is_update_step(step):
            signals, masks = training.signals(method.inputs), training.masks

            def update(
                generator: torch.Generator, step: int = step, s: Signals = signals, m: Masks = masks
            ) -> Mapping[str, Tensor]:
                return method.update_masks(step, m, s, generator)

            _check_pure(update, signals, masks)
        training.step()
        if method.phase(step).relaxed:
            signals = training.sparsifier.relaxation.signals

            def gates(
                generator: torch.Generator, step: int = step, s: Signals = signals
            ) -> Mapping[str, Tensor]:
                return method.gates(step, s, generator)

            _check_pure(gates, signals, training.masks)
            update_0 = method.update_masks(0, training.masks, signals, torch.Generator())
            assert equal(update_0, training.masks), f"step {step}: other masks when asked again"


def check_resume(run: Run) -> None:
    """From what is saved after any step the next one follows as in the uninterrupted run."""
    for i, (before, after) in enumerate(reversed(run.pairs)):
        if i % 4 == 0:  # else in a training that has seen the future, and should not care
            resumed = SmallTraining(run.case, seed=1)
        resumed.resume(before.saved)
        resumed.step()
        _assert_same(resumed.state(), after.saved, f"resumed after step {before.step}")


def check_same_seed(run: Run) -> None:
    """The same seed gives the same masks at every step, whatever the global generator says."""
    torch.rand(3)  # moves the global generator between the two runs
    assert masks_digest(run.case) == _digest(run), "two runs with one seed differ"


def check_new_process(*cases: Case) -> None:
    """The same seed gives the same masks in a new process, one for all cases; they are pickled."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        for case, elsewhere in zip(cases, pool.map(masks_digest, cases), strict=True):
            assert elsewhere == masks_digest(case), f"{case.config!r}: other masks in a new process"


def masks_digest(case: Case) -> str:
    """SHA-256 of the masks after each step of a run."""
    return _digest(record(case))


CHECKS: tuple[Callable[[Run], None], ...] = (
    check_exact_counts,
    check_final_density,
    check_update_steps,
    check_pruned_is_zero,
    check_survivors,
    check_grown_is_zero,
    check_pattern,
    check_units_are_off,
    check_frozen,
    check_settling,
    check_no_empty_layer,
    check_impossible_density,
    check_purity,
    check_resume,
    check_same_seed,
)
"""All checks that run in this process."""


def _digest(run: Run) -> str:
    digest = hashlib.sha256()
    for moment in run.moments:
        for mask in moment.masks.values():
            digest.update(mask.cpu().numpy().tobytes())
    return digest.hexdigest()


def _assert_same(a: Any, b: Any, where: str) -> None:
    """Nested dicts, lists and tensors are equal, bit by bit."""
    if isinstance(a, dict):
        assert isinstance(b, dict) and a.keys() == b.keys(), f"{where}: {a.keys()}, {b.keys()}"
        for key in a:
            _assert_same(a[key], b[key], f"{where}, {key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), f"{where}: {len(a)} and {len(b)} items"
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            _assert_same(x, y, f"{where}, {i}")
    else:
        same = torch.equal(a, b) if isinstance(a, Tensor) else a == b
        assert same, f"{where}: not as in the uninterrupted run"


def _check_pure(
    choose: Callable[[torch.Generator], Mapping[str, Tensor]], signals: Signals, masks: Masks
) -> None:
    named: dict[str, Any] = {field.name: getattr(signals, field.name) for field in fields(signals)}
    given = {key: value for key, value in named.items() if isinstance(value, Mapping)}
    given["masks"] = masks
    before = {k: {n: v.detach().clone() for n, v in values.items()} for k, values in given.items()}
    global_state = torch.get_rng_state()
    first = choose(torch.Generator().manual_seed(3))
    second = choose(torch.Generator().manual_seed(3))
    assert equal(first, second), "two calls with equal arguments gave different answers"
    for key, tensors in before.items():
        assert equal(tensors, given[key]), f"{key} were changed in place"
    assert torch.equal(global_state, torch.get_rng_state()), "the global generator was used"
