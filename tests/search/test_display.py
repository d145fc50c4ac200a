"""How results look: numbers with units, and tables that are never cut or read as markup."""

import json
from typing import Any

import pytest
from printing import printed

from analysis.certificate_model import (
    Certificate,
    CertifiedRadius,
    RadiusResult,
    SecondOpinionRecord,
)
from search.display import (
    certificate_report,
    certificate_table,
    duration,
    metrics_table,
    quantity,
    space_table,
    titled,
)
from spaces import ConfigError, SearchSpace


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0.0 s"),
        (0.04, "0.0 s"),
        (3.14, "3.1 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (42.4, "42 s"),
        (59.7, "1:00 min"),  # not 60 s
        (60.0, "1:00 min"),
        (187.0, "3:07 min"),
        (3599.6, "1:00 h"),
        (7500.0, "2:05 h"),
        (360_000.0, "100:00 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("natural_accuracy", 0.8567, "85.7%"),
        ("natural_accuracy", 1.0, "100.0%"),
        ("verified_accuracy", 0.0, "0.0%"),
        ("verified_accuracy_at_0.1", 0.5, "50.0%"),
        ("density", 1.0, "100.0%"),
        ("density", 0.123456, "12.3%"),
        ("density", 0.0123456, "1.23%"),  # half a per cent matters here
        ("num_active_parameters", 736, "736"),
        ("num_active_parameters", 999, "999"),
        ("num_active_parameters", 1234, "1.23k"),
        ("num_active_parameters", 999_999, "1M"),  # not 1e+03k
        ("inference_flops", 736.0, "736"),
        ("inference_flops", 20_480.0, "20.5k"),
        ("inference_flops", 5_150_000.0, "5.15M"),
        ("training_flops", 1.5e9, "1.5G"),
        ("training_flops", 2.25e12, "2.25T"),
        ("training_flops", 4e15, "4P"),
        ("train_epsilon", 0.05, "0.05"),
        ("epoch", 20.0, "20"),
        ("duration_s", 187.0, "3:07 min"),
        ("duration_s", 0.0, "0.0 s"),
        ("duration_s", 0.0123, "12.3 ms"),
        ("duration_s", 0.00000456, "4.56 µs"),
        ("verified_accuracy", None, "-"),
        ("verified_accuracy", float("nan"), "nan"),
        ("duration_s", float("inf"), "inf"),
    ],
)
def test_quantities(name: str, value: float | None, text: str) -> None:
    assert quantity(name, value) == text


def test_a_quantity_of_an_unknown_metric_is_refused() -> None:
    with pytest.raises(ConfigError, match="'naturl_accuracy' is no metric"):
        quantity("naturl_accuracy", 0.5)


def test_a_title_is_not_cut_to_the_width_of_its_table() -> None:
    title, caption = "a title that is wider than the table", "and [so] is this [bold]caption[/]"
    lines = printed(titled(title, metrics_table([], ["density"]), caption))
    assert lines[0] == title
    assert lines[-1] == caption


def test_a_metrics_table_has_a_column_for_each_metric_and_note() -> None:
    rows = [
        ("7", {"density": 0.5, "inference_flops": 1234.0}, ("[red]", "abc")),
        ("8", {"density": 0.25}, ("rigl", "")),
    ]
    head, _, *body = printed(metrics_table(rows, ["density", "inference_flops"], ["method", "run"]))
    assert head == "trial density FLOPs method run"
    assert body == ["7 50.0% 1.23k [red] abc", "8 25.0% - rigl"]


