"""The command line on a real search: what it prints, exports and certifies, and how it fails."""

import csv
import io
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cli_runs import TINY, Answer, run_in, write_study
from mlflow.tracking import MlflowClient

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store without experiments to copy: making one takes seconds."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@dataclass(frozen=True)
class Home:
    """A folder in which a search has been run, and what that search printed."""

    folder: Path
    searched: Answer

    def run(self, *words: str | Path) -> Answer:
        return run_in(self.folder, *words)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Home:
    folder = tmp_path_factory.mktemp("home")
    shutil.copy(empty_store, folder)
    write_study(folder)
    return Home(folder, run_in(folder, "search", "study.yaml", "--executor", "local"))


def test_a_search_may_learn_from_an_earlier_one(home: Home, tmp_path: Path) -> None:
    shutil.copy(home.folder / "mlflow.db", tmp_path)  # other tests count what home has
    write_study(tmp_path, name="next")
    words = ("search", "study.yaml", "--executor", "local", "--no-certify-front")
    answer = run_in(tmp_path, *words, "--trials", "1", "--warm-start", "tiny")
    assert answer.code == 0, answer.err
    assert answer.err.splitlines()[0] == (
        "warm start from tiny: the sampler knows 3 of its 3 trials"
    )
    assert "of 1 completed trials" in answer.out
    mistyped = run_in(tmp_path, *words, "--warm-start", "tiny", "--warm-start", "tinny")
    assert "no study is called 'tinny'" in mistyped.message
    assert "did you mean 'tiny'? it has: next, tiny" in mistyped.message
    assert [path.name for path in (tmp_path / "runs" / "next").iterdir()] == ["001"]
    nothing = run_in(tmp_path, *words, "--warm-start", "tiny", "--tracking-uri", "sqlite:///no.db")
    assert "there is no tracking store no.db" in nothing.message


@pytest.fixture
def ticket(home: Home, tmp_path: Path) -> Path:
    return Path(shutil.copytree(home.folder / "tickets" / "tiny", tmp_path / "ticket"))


# The main job -------------------------------------------------------------------------------------


def test_a_search_prints_the_front_and_exports_and_certifies_the_best(home: Home) -> None:
    answer = home.searched
    assert answer.code == 0, answer.err
    assert answer.out.startswith("Front of tiny: ")
    assert "of 3 completed trials (0 stopped early, 0 failed)" in answer.out
    assert "Best by rule 'verified': trial " in answer.out
    assert ", exported to tickets/tiny\n" in answer.out
    assert "Certificate: digits, test split, " in answer.out
    assert "goldenticket verify tickets/tiny --radius 0.05" in answer.out
    assert f"goldenticket report tiny --tracking-uri sqlite:///{home.folder}" in answer.out
    files = {path.name for path in (home.folder / "tickets" / "tiny").iterdir()}
    assert {"ticket.json", "ticket.safetensors", "model.onnx", "certificate.json"} <= files
    progress = [line for line in answer.err.splitlines() if " completed after 2 epochs" in line]
    assert [line.split("]")[0][:5] for line in progress] == ["[1/3 ", "[2/3 ", "[3/3 "]
    assert "Traceback" not in answer.err


def test_a_search_finds_exact_verdicts_on_its_front(home: Home) -> None:
    lines = [line for line in home.searched.err.splitlines() if ", exact " in line]
    members = json.loads(home.run("front", "study.yaml", "--format", "json").out)["members"]
    assert len(lines) == len(members)
    for member in members:
        metrics = member["metrics"]
        assert metrics["verified_accuracy"] <= metrics["exact_verified_accuracy"]
        assert member["exact"]["bound"] == "ibp+crown-ibp+crown+alpha-crown+exact"
    assert " exact " in home.run("front", "study.yaml").out.splitlines()[2]


def test_a_front_as_json_is_one_document_and_nothing_else(home: Home) -> None:
    answer = home.run("front", "study.yaml", "--format", "json")
    document = json.loads(answer.out)
    assert answer.err == ""
    assert document["study"] == "tiny"
    assert document["members"]
    assert list(document["objectives"]) == [
        "natural_accuracy", "verified_accuracy", "inference_flops",
    ]  # fmt: skip


