"""Exact verdicts in a certificate: what it rests on, limits of time, and earlier certificates."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from analysis import judge
from analysis.certificate import verify_ticket
from analysis.errors import TicketError
from analysis.manifest import digest
from analysis.ticket import Ticket, save_ticket
from trainers.errors import UnsupportedLayer, VerificationError
from trainers.verify import SecondOpinion

N = 60


@pytest.fixture
def folder(ticket: Ticket, tmp_path: Path) -> Path:
    return save_ticket(ticket, tmp_path / "ticket")


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Forge the certificate of a folder, seal and all."""
    path = folder / "certificate.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps({**document, "digest": digest(document)}))


def test_verdicts_are_exact_by_default(folder: Path) -> None:
    (result,) = verify_ticket(folder, radii=[0.1], examples=N).results
    assert set(result.verdicts) == {"verified", "falsified", "misclassified"}
    assert result.verified_accuracy == result.falsified_accuracy_bound


def test_each_step_says_what_it_decided(folder: Path) -> None:
    (result,) = verify_ticket(folder, radii=[0.1], examples=N, methods=["ibp", "exact"]).results
    steps = {step.name: step for step in result.steps}
    assert list(steps) == ["natural", "ibp", "pgd", "exact"]
    assert steps["natural"].num_examples == N
    for before, after in zip(result.steps, result.steps[1:], strict=False):
        assert after.num_examples == before.num_examples - before.num_decided
    assert sum(step.num_decided for step in result.steps) == N
    assert result.open_relus is not None
    assert result.open_relus.num_examples == steps["exact"].num_examples
    assert 0 <= result.open_relus.median <= result.open_relus.largest <= 8  # the ReLUs there are


def test_what_is_known_at_one_radius_is_not_asked_at_another(folder: Path) -> None:
    small, large = verify_ticket(folder, radii=[0.01, 0.02], examples=N).results
    known = small.decided_by.get("larger radius", 0)
    assert known == large.num_verified  # all that the larger one had verified
    assert f"| 0.01 | follows from a larger radius | {known} |" in page(folder)


def page(folder: Path) -> str:
    return (folder / "certificate.md").read_text()


def test_without_time_nothing_is_verified_and_the_certificate_says_so(folder: Path) -> None:
    certificate = verify_ticket(
        folder, radii=[0.02], examples=N, timeout_s=float("inf"), budget_s=0.0
    )
    (result,) = certificate.results
    assert set(result.verdicts) == {"unknown", "misclassified"}
    assert result.num_timeouts == result.num_unknown > 0
    assert (certificate.timeout_s, certificate.budget_s) == (None, 0.0)
    assert "no limit for each example at a radius, 0 s for everything" in page(folder)


# Earlier certificates -----------------------------------------------------------------------------


def test_more_time_may_decide_more_but_not_otherwise(folder: Path) -> None:
    verify_ticket(folder, radii=[0.02], examples=N, budget_s=0.0)
    (result,) = verify_ticket(folder, radii=[0.02], examples=N).results
    assert result.num_unknown == 0
    verify_ticket(folder, radii=[0.02], examples=N, budget_s=0.0)  # and the other way round


def test_a_figure_that_time_does_not_explain_is_an_error(folder: Path) -> None:
    def hide_two(document: dict[str, Any]) -> None:
        (result,) = document["results"]
        result["verified_accuracy"] -= 2 / N

    verify_ticket(folder, radii=[0.02], examples=N)
    edit(folder, hide_two)
    with pytest.raises(TicketError, match=r"certificate\.json claims verified_accuracy"):
        verify_ticket(folder, radii=[0.02], examples=N)


@pytest.mark.parametrize(
    ("old", "new", "question"),
    [
        ("falsified", "verified", {}),
        ("verified", "falsified", {}),
        ("misclassified", "verified", {}),
        ("verified", "misclassified", {}),
        # Whatever else was asked: a proof is a proof.
        ("falsified", "verified", {"methods": ["ibp"], "examples": N - 1, "radii": [0.01, 0.1]}),
    ],
)
def test_a_proof_that_a_counterexample_refutes_names_both(
    folder: Path, old: str, new: str, question: dict[str, Any]
) -> None:
    verify_ticket(folder, radii=[0.1], examples=N)
    changed = []

    def forge(document: dict[str, Any]) -> None:
        verdicts = document["results"][0]["verdicts"]
        changed.append(verdicts.index(old))
        verdicts[changed[0]] = new

    edit(folder, forge)
    before = (folder / "certificate.json").read_bytes()
    with pytest.raises(TicketError) as caught:
        verify_ticket(folder, **{"radii": [0.1], "examples": N, **question})
    words = str(caught.value)
    at = {name: name if name == "misclassified" else f"{name} at radius 0.1" for name in (old, new)}
    assert (
        f"certificate.json says that example {changed[0]} of the test split is {at[new]}" in words
    )
    assert f"now it is {at[old]}" in words
    assert (folder / "certificate.json").read_bytes() == before


