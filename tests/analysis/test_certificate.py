"""What verify_ticket checks, writes and refuses."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from analysis.certificate import Certificate, verify_ticket, wilson
from analysis.errors import CertificateKept, TicketError
from analysis.exports import add_exports
from analysis.manifest import Provenance, digest, read_manifest, sha256
from analysis.ticket import Ticket, load_ticket, save_ticket
from trainers.data import load_data

ALL = {"verified", "falsified", "unknown", "misclassified"}


@pytest.fixture
def folder(ticket: Ticket, tmp_path: Path) -> Path:
    return save_ticket(ticket, tmp_path / "ticket")


def test_the_certificate_has_a_verdict_for_each_example_at_each_radius(folder: Path) -> None:
    certificate = verify_ticket(folder, examples=40)
    assert [result.radius for result in certificate.results] == [0.05, 0.01]
    for result in certificate.results:
        assert len(result.verdicts) == len(result.method) == 40
        assert set(result.verdicts) <= ALL
        counts = {verdict: result.verdicts.count(verdict) for verdict in ALL}
        assert result.num_verified == counts["verified"]
        assert result.num_falsified == counts["falsified"]
        assert result.num_unknown == counts["unknown"]
        assert result.num_misclassified == counts["misclassified"]
        assert result.verified_accuracy == counts["verified"] / 40
        assert result.natural_accuracy == 1 - counts["misclassified"] / 40
        assert sum(result.decided_by.values()) == 40


def test_misclassified_examples_are_those_the_network_gets_wrong(folder: Path) -> None:
    certificate = verify_ticket(folder, radii=[0.01], examples=40)
    ticket = load_ticket(folder)
    test = load_data(ticket.config.data, "cpu").test
    wrong = ticket.model()(test.x[:40]).argmax(1) != test.y[:40]
    found = [verdict == "misclassified" for verdict in certificate.results[0].verdicts]
    assert found == wrong.tolist()


def test_a_smaller_radius_verifies_no_fewer(folder: Path) -> None:
    small, large = verify_ticket(folder, radii=[1e-4, 0.05], examples=40).results
    assert small.num_verified >= large.num_verified
    assert small.num_verified > 0


def test_the_folder_gets_both_files_and_stays_a_sound_ticket(folder: Path) -> None:
    before = load_ticket(folder).digest
    certificate = verify_ticket(folder, radii=[1e-6], examples=10)
    assert sorted(os.listdir(folder)) == [
        "certificate.json",
        "certificate.md",
        "ticket.json",
        "ticket.safetensors",
    ]
    assert load_ticket(folder).digest == before == certificate.ticket_digest


def test_every_falsified_example_has_a_counterexample_that_can_be_replayed(folder: Path) -> None:
    certificate = verify_ticket(folder, radii=[0.3, 0.01], examples=40)
    path = folder / "counterexamples.safetensors"
    assert sha256(path.read_bytes()) == certificate.counterexamples
    ticket = load_ticket(folder)
    test = load_data(ticket.config.data, "cpu").test
    tensors = safetensors.torch.load_file(path)
    assert len(tensors) == sum(result.num_falsified for result in certificate.results) > 0
    for key, x in tensors.items():
        radius, index = float(key.split("/")[0]), int(key.split("/")[1])
        assert float((x - test.x[index]).abs().max()) <= radius + 1e-7
        assert 0.0 <= float(x.min()) <= float(x.max()) <= 1.0
        assert int(ticket.model()(x[None]).argmax()) != int(test.y[index])


def test_an_older_counterexample_does_not_outlive_its_certificate(folder: Path) -> None:
    verify_ticket(folder, radii=[0.3], examples=40)
    verify_ticket(folder, radii=[1e-6], examples=60)
    assert not (folder / "counterexamples.safetensors").exists()


def test_a_lesser_certificate_does_not_replace_a_better_one(folder: Path) -> None:
    verify_ticket(folder, radii=[0.3], examples=40)
    names = ("certificate.json", "certificate.md", "counterexamples.safetensors")
    before = [(folder / name).read_bytes() for name in names]
    for lesser in ({"examples": 40, "timeout_s": 0.0}, {"examples": 5}):
        with pytest.warns(CertificateKept, match="was kept: it says as much of every example"):
            verify_ticket(folder, radii=[0.3], **lesser)
        assert [(folder / name).read_bytes() for name in names] == before


@pytest.mark.slow
def test_all_bounds_of_the_cascade_can_be_asked_for_in_any_order(folder: Path) -> None:
    certificate = verify_ticket(
        folder, radii=[0.01], examples=8, split="validation", methods=["crown", "ibp"]
    )
    assert certificate.bound == "ibp+crown"
    assert verify_ticket(folder, radii=[0.01], examples=8, timeout_s=0.0).timeout_s == 0.0


def test_the_json_names_all_that_it_rests_on(folder: Path) -> None:
    verify_ticket(folder, radii=[0.01], examples=10, workers=2)
    document = json.loads((folder / "certificate.json").read_text())
    manifest = read_manifest(folder)
    assert document["files"] == manifest.files
    assert document["split"] == "test"
    assert document["split_fingerprint"] == manifest.data_fingerprints["test"]
    assert document["schema_version"] == 3
    assert document["bound"] == "ibp+crown-ibp+crown+alpha-crown+exact"
    assert (document["timeout_s"], document["budget_s"], document["workers"]) == (60.0, None, 2)
    assert document["tolerances"] == {
        "rounding": 1e-6, "solver_margin": 1e-5, "solver_feasibility": 1e-7,
    }  # fmt: skip
    assert document["num_examples"] == 10
    assert {"goldenticket", "torch", "highspy"} <= document["versions"].keys()
    row = document["summary"][0]
    assert row["verified_low"] <= row["verified_accuracy"] <= row["verified_high"]
    assert (row["radius"], row["split"], row["num_examples"]) == (0.01, "test", 10)


def test_the_page_says_the_same_as_the_json(folder: Path) -> None:
    certificate = verify_ticket(folder, radii=[0.01], examples=40)
    page = (folder / "certificate.md").read_text()
    shown = f"{100 * certificate.results[0].verified_accuracy:.1f} %"
    for words in (
        shown,
        "first 40 examples of the test split of digits",
        certificate.ticket_digest,
        "60 s for each example at a radius, no limit for everything",
        "crown-ibp bounds are those of auto_LiRPA on the first 4 examples at radius 0.01",
        "% of 100 validation examples at radius 0.05 by ibp: certified again",
        "| 0.01 | ibp: interval bounds | ",
        "1e-05 of it more",
    ):
        assert words in page


def test_verifying_again_gives_the_same_verdicts(folder: Path) -> None:
    first = verify_ticket(folder, examples=20)
    again = verify_ticket(folder, examples=20)
    assert [r.verdicts for r in first.results] == [r.verdicts for r in again.results]


def test_wilson_intervals() -> None:
    # Wilson (1927) for 8 of 10: 0.490 to 0.943.
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)


# What goes wrong


def test_a_claim_of_the_manifest_that_certifying_does_not_confirm_is_an_error(
    ticket: Ticket, tmp_path: Path
) -> None:
    claim = {**ticket.metrics, "verified_accuracy": 0.99, "natural_accuracy": 0.99}
    provenance = Provenance(split="validation", bound="ibp", radius=0.05, num_examples=50)
    folder = save_ticket(
        replace(ticket, metrics=claim, provenance=provenance), tmp_path / "boaster"
    )
    # Whatever is asked: the claim is about validation, and is certified again there.
    for split in ("validation", "test"):
        with pytest.raises(TicketError, match=r"ticket\.json claims natural_accuracy 0\.9900"):
            verify_ticket(folder, split=split, examples=50)
    assert not (folder / "certificate.json").exists()


def test_an_edited_certificate_is_an_error(folder: Path) -> None:
    verify_ticket(folder, radii=[0.01], examples=40)
    path = folder / "certificate.json"
    text = re.sub(r'"verified_accuracy": [\d.]+', '"verified_accuracy": 0.987', path.read_text())
    path.write_text(text)
    with pytest.raises(
        TicketError, match=r"certificate\.json is not a certificate .*its digest is"
    ):
        verify_ticket(folder, radii=[0.01], examples=40)
    document = json.loads(text)
    text = json.dumps({**document, "digest": digest(document)})
    path.write_text(text)
    with pytest.raises(TicketError, match=r"certificate\.json claims verified_accuracy 0\.9870"):
        verify_ticket(folder, radii=[0.01], examples=40)
    assert path.read_text() == text


def test_a_certificate_that_is_none_is_told(folder: Path) -> None:
    (folder / "certificate.json").write_text('{"verdict": "fine"}')
    with pytest.raises(TicketError, match=r"certificate\.json is not a certificate"):
        verify_ticket(folder, radii=[0.01], examples=10)


def test_costs_are_counted_again_from_the_weights(ticket: Ticket, tmp_path: Path) -> None:
    metrics = {**ticket.metrics, "inference_flops": 12.0}
    folder = save_ticket(replace(ticket, metrics=metrics), tmp_path / "t")
    found = ticket.metrics["inference_flops"]
    with pytest.raises(TicketError, match=f"inference_flops is 12, but the weights give {found:g}"):
        verify_ticket(folder, examples=10)


def test_other_data_than_in_training_are_an_error(ticket: Ticket, tmp_path: Path) -> None:
    prints = {**ticket.data_fingerprints, "test": "0" * 64}
    folder = save_ticket(replace(ticket, data_fingerprints=prints), tmp_path / "t")
    with pytest.raises(TicketError, match=f"test split of digits has changed.*{'0' * 64}"):
        verify_ticket(folder, examples=10)


@pytest.mark.slow
def test_an_onnx_model_of_other_weights_is_an_error(folder: Path, ticket_of) -> None:
    other = ticket_of(seed=1)
    add_exports(other, folder, ["onnx"])
    with pytest.raises(TicketError, match=r"model\.onnx and the weights disagree"):
        verify_ticket(folder, examples=10)


@pytest.mark.slow
def test_the_onnx_model_is_compared_on_the_certified_examples(folder: Path, ticket) -> None:
    add_exports(ticket, folder, ["onnx"])
    certificate: Certificate = verify_ticket(folder, radii=[0.01], examples=10)
    assert certificate.onnx is not None
    assert certificate.onnx.num_examples == 10
    assert certificate.onnx.max_abs_difference <= 1e-5


def test_an_altered_ticket_is_not_certified(folder: Path) -> None:
    with (folder / "ticket.safetensors").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(TicketError, match=r"ticket\.safetensors was changed"):
        verify_ticket(folder)
    assert not (folder / "certificate.json").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"radii": [0.0]}, r"radius is 0.0: it must be in \(0, 1\]"),
        ({"radii": [1.5]}, "radius is 1.5"),
        ({"radii": [float("nan")]}, "radius is nan"),
        ({"examples": 0}, "examples is 0"),
        ({"methods": ["magic"]}, "magic"),
        ({"timeout_s": -1.0}, "timeout_s is -1"),
        ({"split": "tests"}, "no split 'tests': use train, validation or test"),
    ],
)
def test_a_question_without_meaning_is_told(folder: Path, options, words) -> None:
    with pytest.raises(ValueError, match=words):
        verify_ticket(folder, **options)


def test_the_weights_are_not_changed_by_verifying(folder: Path, ticket: Ticket) -> None:
    verify_ticket(folder, radii=[0.01], examples=5)
    found = load_ticket(folder)
    assert all(torch.equal(found.weights[name], ticket.weights[name]) for name in found.weights)