def test_a_front_as_csv_has_the_members_of_the_json(home: Home) -> None:
    rows = list(csv.DictReader(io.StringIO(home.run("front", "study.yaml", "--format", "csv").out)))
    members = json.loads(home.run("front", "study.yaml", "--format", "json").out)["members"]
    assert [row["run_id"] for row in rows] == [member["run_id"] for member in members]
    for row, member in zip(rows, members, strict=True):
        assert float(row["density"]) == member["metrics"]["density"]


def test_a_front_as_a_table_goes_to_standard_output(home: Home) -> None:
    answer = home.run("front", "study.yaml", "--where", "natural_accuracy >= 0.01")
    assert answer.out.startswith("Front of tiny: ")
    assert answer.err == ""


def test_a_rule_picks_one_trial(home: Home) -> None:
    full = json.loads(home.run("front", "study.yaml", "--format", "json").out)["members"]
    picked = home.run("front", "study.yaml", "--best", "smallest", "--format", "json")
    (best,) = json.loads(picked.out)["members"]
    fewest = min(member["metrics"]["inference_flops"] for member in full)
    assert best["metrics"]["inference_flops"] == fewest


def test_a_front_is_drawn_beside_what_is_printed(home: Home, tmp_path: Path) -> None:
    path = tmp_path / "front [b].png"
    answer = home.run("front", "study.yaml", "--format", "json", "--plot", path)
    assert path.read_bytes().startswith(b"\x89PNG\r\n")
    json.loads(answer.out)
    assert answer.err == f"drawn: {path}\n"


def test_several_studies_make_one_front(home: Home, tmp_path: Path) -> None:
    shutil.copy(home.folder / "mlflow.db", tmp_path)  # other tests count what home has
    write_study(tmp_path, name="next", seed=1)
    words = "search study.yaml --executor local --no-certify-front --trials 1"
    assert run_in(tmp_path, *words.split()).code == 0
    store = f"sqlite:///{tmp_path}/mlflow.db"
    both = ("tiny", "study.yaml", "--tracking-uri", store)
    front = json.loads(run_in(tmp_path, "front", *both, "--format", "json").out)
    assert [study["study"] for study in front["studies"]] == ["tiny", "next"]
    assert front["num_completed"] == 3 + 1
    answer = run_in(tmp_path, "front", *both, "--group-seeds", "--plot", "front.html")
    assert "no configuration has completed with more than one seed" in answer.out
    assert (tmp_path / "front.html").exists()
    picked = run_in(tmp_path, "front", *both, "--best", "smallest", "--format", "json")
    answer = run_in(tmp_path, "export", *both, "--best", "smallest", "--no-onnx", "--to", "T")
    assert answer.out == "T\n"
    manifest = json.loads((tmp_path / "T" / "ticket.json").read_text())
    (member,) = json.loads(picked.out)["members"]
    flops = manifest["metrics"]["inference_flops"]
    assert flops == member["metrics"]["inference_flops"]


def test_a_front_is_thinned_and_measured(home: Home) -> None:
    every = "natural_accuracy=1,verified_accuracy=1,inference_flops=0"
    answer = home.run("front", "study.yaml", "--epsilon", every, "--format", "json")
    front = json.loads(answer.out)
    assert len(front["members"]) == 1
    point = "natural_accuracy=0, verified_accuracy_at_0.05=0, inference_flops=1e6"
    front = json.loads(
        home.run("front", "study.yaml", "--reference", point, "--format", "json").out
    )
    assert front["hypervolume"]["reference"]["verified_accuracy"] == 0.0
    assert front["hypervolume"]["value"] > 0.0
    assert "hypervolume " in home.run("front", "study.yaml", "--reference", point).out