def test_a_proof_at_a_larger_radius_is_one_at_each_smaller_one(folder: Path) -> None:
    verify_ticket(folder, radii=[0.1], examples=N)

    def forge(document: dict[str, Any]) -> None:
        result = document["results"][0]
        result["verdicts"] = ["verified" if v == "falsified" else v for v in result["verdicts"]]

    edit(folder, forge)
    with pytest.raises(TicketError, match="verified at radius 0.1, but now it is falsified at"):
        verify_ticket(folder, radii=[0.05], examples=N)


def test_certificates_of_the_first_schema_are_read(folder: Path) -> None:
    verify_ticket(folder, radii=[0.02], examples=N)

    def age(document: dict[str, Any]) -> None:
        document["schema_version"] = 1
        for key in ("budget_s", "workers", "tolerances", "second_opinion", "own_figures",
                    "certified_radius"):  # fmt: skip
            del document[key]
        for result in document["results"]:
            del result["steps"], result["open_relus"]
            result["verified_accuracy"] -= 0.1  # bounds were looser

    edit(folder, age)
    verify_ticket(folder, radii=[0.02], examples=N)
    edit(folder, age)
    edit(folder, lambda d: d["results"][0].update(verdicts=["verified"] * N))
    with pytest.raises(TicketError, match="is verified at radius 0.02, but now it is"):
        verify_ticket(folder, radii=[0.02], examples=N)


def test_a_certificate_of_a_later_schema_is_not_read(folder: Path) -> None:
    verify_ticket(folder, radii=[0.02], examples=5)
    edit(folder, lambda document: document.update(schema_version=4))
    with pytest.raises(TicketError, match=r"schema_version is 4.*delete it, and verify again"):
        verify_ticket(folder, radii=[0.02], examples=5)


def test_a_certificate_of_another_ticket_is_replaced(folder: Path) -> None:
    verify_ticket(folder, radii=[0.02], examples=N)
    edit(folder, lambda d: d["results"][0].update(verdicts=["verified"] * N))
    edit(folder, lambda document: document.update(ticket_digest="0" * 64))
    assert verify_ticket(folder, radii=[0.02], examples=N).results[0].num_misclassified > 0


# What the ticket says of itself -------------------------------------------------------------------


def test_a_trial_short_of_time_may_have_verified_fewer_by_its_timeouts(
    ticket: Ticket, tmp_path: Path
) -> None:
    def claiming(num_fewer: int, num_timeouts: int) -> Path:
        share = ticket.metrics["verified_accuracy"] - num_fewer / 100
        metrics = {**ticket.metrics, "verified_accuracy": share}
        told = ticket.provenance.model_copy(update={"num_timeouts": num_timeouts})
        place = tmp_path / f"{num_fewer}-{num_timeouts}"
        return save_ticket(replace(ticket, metrics=metrics, provenance=told), place)

    own = verify_ticket(claiming(3, 2), examples=5).own_figures
    assert own is not None
    assert own.verified_accuracy == ticket.metrics["verified_accuracy"]
    with pytest.raises(TicketError, match=r"ticket\.json claims verified_accuracy"):
        verify_ticket(claiming(3, 1), examples=5)  # two that neither rounding nor time explains


# The second opinion -------------------------------------------------------------------------------


def test_bounds_are_compared_with_auto_lirpa(folder: Path) -> None:
    opinion = verify_ticket(folder, examples=10).second_opinion
    assert opinion is not None
    assert (opinion.num_examples, opinion.radius, opinion.reason) == (4, 0.05, None)
    assert opinion.largest_difference < 1e-9


