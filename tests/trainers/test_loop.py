"""One training, from configuration to metrics."""

import pytest
import torch
from trials import LOSSES, METHODS, config, same, sparse

from spaces import TrialConfig
from trainers import build, evaluate, train
from trainers.data import Data, load_data
from trainers.errors import ModelError, TopologyError, TrainingDiverged


@pytest.fixture(scope="module")
def data() -> Data:
    return load_data(config().data, torch.device("cpu"))


def test_training_reports_once_per_epoch_with_the_contract_s_names(data: Data) -> None:
    reports: list[dict[str, float]] = []
    training = train(config(), data, report=lambda metrics: reports.append(metrics))
    assert [r["epoch"] for r in reports] == [1, 2, 3]
    for name in (
        "natural_accuracy", "verified_accuracy", "rung_score", "train_epsilon", "density",
        "inference_flops", "training_flops", "duration_s", "num_active_parameters",
        "dense_inference_flops",
    ):  # fmt: skip
        assert name in reports[-1]
    assert training.finished
    assert reports[-1]["training_flops"] > reports[0]["training_flops"] > 0


def test_final_metrics_say_how_they_were_obtained(data: Data) -> None:
    training = train(config(epochs=1), data)
    final = training.final_metrics()
    assert 0.0 <= final["verified_accuracy"] <= final["falsified_accuracy_bound"]
    assert final["falsified_accuracy_bound"] <= final["natural_accuracy"] <= 1.0
    assert final["verified_accuracy"] <= final["verified_accuracy_at_0.02"]
    assert training.evaluation is not None
    assert training.evaluation.provenance() == {
        "split": "validation", "bound": "ibp+crown-ibp+crown", "radius": 0.05, "num_examples": 60,
        "num_timeouts": 0,
    }  # fmt: skip
    assert sum(training.evaluation.decided_by.values()) == 60


def test_a_digits_network_learns_and_is_partly_verified(data: Data) -> None:
    training = train(config(epochs=12), data)
    final = training.final_metrics()
    assert final["natural_accuracy"] > 0.8
    assert final["verified_accuracy"] > 0.4


def test_density_is_exact_after_every_epoch(data: Data) -> None:
    total = 64 * 32 + 32 * 10
    kept = []
    training = build(config(), data)
    while not training.finished:
        training.run_epoch()
        kept.append(sum(int(mask.sum()) for mask in training.masks.values()))
        for name, weight in training.weights.items():
            assert not weight.detach()[~training.masks[name]].any()
    assert kept == [round(0.2 * total)] * 3


def test_the_same_seed_gives_the_same_network_and_another_seed_another(data: Data) -> None:
    first, second = train(config(), data), train(config(), data)
    other = train(config(seed=1), data)
    assert same(first.model.state_dict(), second.model.state_dict())
    assert not same(first.model.state_dict(), other.model.state_dict())


@pytest.mark.parametrize("method", METHODS)
def test_every_method_ends_with_its_density_and_zeros_elsewhere(data: Data, method: str) -> None:
    training = train(sparse(method), data)
    total = sum(weight.numel() for weight in training.weights.values())
    kept = sum(int(mask.sum()) for mask in training.masks.values())
    density = 1.0 if method == "dense" else 0.3
    assert round(density * total) - training.topology.grain < kept <= round(density * total)
    assert training.topology.grain == 1 or method in ("rigl", "slimming")
    for name, weight in training.weights.items():
        assert not weight.detach()[~training.masks[name]].any()


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_under_crown_ibp(data: Data, method: str) -> None:
    final = train(sparse(method, "crown_ibp"), data).final_metrics()
    assert 0.0 <= final["verified_accuracy"] <= final["natural_accuracy"] <= 1.0


@pytest.mark.parametrize("method", ["acdc", "deadwooding"])
def test_the_dense_twin_is_the_network_before_the_last_cut(data: Data, method: str) -> None:
    training = train(sparse(method), data)
    assert training.twin is not None
    for name, mask in training.masks.items():
        # Weights that were pruned for a while restart at zero, but all have trained since.
        assert training.twin.weights[name].all() and not mask.all()
    final = training.final_metrics()
    assert 0.0 <= final["dense_twin_verified_accuracy"] <= final["dense_twin_natural_accuracy"]


def test_without_a_twin_there_are_no_metrics_of_one(data: Data) -> None:
    assert not any("twin" in name for name in train(sparse("gmp"), data).final_metrics())


def test_the_twin_teaches_only_where_it_is_asked_to(data: Data) -> None:
    def weights(distillation: float) -> dict[str, torch.Tensor]:
        topology = {**METHODS["deadwooding"], "density": 0.3, "distillation": distillation}
        trial = sparse("deadwooding").model_dump() | {"topology": topology}
        return train(TrialConfig.model_validate(trial), data).model.state_dict()

    assert same(weights(0.0), weights(0.0)) and not same(weights(0.0), weights(1.0))