def test_a_report_is_one_page_that_is_kept_with_the_study(home: Home, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    answer = home.run("report", "study.yaml", "--to", page, "--ticket", "tickets/tiny")
    assert answer.code == 0, answer.err
    assert answer.out == f"{page}\n"
    assert "under report/" in answer.err
    text = page.read_text()
    assert "goldenticket verify tickets/tiny --split test" in text
    assert "On the first " in text


def test_a_study_is_found_by_its_name_too(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    store = f"sqlite:///{home.folder}/mlflow.db"
    by_file = home.run("front", "study.yaml", "--format", "csv")
    assert home.run("front", "tiny", "--tracking-uri", store, "--format", "csv") == by_file
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    assert home.run("front", "tiny", "--format", "csv") == by_file


def test_an_exported_ticket_is_verified_from_its_folder_alone(home: Home, tmp_path: Path) -> None:
    folder = tmp_path / "my [b] ticket"
    exported = home.run("export", "study.yaml", "--best", "knee", "--to", folder)
    assert (exported.code, exported.out) == (0, f"{folder}\n")
    assert exported.err.endswith(f"next: goldenticket verify '{folder}'\n")
    title, _, heading, _, row, *_ = exported.err.splitlines()
    assert (title, row.split()[0]) == ("Exports", "model.onnx")
    assert heading.split()[:4] == ["files", "size", "xz", "1"]
    answer = run_in(tmp_path, "verify", folder, "--examples", "10", "--format", "json")
    document = json.loads(answer.out)
    assert (answer.code, answer.err) == (0, "")
    assert document["num_examples"] == 10
    assert document["split"] == "test"
    assert [row["radius"] for row in document["summary"]] == [0.05]
    assert json.loads((folder / "certificate.json").read_text()) == document


def test_a_ticket_is_grafted_and_the_new_one_verified(ticket: Path) -> None:
    words = "graft ticket --fraction 0.5 --epochs 1 --to new --granularity channel --lr 0.001"
    answer = run_in(ticket.parent, *words.split())
    assert (answer.code, answer.err) == (0, "next: goldenticket verify new\n")
    title, _, heading, _, before, after, _, caption = answer.out.splitlines()
    assert title == "Grafted: new"
    assert heading.split() == ["ticket", "natural", "verified", "unstable", "ReLUs", "lines"]
    assert (before.split()[0], before.split()[-1]) == ("before", "0")
    assert (after.split()[0], after.split()[-1]) == ("after", "8")
    assert caption.startswith("validation split, 20 examples  ·  radius 0.05 (l∞)  ·  verified by ")
    assert (ticket.parent / "new" / "model.onnx").exists()
    assert run_in(ticket.parent, "verify", "new", "--examples", "5").code == 0
    as_json = run_in(ticket.parent, *words.split(), "--format", "json", "--no-onnx")
    assert json.loads(as_json.out)["after"]["num_grafted_units"] == 8


def test_what_cannot_be_grafted_is_told(ticket: Path) -> None:
    for words, message in (
        ("nowhere --fraction 0.5 --epochs 1 --to new", "nowhere does not exist"),
        ("ticket --fraction 1.5 --epochs 1 --to new", "fraction: 1.5 must be"),
        ("ticket --fraction 0.5 --epochs 0 --to new", "epochs: 0 must be"),
        ("ticket --fraction 0.5 --epochs 1 --to .", "is not a ticket"),
    ):
        assert message in run_in(ticket.parent, "graft", *words.split()).message


def test_every_option_of_verify_reaches_the_certificate(ticket: Path) -> None:
    options = "--radius 0.01 --radius 0.2 --examples 7 --split validation --methods ibp,crown"
    words = [*options.split(), "--timeout", "30", "--budget", "300", "--workers", "1"]
    table = run_in(ticket.parent, "verify", "ticket", *words)
    assert table.out.startswith("Certificate: digits, validation split, 7 examples\n")
    document = json.loads((ticket / "certificate.json").read_text())
    assert [row["radius"] for row in document["results"]] == [0.01, 0.2]
    assert document["bound"] == "ibp+crown"
    assert (document["timeout_s"], document["budget_s"], document["workers"]) == (30.0, 300.0, 1)


def test_certified_radii_are_printed_written_and_drawn(ticket: Path) -> None:
    words = "--examples 7 --certified-radius 0.1 --tolerance 0.05 --plot curve.png".split()
    answer = run_in(ticket.parent, "verify", "ticket", *words)
    assert answer.out.startswith("Certificate: digits, test split, 7 examples\n")
    assert "Certified radius: " in answer.out
    assert answer.err == "drawn: curve.png\n"
    assert (ticket.parent / "curve.png").read_bytes().startswith(b"\x89PNG\r\n")
    document = json.loads((ticket / "certificate.json").read_text())
    assert document["certified_radius"]["largest"] == 0.1
    assert len(document["certified_radius"]["verified"]) == 7


def test_no_example_is_verified_without_time(ticket: Path) -> None:
    answer = run_in(
        ticket.parent, "verify", "ticket", "--timeout", "0", "--format", "json", "--examples", "9"
    )
    assert answer.code == 0
    (result,) = json.loads(answer.out)["results"]
    assert result["num_verified"] == 0
    assert result["num_unknown"] + result["num_misclassified"] == 9


def test_a_ticket_is_exported_by_the_beginning_of_a_run_id(home: Home, tmp_path: Path) -> None:
    members = json.loads(home.run("front", "study.yaml", "--format", "json").out)["members"]
    words = ["--run", members[0]["run_id"][:12], "--to", tmp_path / "ticket", "--no-onnx"]
    answer = home.run("export", "study.yaml", *words)
    assert answer.code == 0, answer.err
    assert {path.name for path in (tmp_path / "ticket").iterdir()} == {
        "ticket.json",
        "ticket.safetensors",
    }


def test_what_an_older_ticket_had_besides_is_told(home: Home, tmp_path: Path) -> None:
    words = ["export", "tiny", "--best", "knee", "--to", tmp_path / "ticket"]
    assert "note:" not in home.run(*words).err
    answer = home.run(*words, "--no-onnx")
    assert f"note: model.onnx of the older ticket in {tmp_path / 'ticket'} is gone" in answer.err


def test_a_folder_that_is_no_tickets_is_told(home: Home, tmp_path: Path) -> None:
    words = ["--to", tmp_path / "new"]
    assert f"{tmp_path} is a folder, but not of" in home.run("export", tmp_path, *words).message
    nowhere = tmp_path / "typo"
    assert f"no folder {nowhere}" in home.run("export", nowhere, *words).message


@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        (["--register", "a/b"], "a model cannot be called 'a/b'"),
        (["--register", "net", "--no-onnx"], "--register takes model.onnx or compact.onnx"),
    ],
)
def test_what_cannot_be_registered_is_told_before_anything_is_written(
    home: Home, tmp_path: Path, words: list[str], fragment: str
) -> None:
    answer = home.run("export", "tiny", "--best", "knee", "--to", tmp_path / "ticket", *words)
    assert fragment in answer.message
    assert not (tmp_path / "ticket").exists()


