"""What a new search is told of earlier studies, and that their trials are never its own."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import yaml
from mlflow.tracking import MlflowClient
from mlflow_server import Server
from optuna.trial import TrialState
from toy_trials import ToyFactory, toy_study
from tracked import METRICS

from analysis import FrontError, load_front
from analysis.store import read_study
from search import Observer, run_study
from search.known_trials import KnownTrials, Unusable
from search.records import SearchRun, StudyResult, TrialRecord
from search.sampling import Sampling
from search.tpe import Tpe
from search.tracking import MlflowTracker
from search.warm_start import Earlier, read_earlier
from spaces import ConfigError, StudyConfig

LOW_DENSITY = {
    "topology": {"method": "static", "density": {"low": 0.1, "high": 0.4}},
    "optimizer": {"lr": {"low": 1e-4, "high": 1e-1, "log": True}},
}


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def folder(tmp_path: Path, empty_store: Path) -> Path:
    shutil.copy(empty_store, tmp_path)
    return tmp_path


def earlier(folder: Path, *trials: dict[str, Any], **study: Any) -> StudyConfig:
    """A search of the study `old` in the store of the folder: its trials completed, but for this.

    `params` are added to those of a static topology, `all_params` stand in their place.
    """
    old = toy_study(folder, **{"name": "old", **study})
    run = SearchRun(old, Path(mkdtemp(dir=folder)), "local")
    (run.folder / "study.yaml").write_text(yaml.safe_dump(old.model_dump(mode="json")))
    tracker = MlflowTracker(old.tracking.uri)
    tracker.on_study_start(run, ())
    records = [ended(old, number, **changes) for number, changes in enumerate(trials)]
    for record in records:
        tracker.on_trial_start(replace(record, state="running"))
        tracker.on_trial_end(record)
    tracker.on_study_end(run, records)
    return old


def ended(
    study: StudyConfig,
    number: int,
    params: dict[str, Any] | None = None,
    all_params: dict[str, Any] | None = None,
    **changes: Any,
) -> TrialRecord:
    usual = {"topology.static.density": 0.5, "optimizer.lr": 0.01 + 0.001 * number}
    found = all_params or {"topology.method": "static", **usual, **(params or {})}
    record = TrialRecord(
        number,
        found,
        study.search_space().decode(found),
        started=1000.0 + number,
        state="completed",
        epochs=3,
        metrics=METRICS,
        provenance={"split": "validation", "bound": "ibp", "num_timeouts": "0"},
        ended=1010.0 + number,
    )
    return replace(record, **changes)


def new_study(folder: Path, **changes: Any) -> StudyConfig:
    tree = {"sampler": {"name": "tpe"}, "warm_start": {"studies": ["old"]}, **changes}
    return toy_study(folder, **tree)


def reasons(found: Earlier) -> str:
    (line,) = found.told
    return line.partition("not used: ")[2]


# What counts --------------------------------------------------------------------------------------


def test_a_completed_trial_is_known_with_its_values_and_the_new_studys_constraints(
    folder: Path,
) -> None:
    earlier(folder, {})
    study = new_study(folder, constraints=["natural_accuracy >= 0.95"])
    found = read_earlier(study)
    (known,) = found.trials
    assert known.state == TrialState.COMPLETE
    assert known.values == [0.9, 0.7, 1e6]
    assert known.constraints == {"natural_accuracy >= 0.95": pytest.approx(0.05)}
    assert known.params == {
        "topology.method": "static",
        "topology.static.density": 0.5,
        "optimizer.lr": 0.01,
    }
    assert found.told == ("warm start from old: the sampler knows 1 of its 1 trials",)


def test_objectives_are_those_of_the_new_study(folder: Path) -> None:
    metrics = {**METRICS, "density": 0.25}
    earlier(folder, {"metrics": metrics}, {"metrics": {**METRICS}})
    found = read_earlier(new_study(folder, objectives=["density", "natural_accuracy"]))
    assert [known.values for known in found.trials] == [[0.25, 0.9]]
    assert reasons(found) == "1 (density was not measured)"


def test_a_setting_that_was_fixed_may_be_a_hole_now_and_a_hole_may_be_fixed_now(
    folder: Path,
) -> None:
    fixed_lr = {"topology": LOW_DENSITY["topology"], "optimizer": {"lr": 0.02}}
    earlier(folder, {"all_params": {"topology.static.density": 0.3}}, space=fixed_lr)
    space = {
        "topology": {"method": "static", "density": 0.3},
        "optimizer": {"lr": {"low": 1e-3, "high": 1e-1}},
    }
    (known,) = read_earlier(new_study(folder, space=space)).trials
    assert known.params == {"optimizer.lr": 0.02}


def test_what_the_new_space_does_not_hold_is_not_used_and_counted_by_reason(folder: Path) -> None:
    earlier(
        folder,
        {"params": {"topology.static.density": 0.2}},
        {"params": {"topology.static.density": 0.6}},
        {"params": {"topology.static.density": 0.7}},
        {"params": {"topology.static.density": 0.2, "optimizer.lr": 2e-4}},
    )
    space = {**LOW_DENSITY, "optimizer": {"lr": {"low": 1e-3, "high": 1e-1}}}
    found = read_earlier(new_study(folder, space=space))
    assert len(found.trials) == 1
    assert reasons(found) == (
        "2 (topology.static.density: not in [0.1, 0.4]), 1 (optimizer.lr: not in [0.001, 0.1])"
    )


def test_a_branch_that_is_not_in_the_new_space_is_not_used(folder: Path) -> None:
    rigl = {"topology.method": "rigl", "topology.rigl.density": 0.3, "optimizer.lr": 0.01}
    earlier(folder, {"params": {"topology.static.density": 0.2}}, {"all_params": rigl})
    found = read_earlier(new_study(folder, space=LOW_DENSITY))
    assert len(found.trials) == 1
    assert reasons(found) == "1 (topology.method: not static)"


def test_a_trial_that_has_not_recorded_what_is_a_hole_now_is_not_used(folder: Path) -> None:
    old = earlier(folder, {})
    record = read_study("old", tracking_uri=old.tracking.uri)
    known = KnownTrials(new_study(folder))
    (whole,) = record.trials
    assert known.known(whole).state == TrialState.COMPLETE
    for name in ("optimizer.lr", "topology.density"):
        params = {key: text for key, text in whole.params.items() if key != name}
        with pytest.raises(Unusable):
            known.known(replace(whole, params=params))
    lacking = {key: text for key, text in whole.params.items() if key != "optimizer.lr"}
    with pytest.raises(Unusable, match="optimizer.lr: not recorded"):
        known.known(replace(whole, params=lacking))
    added_since = {k: text for k, text in whole.params.items() if k != "optimizer.swa_start"}
    assert known.known(replace(whole, params=added_since)).state == TrialState.COMPLETE


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"budget": {"trials": 4, "epochs": 5}}, "epochs: 3, not 5"),
        ({"data": {"name": "mnist5k"}}, "data.name: digits, not mnist5k"),
        ({"data": {"name": "digits", "split_seed": 1}}, "data.split_seed: 0, not 1"),
        ({"evaluation": {"radius": 0.2}}, "evaluation.radius: 0.1, not 0.2"),
        ({"evaluation": {"radius": 0.1, "examples": 9}}, "evaluation.examples: null, not 9"),
        (
            {"evaluation": {"radius": 0.1, "methods": ["ibp"]}},
            'evaluation.methods: ["ibp","crown-ibp","crown"], not ["ibp"]',
        ),
        ({"space": {**LOW_DENSITY, "batch_size": 32}}, "batch_size: not 32"),
    ],
)
def test_a_study_of_which_nothing_can_be_used_is_an_error(
    folder: Path, changes: dict[str, Any], reason: str
) -> None:
    earlier(folder, {"params": {"topology.static.density": 0.2}})
    with pytest.raises(ConfigError) as caught:
        read_earlier(new_study(folder, **changes))
    message = str(caught.value)
    assert message.startswith("warm_start.studies: none of the 1 trials of old in sqlite:///")
    assert f"1 ({reason})" in message
    assert "leave old out" in message


def test_seed_device_limits_of_time_and_where_data_lie_do_not_matter(folder: Path) -> None:
    earlier(folder, {})
    study = new_study(
        folder,
        seed=5,
        resources={"cpus_per_trial": 3, "device": "cpu"},
        evaluation={"radius": 0.1, "timeout_s": 1.0, "certify_front": False, "epoch_examples": 7},
    )
    assert len(read_earlier(study).trials) == 1


def test_figures_that_a_limit_of_time_has_cut_need_the_same_limit(folder: Path) -> None:
    late = {"split": "validation", "bound": "ibp", "num_timeouts": "3"}
    earlier(folder, {}, {"provenance": late})
    assert len(read_earlier(new_study(folder)).trials) == 2
    other = {"radius": 0.1, "timeout_s": 1.0}
    assert reasons(read_earlier(new_study(folder, evaluation=other))) == (
        "1 (evaluation.timeout_s: 10.0, not 1.0)"
    )


def test_trials_that_did_not_complete_or_were_measured_on_another_split_are_not_used(
    folder: Path,
) -> None:
    at_a_rung = {"state": "stopped", "epochs": 1, "reason": "at epoch 1: not in the best third"}
    elsewhere = {"split": "test", "bound": "ibp"}
    failed = {"state": "failed", "reason": "boom"}
    earlier(folder, {}, at_a_rung, at_a_rung, failed, {"provenance": elsewhere})
    assert read_earlier(new_study(folder)).told == (
        "warm start from old: the sampler knows 1 of its 5 trials; not used: 2 (stopped early), "
        "1 (failed), 1 (measured on the test split, not on validation)",
    )


def test_the_same_settings_count_once_over_all_searches_of_all_studies(folder: Path) -> None:
    same = {"optimizer.lr": 0.03}
    earlier(folder, {"params": same}, {"params": same})
    earlier(folder, {"params": same}, {}, name="older")
    study = new_study(folder, warm_start={"studies": ["old", "older", "old"]})
    found = read_earlier(study)
    assert [known.params["optimizer.lr"] for known in found.trials] == [0.03, 0.011]
    assert [line.partition("; ")[2] for line in found.told] == [
        "not used: 1 (same settings as another trial)"
    ] * 2


# Names and files ----------------------------------------------------------------------------------


def test_an_unknown_name_lists_those_that_exist_and_leaves_no_folder(folder: Path) -> None:
    earlier(folder, {})
    study = new_study(folder, warm_start={"studies": ["odl"]})
    with pytest.raises(FrontError, match="no study is called 'odl' .*did you mean 'old'"):
        run_study(study, "local", factory=ToyFactory())
    assert not (folder / "runs").exists()


def test_a_study_may_be_in_another_store(folder: Path, empty_store: Path) -> None:
    there = folder / "there"
    there.mkdir()
    shutil.copy(empty_store, there)
    earlier(there, {})
    warm = {"studies": ["old"], "tracking_uri": f"sqlite:///{there}/mlflow.db"}
    assert len(read_earlier(new_study(folder, warm_start=warm)).trials) == 1


@pytest.mark.parametrize("name", ["random", "qmc"])
def test_samplers_that_learn_nothing_refuse(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=rf"warm_start.studies: .* sampler {name} does not learn"):
        new_study(tmp_path, sampler={"name": name})


# In a search --------------------------------------------------------------------------------------


class Listener(Observer):
    def __init__(self) -> None:
        self.told: list[Sequence[str]] = []

    def on_warm_start(self, told: Sequence[str]) -> None:
        self.told.append(told)


def search(study: StudyConfig, listener: Listener, **options: Any) -> StudyResult:
    return run_study(study, "local", factory=ToyFactory(), observers=(listener,), **options)


def test_earlier_trials_are_none_of_the_searchs_own(folder: Path) -> None:
    best = {**METRICS, "natural_accuracy": 1.0, "verified_accuracy": 1.0, "inference_flops": 1.0}
    earlier(folder, {"metrics": best}, {"metrics": best})
    listener = Listener()
    result = search(new_study(folder), listener)
    assert [record.number for record in result.records] == [0, 1, 2, 3]
    assert {record.number for record in result.front} <= {0, 1, 2, 3}
    assert all(record.metrics["inference_flops"] > 1.0 for record in result.front)
    recorded = read_study("toy", tracking_uri=result.study.tracking.uri)
    assert [trial.number for trial in recorded.trials] == [0, 1, 2, 3]
    assert len(load_front("toy", tracking_uri=result.study.tracking.uri).candidates) == 4
    assert listener.told == [("warm start from old: the sampler knows 2 of its 2 trials",)]


def test_a_resumed_search_knows_the_same_trials_when_the_earlier_study_grew_or_vanished(
    folder: Path,
) -> None:
    old = earlier(folder, {}, {})
    study, listener = new_study(folder), Listener()
    first = search(study, listener)
    earlier(folder, {"params": {"optimizer.lr": 0.05}})  # one more search of that name
    more = new_study(folder, budget={"trials": 5, "epochs": 3})
    second = search(more, listener, resume=True)
    assert second.records[:4] == first.records
    client = MlflowClient(old.tracking.uri)
    for run_id in read_study("old", tracking_uri=old.tracking.uri, study_run="all").run_ids:
        client.delete_run(run_id)
    most = new_study(folder, budget={"trials": 6, "epochs": 3})
    third = search(most, listener, resume=True)
    assert third.records[:5] == second.records
    assert [record.number for record in third.records] == [0, 1, 2, 3, 4, 5]
    assert len(listener.told) == 1
    sampling = Sampling(most, third.run.folder)
    assert len(sampling.optuna_study.trials) == 2 + 6


def test_a_search_that_was_killed_while_it_added_them_adds_the_rest(folder: Path) -> None:
    earlier(folder, {}, {}, {})
    study = new_study(folder)
    found = read_earlier(study)
    half = Sampling(toy_study(folder), folder)
    half.optuna_study.add_trial(found.trials[0])
    del half
    sampling = Sampling(study, folder)
    assert len(sampling.optuna_study.trials) == 3
    assert sampling.warm_start == found.told
    assert sampling.ask()[0] == 0
    assert Sampling(study, folder).warm_start == ()


def test_rungs_and_records_have_the_searchs_own_numbers(folder: Path) -> None:
    earlier(folder, {}, {})
    before = Sampling(new_study(folder), folder)
    number, params = before.ask()
    before.note_rung(number, 1, (0.5,))
    after = Sampling(new_study(folder), folder)
    (record,) = after.history()
    assert (record.number, record.params, record.state) == (0, params, "interrupted")
    assert list(after.rung_views()) == [(0, 1, (0.5,))]
    assert after.ask()[0] == 1


def test_rungs_tell_the_sampler_of_the_searchs_own_trials(folder: Path) -> None:
    earlier(folder, {}, {})
    study = new_study(
        folder, scheduler={"name": "moasha", "variant": "promotion", "grace_epochs": 1}
    )
    before = Sampling(study, folder)
    for score in (0.1, 0.5, 0.3, 0.4, 0.2):
        before.note_rung(before.ask()[0], 1, (-score, -score, 1e6, 0.0))
    after = Sampling(study, folder).optuna_study
    assert isinstance(after.sampler, Tpe)
    good, bad = after.sampler.divide(after, after.trials)
    assert [trial.number for trial in good] == [3, 5]  # after two earlier ones
    assert len(bad) == 5


def test_a_search_may_start_from_earlier_searches_of_its_own_study(folder: Path) -> None:
    study = toy_study(folder, sampler={"name": "tpe"})
    listener = Listener()
    search(study, listener)
    again = search(
        toy_study(folder, sampler={"name": "tpe"}, warm_start={"studies": ["toy"]}), listener
    )
    assert listener.told == [("warm start from toy: the sampler knows 4 of its 4 trials",)]
    assert again.run.folder.name == "002"
    assert len(again.records) == 4


# What samplers make of them -----------------------------------------------------------------------


def ladder(number: int) -> dict[str, Any]:
    """Trials of which those with low densities are the better ones."""
    density = 0.1 + 0.03 * number
    metrics = {**METRICS, "natural_accuracy": 0.9 - density / 2, "verified_accuracy": 0.8 - density}
    metrics["inference_flops"] = 1e6 * density
    return {"params": {"topology.static.density": density}, "metrics": metrics}


def test_tpe_proposes_near_the_good_ones_from_its_first_trial_on(folder: Path) -> None:
    earlier(folder, *(ladder(number) for number in range(30)))
    sampling = Sampling(new_study(folder), folder)
    densities = []
    for _ in range(12):
        _, params = sampling.ask()
        densities += [value for name, value in params.items() if name.endswith("static.density")]
    assert len(densities) >= 6  # none of the others was ever a rigl
    assert sorted(densities)[len(densities) // 2] < 0.3


@pytest.mark.parametrize("name", ["nsga2", "nsga3"])
def test_genetic_samplers_have_them_as_the_first_generation(folder: Path, name: str) -> None:
    earlier(folder, *(ladder(number) for number in range(6)))
    study = new_study(folder, sampler={"name": name, "population_size": 4})
    sampling = Sampling(study, folder)
    number, params = sampling.ask()
    asked = sampling.optuna_study.trials[-1]
    sampler = sampling.optuna_study.sampler
    assert sampler.get_trial_generation(sampling.optuna_study, asked) == 1  # type: ignore[attr-defined]
    parents = sampler.get_parent_population(sampling.optuna_study, 1)  # type: ignore[attr-defined]
    densities = sorted(parent.params["topology.static.density"] for parent in parents)
    assert densities == pytest.approx([0.1, 0.13, 0.16, 0.19])
    assert number == 0
    assert params["topology.method"] in ("static", "rigl")


@pytest.mark.slow
def test_gp_learns_from_them(folder: Path) -> None:
    earlier(folder, *(ladder(number) for number in range(12)))
    space = {**LOW_DENSITY, "topology": {"method": "static", "density": {"low": 0.1, "high": 1.0}}}
    sampling = Sampling(new_study(folder, space=space, sampler={"name": "gp"}), folder)
    _, params = sampling.ask()
    assert set(params) == {"topology.static.density", "optimizer.lr"}
    assert len(sampling.optuna_study.trials) == 13


# Over the network ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(empty_store, folder)
    server = Server(folder)
    server.start()
    yield server
    server.kill()


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_the_earlier_study_may_be_on_a_server_that_is_gone_when_the_search_is_resumed(
    server: Server, folder: Path
) -> None:
    earlier(folder, {}, {}, tracking={"uri": server.uri})
    warm = {"studies": ["old"], "tracking_uri": server.uri}
    listener = Listener()
    first = search(new_study(folder, warm_start=warm), listener)
    server.kill()
    more = new_study(folder, warm_start=warm, budget={"trials": 5, "epochs": 3})
    second = search(more, listener, resume=True)
    assert second.records[:4] == first.records
    assert len(second.records) == 5
    assert listener.told == [("warm start from old: the sampler knows 2 of its 2 trials",)]
