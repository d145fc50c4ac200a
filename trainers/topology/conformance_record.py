"""What a record of a small training must show, whatever the topology method."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from spaces.sparsity import n_of_m
from trainers.topology.conformance_training import Moment, Run
from trainers.topology.masks import count_ones
from trainers.topology.patterns import build_pattern


def check_exact_counts(run: Run) -> None:
    """After each step each layer has a bool mask, with as many ones as planned."""
    method = run.method
    for moment in run.moments:
        step, masks = moment.step, moment.masks
        assert list(masks) == list(run.layout), f"step {step}: masks of {list(masks)}"
        for name, mask in masks.items():
            like = moment.parameters[name]
            found = (mask.dtype, mask.shape, mask.device)
            assert found == (torch.bool, like.shape, like.device), f"{name}: {found}"
        counts, planned = count_ones(masks), method.planned_total(step)
        assert planned - method.grain < sum(counts.values()) <= planned, (
            f"step {step}: {sum(counts.values())} weights kept, {planned} planned"
        )
        by_layer = method.planned_counts(step)
        assert by_layer is None or counts == by_layer, f"step {step}: {counts}, not {by_layer}"


def check_final_density(run: Run) -> None:
    """A density in the config is the final one, to the weight, or to less than the next group."""
    if not hasattr(run.case.config, "density"):
        return
    budget = round(run.case.config.density * run.layout.num_weights)
    planned = run.method.planned_total(run.case.total_steps)
    kept = sum(count_ones(run.moments[-1].masks).values())
    for found, what in ((planned, "planned"), (kept, "kept")):
        assert budget - run.method.grain < found <= budget, (
            f"{found} weights are {what} at the end, not {budget}"
        )


def check_update_steps(run: Run) -> None:
    """Masks change at update steps and relaxed ones only, and updates spare the last step."""
    for step in (0, run.case.total_steps):
        assert not run.method.is_update_step(step), f"step {step} is an update step"
    for before, moment in run.pairs:
        if not (moment.updated or moment.relaxed):
            assert equal(before.masks, moment.masks), f"step {moment.step} changed masks"


def check_pruned_is_zero(run: Run) -> None:
    """Pruned weights are zero, outside relaxed phases with their gradients and optimizer state."""
    for moment in run.moments:
        for name, mask in moment.masks.items():
            values = [moment.parameters[name]]
            if not moment.relaxed:
                values += moment.state[name]
                if not moment.updated and name in moment.gradients:
                    values.append(moment.gradients[name])
            for value in values:
                assert not value[~mask].any(), f"step {moment.step}: pruned entries of {name}"


def check_survivors(run: Run) -> None:
    """An update changes neither value nor optimizer state of weights that stay."""
    for before, moment in _updates(run):
        forgets = run.method.phase(moment.step).resets_optimizer
        for name, mask in moment.masks.items():
            stay = mask & before.masks[name]
            assert torch.equal(moment.parameters[name][stay], before.parameters[name][stay]), (
                f"step {moment.step}: weights of {name} changed"
            )
            old = [] if forgets else [value[stay] for value in before.state[name]]
            new = [value[stay] for value in moment.state[name]]
            assert len(old) == len(new) and all(map(torch.equal, old, new)), (
                f"step {moment.step}: optimizer state of {name}"
            )


def check_grown_is_zero(run: Run) -> None:
    """Growth starts without optimizer state, and changes nothing that the network computes.

    Grown weights are zero; but a unit that was off starts with weights for the inputs it has.
    """
    for before, moment in _updates(run):
        for name, mask in moment.masks.items():
            grown = mask & ~before.masks[name]
            assert not any(value[grown].any() for value in moment.state[name]), (
                f"step {moment.step}: {name} grows with optimizer state"
            )
            if run.method.by_unit:
                rows_off = ~before.masks[name].flatten(1).any(1)
                columns_off = ~before.masks[name].transpose(0, 1).flatten(1).any(1)
                trailing = [1] * (mask.ndim - 2)
                grown &= ~rows_off.view(-1, 1, *trailing) | columns_off.view(1, -1, *trailing)
            assert not moment.parameters[name][grown].any(), (
                f"step {moment.step}: {name} grows with a value"
            )
        assert moment.outputs is not None
        torch.testing.assert_close(*moment.outputs, msg=lambda text: f"growth is heard: {text}")


def check_pattern(run: Run) -> None:
    """Masks that are not full are of the config's granularity."""
    granularity = getattr(run.case.config, "granularity", "weight")
    pattern, n_m = build_pattern(granularity, run.layout), n_of_m(granularity)
    for moment in run.moments:
        if all(mask.all() for mask in moment.masks.values()):
            continue
        if n_m is None:
            whole = pattern.expand(pattern.kept(moment.masks))
            assert equal(whole, moment.masks), f"step {moment.step}: broken {granularity}s"
            continue
        n, m = n_m
        for name, mask in moment.masks.items():
            most = max(int(run_.sum(1).max()) for run_ in mask.split(m, dim=1))
            assert most <= n, f"step {moment.step}: {most} of {m} weights in {name}"


def check_units_are_off(run: Run) -> None:
    """Units without weights have zero biases and norms, and optimizer state; they do nothing."""
    if not run.method.by_unit:
        return
    for moment in run.moments:
        for group in run.layout.groups:
            off = ~moment.masks[group.producers[0]].flatten(1).any(1)
            for name in group.vectors:
                values = [moment.parameters[name]]
                if not moment.relaxed:
                    values += moment.state[name]
                assert not any(value[off].any() for value in values), (
                    f"step {moment.step}: {name} of units that are off"
                )


def check_frozen(run: Run) -> None:
    """In frozen phases weights that stay keep their values."""
    for before, moment in run.pairs:
        if not run.method.phase(moment.step).frozen:
            continue
        for name, mask in moment.masks.items():
            stay = mask & before.masks[name]
            assert torch.equal(moment.parameters[name][stay], before.parameters[name][stay]), (
                f"step {moment.step}: {name} moved in a frozen phase"
            )


def _updates(run: Run) -> list[tuple[Moment, Moment]]:
    return [(before, moment) for before, moment in run.pairs if moment.updated]


def equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Whether both have the same names with the same values."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