def test_the_address_of_the_store_can_be_given(tmp_path: Path, empty_store: Path) -> None:
    write_study(tmp_path)
    shutil.copy(empty_store, tmp_path / "other.db")
    words = "search study.yaml --executor local --tracking-uri sqlite:///other.db --trials 1"
    answer = run_in(tmp_path, *words.split(), "--output", "my [b] output", "--no-certify-front")
    assert answer.code == 0, answer.err
    assert ", exact " not in answer.err
    assert len(recorded_trials(tmp_path / "other.db")) == 1
    assert not (tmp_path / "mlflow.db").exists()
    assert (tmp_path / "my [b] output" / "tiny" / "certificate.json").exists()
    assert "exported to my [b] output/tiny\n" in answer.out
    assert "goldenticket verify 'my [b] output/tiny'" in answer.out


def test_a_resumed_search_adds_what_is_missing(home: Home) -> None:
    store = home.folder / "mlflow.db"
    before = recorded_trials(store)
    words = "search study.yaml --executor local --resume --trials 4"
    answer = home.run(*words.split())
    assert answer.code == 0, answer.err
    after = recorded_trials(store)
    assert [run.info.run_id for run in after[:-1]] == [run.info.run_id for run in before]
    assert len(after) == 4
    assert "4 trials, 3 of them done before" in answer.err
    assert answer.err.count(" completed after 2 epochs") == 1
    assert "of 4 completed trials" in answer.out