def test_bounds_that_differ_certify_nothing(folder: Path, monkeypatch) -> None:
    def differs(*arguments: Any) -> SecondOpinion:
        raise VerificationError("crown-ibp bounds of example 0 are 1 by our own code")

    monkeypatch.setattr(judge, "second_opinion", differs)
    with pytest.raises(VerificationError, match="by our own code"):
        verify_ticket(folder, examples=10)
    assert not (folder / "certificate.json").exists()


def test_why_bounds_could_not_be_compared_is_told(folder: Path, monkeypatch) -> None:
    none = SecondOpinion(0, 0.0, "UnsupportedLayer: Conv2d at 0")
    monkeypatch.setattr(judge, "second_opinion", lambda *arguments: none)
    opinion = verify_ticket(folder, radii=[0.02], examples=10).second_opinion
    assert opinion is not None and opinion.reason == none.reason
    assert "could not be compared with auto_LiRPA's: UnsupportedLayer: Conv2d at 0" in page(folder)


# Certified radii ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_certified_radii_and_their_curve(folder: Path) -> None:
    certificate = verify_ticket(folder, radii=[0.1], examples=N, certified_radius=0.2)
    radii, (result,) = certificate.certified_radius, certificate.results
    assert radii is not None
    assert radii.tolerance == 0.2 / 64
    for i, verdict in enumerate(result.verdicts):
        safe, distance = radii.verified[i], radii.falsified[i]
        if verdict == "misclassified":
            assert (safe, distance) == (None, 0.0)
            continue
        assert safe is not None and 0.0 <= safe <= 0.2
        assert (safe >= 0.1) == (verdict == "verified")
        if distance is not None:  # exact: the two meet
            assert safe < distance <= safe + 2 * radii.tolerance
    assert radii.mean == pytest.approx(sum(r or 0.0 for r in radii.verified) / N)
    radii_, verified, upper = zip(*radii.curve, strict=True)
    assert len(radii.curve) == 17 and (radii_[0], radii_[8], radii_[16]) == (0.0, 0.1, 0.2)
    assert verified[0] == upper[0] == result.natural_accuracy
    assert verified[8] == result.verified_accuracy
    assert list(verified) == sorted(verified, reverse=True)
    assert all(v <= u for v, u in zip(verified, upper, strict=True))
    assert f"Mean over the examples: {radii.mean:.4g}" in page(folder)
    assert f"| 0.1 | {100 * verified[8]:.1f} % |" in page(folder)


def test_a_certified_radius_that_a_later_counterexample_refutes_is_an_error(folder: Path) -> None:
    verify_ticket(folder, radii=[0.1], examples=N, certified_radius=0.2, tolerance=0.1)

    def boast(document: dict[str, Any]) -> None:
        radii = document["certified_radius"]["verified"]
        document["certified_radius"]["verified"] = [None if r is None else 0.2 for r in radii]
        document["certified_radius"]["falsified"] = [None] * N
        document["results"] = []

    edit(folder, boast)
    with pytest.raises(TicketError, match=r"verified at radius 0\.2, but now it is falsified at"):
        verify_ticket(folder, radii=[0.1], examples=N)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"certified_radius": 0.0}, r"certified_radius is 0.0: it must be in \(0, 1\]"),
        ({"certified_radius": float("nan")}, "certified_radius is nan"),
        ({"certified_radius": 0.1, "tolerance": 0.0}, "tolerance is 0.0: it must be greater"),
        ({"certified_radius": 0.1, "tolerance": 0.2}, r"at most certified_radius \(0.1\)"),
        ({"tolerance": 0.1}, "tolerance is 0.1: it is of certified_radius"),
        ({"budget_s": -1.0}, "budget_s is -1"),
        ({"workers": 0}, "workers is 0: it must be at least 1"),
        ({"methods": "ibp"}, "methods is the text 'ibp'"),
        ({"methods": []}, "asks for nothing"),
    ],
)
def test_wrong_limits_are_told_before_any_work(folder: Path, monkeypatch, options, words) -> None:
    monkeypatch.setattr(judge, "load_data", None)
    with pytest.raises(ValueError, match=words):
        verify_ticket(folder, **options)


def test_a_layer_without_bounds_is_named_before_any_work(
    ticket: Ticket, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(judge, "load_data", None)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Tanh())
    monkeypatch.setattr(Ticket, "model", lambda self: model)
    folder = save_ticket(ticket, tmp_path / "t")
    with pytest.raises(UnsupportedLayer, match="Tanh"):
        verify_ticket(folder)
    assert torch.get_default_dtype() == torch.float32