def make_certificate(**changes: Any) -> Certificate:
    def result(radius: float, seconds: float) -> RadiusResult:
        return RadiusResult(
            radius=radius,
            natural_accuracy=0.75,
            natural_interval=(0.5, 0.9),
            verified_accuracy=0.5,
            verified_interval=(0.25, 0.75),
            falsified_accuracy_bound=0.625,
            num_verified=4,
            num_falsified=1,
            num_unknown=1,
            num_misclassified=2,
            decided_by={},
            precision="float64",
            seconds=seconds,
            verdicts=(),
            method=(),
        )

    certificate = Certificate(
        ticket_digest="",
        files={},
        data="npz",
        split="test",
        split_fingerprint="",
        num_examples=8,
        bound="ibp+crown-ibp",
        timeout_s=None,
        onnx=None,
        counterexamples=None,
        versions={},
        results=(result(0.05, 0.31), result(0.1, 62)),
    )
    return certificate.model_copy(update=changes)


def test_a_certificate_has_a_row_per_radius() -> None:
    certificate = make_certificate()
    title, head, _, first, second, caption = printed(certificate_table(certificate))
    assert title == "Certificate: npz, test split, 8 examples"
    assert head == "radius (l∞) natural verified 95 % interval not falsified open time"
    assert first == "0.05 75.0% 50.0% 25.0% to 75.0% 62.5% 1 0.3 s"
    assert second == "0.1 75.0% 50.0% 25.0% to 75.0% 62.5% 1 1:02 min"
    assert caption == "verified by ibp + crown-ibp"


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        (None, "bounds as auto_LiRPA's on 4 examples"),
        ("UnsupportedLayer", "bounds not compared with auto_LiRPA"),
    ],
)
def test_a_certificate_says_within_which_limits_and_who_agrees(
    reason: str | None, words: str
) -> None:
    opinion = SecondOpinionRecord(radius=0.1, num_examples=4, largest_difference=0.0, reason=reason)
    certificate = make_certificate(timeout_s=60.0, budget_s=600.0, second_opinion=opinion)
    caption = printed(certificate_table(certificate))[-1]
    assert caption == (f"verified by ibp + crown-ibp · 60 s per example · 600 s in all · {words}")


def test_certified_radii_follow_the_certificate() -> None:
    radii = CertifiedRadius(
        largest=0.1, tolerance=0.05, bound="ibp", mean=0.02516, verified=(), falsified=(),
        curve=((0.0, 0.75, 0.75), (0.025, 0.6, 0.7), (0.05, 0.5, 0.625)), seconds=3.2,
    )  # fmt: skip
    lines = printed(certificate_report(make_certificate(certified_radius=radii)))
    place = lines.index("Certified radius: 0.02516 on average")
    assert lines[place + 1] == "radius (l∞) verified not falsified"
    assert lines[place + 3 : place + 5] == ["0 75.0% 75.0%", "0.05 50.0% 62.5%"]
    assert lines[-1] == ("at most 0.1, to within 0.05; misclassified examples count as 0 · 3.2 s")
    assert printed(certificate_report(make_certificate())) == printed(
        certificate_table(make_certificate())
    )


SPACE: dict[str, Any] = {
    "data": {"name": "digits"},
    "evaluation": {"radius": 0.05},
    "model": {"family": "mlp", "widths": {"choice": [[8], [16, 8]]}},
    "topology": {
        "choice": [
            {"method": "rigl", "density": {"low": 0.1, "high": 0.5, "log": True}},
            {"method": "dense"},
        ]
    },
}


def test_a_space_lists_each_parameter_with_its_values_and_condition() -> None:
    title, head, _, *rows = printed(space_table(SearchSpace(SPACE), "Search space of [bold]x"))
    assert title == "Search space of [bold]x"
    assert head == "parameter values asked for when"
    assert rows == [
        "model.mlp.widths {[8], [16,8]} always",
        "topology.method {rigl, dense} always",
        "topology.rigl.density [0.1, 0.5], log topology.method = rigl",
    ]


def test_a_space_wider_than_the_terminal_loses_nothing() -> None:
    tree = json.loads(json.dumps(SPACE))
    tree["model"]["widths"]["choice"] = [[width] for width in range(100, 160)]
    text = " ".join(printed(space_table(SearchSpace(tree), "wide"), width=70))
    assert all(f"[{width}]" in text for width in range(100, 160))