def test_a_stall_is_the_longest_run_of_epochs_without_a_better_accuracy(data: Data) -> None:
    training = build(sparse("ctre"), data)
    for accuracy in (0.5, 0.4, 0.5, 0.6, 0.6):
        training._note_accuracy(accuracy)
    assert (training.longest_stall, training.stall) == (2, 1)


def test_training_stops_when_the_report_says_so(data: Data) -> None:
    training = train(config(), data, report=lambda metrics: metrics["epoch"] < 2)
    assert training.epoch == 2
    assert not training.finished


def test_a_ticket_can_be_trained_again_from_its_initial_weights_and_masks(data: Data) -> None:
    first = train(config(epochs=1), data)
    static = config(epochs=1, topology={"method": "static", "density": 0.2})
    again = build(static, data, weights=first.initial_weights, masks=first.masks)
    assert same(again.masks, first.masks)
    again.run_epoch()
    assert same(again.masks, first.masks)


def test_a_loss_that_is_not_finite_is_an_error_that_names_the_epoch(data: Data) -> None:
    exploding = {"name": "sgd", "lr": 10.0, "weight_decay": 1.0, "lr_schedule": "constant"}
    diverging = config(optimizer=exploding, epochs=3, batch_size=16)
    with pytest.raises(TrainingDiverged, match=r"epoch \d of 3.*lr 10"):
        train(diverging, data)


def test_training_and_selection_never_read_the_test_split(data: Data) -> None:
    class Untouchable:
        def __getattr__(self, name: str) -> object:
            raise AssertionError(f"test.{name} was read")

    guarded = Data(**{**vars(data), "test": Untouchable()})  # type: ignore[arg-type]
    train(config(epochs=1), guarded).final_metrics()


def test_a_batch_larger_than_the_training_split_is_the_whole_split(data: Data) -> None:
    training = build(
        config(batch_size=100_000, topology={"method": "static", "density": 0.2}), data
    )
    assert training.batches.size == len(data.train.y)
    assert training.batches.num_steps(0) == 1


def test_epsilon_starts_at_zero_and_ends_at_the_training_radius(data: Data) -> None:
    trial = config(epsilon={"train_factor": 1.2, "warmup": 0.1, "ramp_end": 0.5})
    training = build(trial, data)
    total = training.batches.total_steps
    assert training.epsilon(0) == 0.0
    assert training.epsilon(total) == pytest.approx(0.06)


def test_evaluate_measures_a_model_of_the_user_s_own(data: Data) -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    result = evaluate(model, data.validation, config().evaluation, split_name="validation")
    assert result.num_examples == 60
    assert result.metrics["density"] == 1.0


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    "model",
    [
        {"family": "cnn", "channels": [4], "hidden": [16], "batch_norm": True},
        {"family": "cnn7", "width": 2, "hidden": 8},
        {"family": "resnet", "width": 4, "blocks": [1, 1]},
    ],
    ids=lambda model: model["family"],
)
def test_every_family_trains_under_every_loss(data: Data, model: dict, loss: str) -> None:
    trial = config(
        model=model, loss={"name": loss}, epochs=1, batch_size=600,
        evaluation={"radius": 0.01, "examples": 10, "epoch_examples": 10},
        epsilon={"warmup": 0.0, "ramp_end": 0.1},
    )  # fmt: skip
    training = train(trial, data)
    assert training.final_metrics()["density"] == pytest.approx(0.2, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["natural", "ibp", "mtl_ibp"])