# Wrong questions and damaged tickets --------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "fragments"),
    [
        ("front tinny", ["no study is called 'tinny'", "did you mean 'tiny'?"]),
        ("export tinny --best knee --to T", ["no study is called 'tinny'"]),
        ("front tiny --best smalest", ["'smalest'", "verified, natural, smallest or knee"]),
        ("export tiny --best smalest --to T", ["'smalest'", "verified, natural, smallest or knee"]),
        ("export tiny --to T", ["--run", "--best"]),
        ("export tiny --run 123 --best knee --to T", ["--run", "--best"]),
        ("export tiny --run xyz --to T", ["no run 'xyz'"]),
        ("front tiny --where verified_accuracy>=much", ["'much'", "finite number"]),
        ("front tiny --where accuracy>=0.5", ["'accuracy'"]),
        ("front tiny --where density==0.5", ["'density==0.5'", ">=, <=, > or <"]),
        ("front tiny --where natural_accuracy>1", ["nearest is trial", "misses by"]),
        ("front tiny --objectives density,latency", ["'latency'"]),
        ("front tiny --objectives ,", ["has an empty name"]),
        ("front tiny tiny", ["'tiny' is named twice"]),
        ("front tiny tinny", ["no study is called 'tinny'"]),
        ("export tiny tiny --best knee --to T", ["'tiny' is named twice"]),
        ("front tiny --study-run 7", ["no search with run id '7'", "newest, all"]),
        ("front tiny --objectives duration_s,exact_verified_accuracy,latency", ["'latency'"]),
        ("front tiny --objectives verified_accuracy_at_0.3", ["is at 0.05", "evaluation.radii"]),
        ("front tiny --epsilon density", ["--epsilon: 'density' is not NAME=VALUE"]),
        ("front tiny --epsilon density=", ["--epsilon: 'density=' is not NAME=VALUE"]),
        ("front tiny --epsilon densty=1", ["'densty'", "did you mean density"]),
        ("front tiny --epsilon density=1", ["epsilon names density", "no objective"]),
        ("front tiny --epsilon natural_accuracy=few", ["natural_accuracy: 'few'", "5%"]),
        ("front tiny --epsilon natural_accuracy=-1%", ["natural_accuracy: '-1%'", "negative"]),
        ("front tiny --reference natural_accuracy=1", ["no value for verified_accuracy, inf"]),
        ("front tiny --reference natural_accuracy=50%", ["natural_accuracy=50%", "50 % is 0.5"]),
        ("front tiny --reference natural_accuracy=.5,natural_accuracy=.5", ["appears twice"]),
        ("front tiny --best knee --reference density=1", ["--reference", "--best"]),
        ("front tiny --plot front.pdf", ["front.pdf", ".png or .html"]),
        ("front tiny --plot no/such/folder/front.png", ["no/such/folder"]),
        ("report tinny --to report.html", ["no study is called 'tinny'"]),
        ("report tiny --to report.pdf", ["report.pdf", "must end in .html"]),
        ("report tiny --to no/such/folder/r.html", ["there is no folder no/such/folder"]),
        ("report tiny --to r.html --run 123 --best knee", ["--run and --best each name a ticket"]),
        ("report tiny --to r.html --best smalest", ["'smalest'"]),
        ("report tiny --to r.html --ticket nowhere", ["nowhere does not exist"]),
    ],
)
def test_wrong_questions(home: Home, words: str, fragments: list[str]) -> None:
    store = f"sqlite:///{home.folder}/mlflow.db"
    answer = home.run(*words.split(), "--tracking-uri", store)
    assert all(fragment in answer.message for fragment in fragments), answer
    assert answer.out == ""
    assert not (home.folder / "T").exists()


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def claim_more(path: Path) -> None:
    manifest = json.loads(path.read_text())
    manifest["metrics"]["verified_accuracy"] = 1.0
    path.write_text(json.dumps(manifest))