def test_a_compiled_training_ends_where_the_plain_one_does(
    data: Data, loss: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The capture is torch's own; its code generator would take most of a minute.
    compiled = []

    def compile_eagerly(function: object) -> object:
        compiled.append(function)
        return torch._dynamo.optimize("eager")(function)

    monkeypatch.setattr(torch, "compile", compile_eagerly)
    plain = train(config(loss={"name": loss}, epochs=1), data)
    fast = train(config(loss={"name": loss}, epochs=1, compute={"compile": True}), data)
    assert len(compiled) == 3
    for name, weight in plain.weights.items():
        torch.testing.assert_close(fast.weights[name], weight)


def test_training_flops_are_counted_as_they_are_spent(data: Data) -> None:
    dense = 2 * (64 * 32 + 32 * 10)
    steps, batch = len(data.train.y) // 128, 128
    natural = config(topology={"method": "dense"}, loss={"name": "natural"}, epochs=1)
    assert train(natural, data).training_flops == 3 * dense * steps * batch
    # Bounds cost two more passes, but not in the warm-up: the first half of the only epoch.
    half = config(topology={"method": "dense"}, epochs=1, epsilon={"warmup": 0.5, "ramp_end": 1.0})
    warm = steps // 2
    expected = 3 * dense * batch * (warm + 3 * (steps - warm))
    assert train(half, data).training_flops == expected


@pytest.mark.parametrize(
    ("loss", "passes", "attack"),
    [
        ({"name": "pgd", "attack_steps": 5}, 2, 5),
        ({"name": "sabr", "attack_steps": 5}, 3, 5),
        ({"name": "mtl_ibp", "attack_steps": 3}, 4, 3),
        ({"name": "mtl_ibp", "alpha": 1.0}, 3, 0),
    ],
)
def test_each_step_of_an_attack_costs_two_passes(
    data: Data, loss: dict, passes: int, attack: int
) -> None:
    epsilon = {"warmup": 0.0, "ramp_end": 0.5, "shape": "linear"}
    trial = config(topology={"method": "dense"}, loss=loss, epochs=1, epsilon=epsilon)
    steps, dense = len(data.train.y) // 128, 2 * (64 * 32 + 32 * 10)
    expected = (3 * passes + 2 * attack) * dense * steps * 128
    assert train(trial, data).training_flops == expected


def test_certified_scores_at_initialisation_cost_their_attacks(data: Data) -> None:
    def flops(loss: dict) -> float:
        topology = {"method": "snip", "density": 0.2, "saliency": "certified"}
        training = build(config(topology=topology, loss=loss), data)
        return training.training_flops

    attacked, plain = flops({"name": "sabr", "attack_steps": 7}), flops({"name": "ibp"})
    assert attacked - plain == 2 * 7 * 2 * (64 * 32 + 32 * 10) * 128


@pytest.mark.parametrize("granularity", ["weight", "unit"])
def test_jackpots_tell_items_that_are_off_what_they_would_be_worth(
    data: Data, granularity: str
) -> None:
    topology = {"method": "jackpots", "density": 0.3, "search_start": 0.0}
    training = build(config(topology={**topology, "granularity": granularity}), data)
    training.model.train()
    training.train_step(data.train.x[:64], data.train.y[:64])
    training.sparsifier.settle()
    kept = training.topology.selection.pattern.kept(training.masks)
    for kind, moved in training.sparsifier.variables.items():
        off = moved.detach()[~kept[kind]]
        assert off.count_nonzero() > 0.5 * off.numel(), f"scores of {kind} do not move"


@pytest.mark.parametrize("epochs", [1, 2, 3])
@pytest.mark.parametrize("method", sorted(set(METHODS) - {"acdc", "dense"}))
def test_the_shortest_trainings_end_with_the_density_too(
    data: Data, method: str, epochs: int
) -> None:
    topology = {**METHODS[method], "density": 0.3}
    topology.pop("update_every", None)
    trial = sparse(method).model_dump() | {
        "topology": topology, "epochs": epochs, "batch_size": 100_000,
    }  # fmt: skip
    training = train(TrialConfig.model_validate(trial), data)
    planned = training.topology.planned_total(epochs)
    kept = sum(training.sparsifier.counts.values())
    assert planned - training.topology.grain < kept <= planned
    total = sum(weight.numel() for weight in training.weights.values())
    assert planned == pytest.approx(0.3 * total, abs=training.topology.grain)


def test_an_interval_that_leaves_no_update_is_refused(data: Data) -> None:
    with pytest.raises(TopologyError, match="update_every: 1000 .* leave no update in .* steps"):
        build(config(topology={"method": "rigl", "density": 0.2, "update_every": 1000}), data)


def test_weights_of_another_model_are_refused(data: Data) -> None:
    other = build(config(model={"family": "mlp", "widths": [16]}), data).model.state_dict()
    with pytest.raises(ModelError, match="not those of a mlp network as configured"):
        build(config(), data, weights=other)


@pytest.mark.parametrize("granularity", ["unit", "1:4"])
@pytest.mark.parametrize("method", ["static", "rigl"])
def test_given_masks_keep_to_the_granularity(data: Data, method: str, granularity: str) -> None:
    topology = {"method": method, "density": 0.2, "granularity": granularity}
    trial = config(topology={**topology, "distribution": "uniform"})
    masks = build(trial, data).masks
    assert build(trial, data, masks=masks).masks.keys() == masks.keys()
    moved = {name: mask.flatten().sort().values.view_as(mask) for name, mask in masks.items()}
    refusal = f"does not keep to topology.granularity: {granularity}"
    with pytest.raises(TopologyError, match=refusal):
        build(trial, data, masks=moved)