DAMAGES: Mapping[str, tuple[str, Callable[[Path], Any], str]] = {
    "weights flipped": ("ticket.safetensors", flip_a_byte, "was changed: its sha256 is"),
    "weights cut": ("ticket.safetensors", lambda p: p.write_bytes(b""), "was changed"),
    "weights missing": ("ticket.safetensors", Path.unlink, "cannot be read"),
    "network flipped": ("model.onnx", flip_a_byte, "was changed: its sha256 is"),
    "manifest edited": ("ticket.json", claim_more, "was changed after it was written"),
    "manifest cut": ("ticket.json", lambda p: p.write_text("{"), "is not JSON"),
    "manifest missing": ("ticket.json", Path.unlink, "has no ticket.json"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_ticket_is_not_certified(ticket: Path, damage: str) -> None:
    name, harm, rule = DAMAGES[damage]
    certificate = (ticket / "certificate.json").read_bytes()
    harm(ticket / name)
    answer = run_in(ticket.parent, "verify", "ticket", "--examples", "5")
    assert rule in answer.message
    assert name in answer.message
    assert answer.out == ""
    assert (ticket / "certificate.json").read_bytes() == certificate


@pytest.mark.parametrize(
    ("words", "fragments"),
    [
        ("nowhere", ["nowhere does not exist"]),
        ("ticket --methods ibp,magic", ["magic", "crown-ibp"]),
        ("ticket --radius -0.1", ["radius", "-0.1", "(0, 1]"]),
        ("ticket --radius nan", ["radius", "nan", "(0, 1]"]),
        ("ticket --examples 0", ["examples", "0"]),
        ("ticket --timeout -1", ["timeout", "-1"]),
        ("ticket --timeout nan", ["timeout", "nan"]),
        ("ticket --budget -1", ["budget", "-1"]),
        ("ticket --workers 0", ["workers is 0", "at least 1"]),
        ("ticket --certified-radius 0", ["certified_radius is 0", "(0, 1]"]),
        ("ticket --certified-radius 0.1 --tolerance 0.2", ["tolerance is 0.2", "0.1"]),
        ("ticket --tolerance 0.2", ["tolerance is 0.2", "certified_radius"]),
        ("ticket --plot curve.png", ["curve.png", "--certified-radius"]),
        ("ticket --certified-radius 0.1 --plot curve.pdf", ["curve.pdf", ".png or .html"]),
    ],
)
def test_wrong_options_of_verify(ticket: Path, words: str, fragments: list[str]) -> None:
    message = run_in(ticket.parent, "verify", *words.split()).message
    assert all(fragment in message for fragment in fragments), message


# Work that fails ----------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["natural", "ibp"])
def test_when_every_trial_diverges_nothing_is_lost(
    tmp_path: Path, empty_store: Path, loss: str
) -> None:
    shutil.copy(empty_store, tmp_path)
    optimizer = {"name": "sgd", "lr": 10, "weight_decay": 1.0}
    space = {**TINY["space"], "loss": {"name": loss}, "optimizer": optimizer, "batch_size": 16}
    write_study(tmp_path, space=space, budget={"trials": 2, "epochs": 2})
    answer = run_in(tmp_path, "search", "study.yaml", "--executor", "local")
    assert answer.code == 1
    assert answer.out == ""
    assert "Traceback" not in answer.err
    for number in (0, 1):
        (line,) = [line for line in answer.err.splitlines() if f" trial {number} (" in line]
        assert "failed after" in line
        assert "became nan" in line
    assert "error: none of the 2 trials of study 'tiny' completed" in answer.err.splitlines()[-1]
    runs = recorded_trials(tmp_path / "mlflow.db")
    assert [run.data.tags["goldenticket.state"] for run in runs] == ["failed", "failed"]
    assert all("became nan" in run.data.tags["goldenticket.reason"] for run in runs)
    front = run_in(tmp_path, "front", "study.yaml")
    assert "no completed trial yet (2 recorded: 0 stopped early, 2 failed" in front.message


def test_constraints_that_no_trial_satisfies(tmp_path: Path, empty_store: Path) -> None:
    shutil.copy(empty_store, tmp_path)
    constraints = ["natural_accuracy >= 0.999", "density <= 0.001"]
    write_study(tmp_path, constraints=constraints, budget={"trials": 2, "epochs": 1})
    answer = run_in(tmp_path, "search", "study.yaml", "--executor", "local")
    assert answer.code == 1
    assert answer.out.startswith(
        "No trial satisfies the study's constraints; without them:\nFront of tiny"
    )
    assert "of 2 completed trials" in answer.out
    assert "Traceback" not in answer.err
    message = answer.err.splitlines()[-1]
    assert message.startswith("error: no ticket is exported: none of the 2 completed trials")
    assert "The nearest is trial" in message
    assert not (tmp_path / "tickets").exists()


def recorded_trials(store: Path) -> list[Any]:
    """The runs of trials in a store, by number."""
    client = MlflowClient(f"sqlite:///{store}")
    experiment = client.get_experiment_by_name("goldenticket")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    trials = [run for run in runs if "goldenticket.number" in run.data.tags]
    return sorted(trials, key=lambda run: int(run.data.tags["goldenticket.number"]))
