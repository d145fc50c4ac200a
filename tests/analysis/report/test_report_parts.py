"""Numbers, axes, layers and exports as a report writes them."""

from __future__ import annotations

import pytest

from analysis.certificate_model import ArtifactRecord
from analysis.report.drawing import limits, new_axes, round_ticks, round_values, set_axis
from analysis.report.layers import natural_order
from analysis.report.scene import FAR, LEFT, NEAR, RIGHT, View
from analysis.report.section import prose, table
from analysis.report.shipped import shipped
from analysis.report.tables import exports_table, footprint_facts
from analysis.report.words import amount, counted, listed, seconds, size, value_of


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("verified_accuracy", 0.9366, "93.7 %"),
        ("density", 0.0707, "7.07 %"),
        ("density", 0.1697, "17.0 %"),
        ("inference_flops", 16_576, "16.6 k"),
        ("inference_flops", 999_999, "1 M"),
        ("duration_s", 0.0421, "42.1 ms"),
        ("natural_accuracy", None, "–"),
        ("latency_s", 5.2e-6, "5.2 µs"),
        ("flash_bytes", 65_536, "64 KiB"),
    ],
)
def test_values_have_units(name: str, value: float | None, text: str) -> None:
    assert value_of(name, value) == text


def test_amounts_times_sizes_and_lists_are_short() -> None:
    assert [amount(0), amount(546), amount(3.126e9)] == ["0", "546", "3.13 G"]
    assert [seconds(2e-6), seconds(187), seconds(7500)] == ["2 µs", "3:07 min", "2:05 h"]
    assert [size(812), size(35_100), size(1.2e6)] == ["812 B", "34.3 KiB", "1.14 MiB"]
    assert [listed(["a"]), listed(["a", "b", "c"])] == ["a", "a, b and c"]
    assert [counted(1, "trial"), counted(2000, "trial")] == ["1 trial", "2,000 trials"]


@pytest.mark.parametrize("ends", [(2590, 3100), (1.1e3, 2.0e4), (3, 4e6), (0.05, 0.0501)])
def test_a_logarithmic_axis_has_two_to_six_round_ticks(ends: tuple[float, float]) -> None:
    ticks = round_values(*ends)
    assert 2 <= len(ticks) <= 6
    assert all(ends[0] <= tick <= ends[1] for tick in ticks)


def test_an_axis_of_shares_ends_near_a_hundred_percent() -> None:
    low, high = limits([0.5, 0.99], "natural_accuracy")
    assert low < 0.5
    assert 0.99 < high < 1.02


def test_layers_are_in_the_order_of_the_network() -> None:
    names = ["conv10.weight", "out.weight", "conv2.weight", "blocks.1.conv1", "blocks.0.conv2"]
    assert sorted(names, key=natural_order) == [
        "blocks.0.conv2", "blocks.1.conv1", "conv2.weight", "conv10.weight", "out.weight",
    ]  # fmt: skip


def test_a_cube_seen_from_the_front_has_its_sides_where_they_are() -> None:
    view = View(angle=-30.0, elevation=20.0)
    assert view.at((0.5, 0.5, 0.5))[:2] == pytest.approx(view.centre)
    depths = {place: view.at(place)[2] for place in ((NEAR, 0.5, 0.0), (FAR, 0.5, 0.0))}
    assert depths[NEAR, 0.5, 0.0] < 0.0 < depths[FAR, 0.5, 0.0]
    corners = [view.at((x, y, 0.0))[0] for x in (0.0, 1.0) for y in (0.0, 1.0)]
    assert view.at((LEFT, LEFT, 0.0))[0] == pytest.approx(min(corners))
    assert view.at((RIGHT, RIGHT, 0.0))[0] == pytest.approx(max(corners))
    assert view.at((0.5, 0.5, 1.0))[1] < view.at((0.5, 0.5, 0.0))[1]  # up is up


EXPORTS = {
    "onnx": {
        "files": ["model.onnx"], "bytes": 213_231, "compressed_bytes": 35_100,
        "max_abs_difference": 3.8e-6, "tolerance": 3.1e-4, "agreement": 1.0, "num_examples": 256,
        "split": "validation", "batch_sizes": [1, 256], "latency_s": 20e-6, "latency_256_s": 1e-3,
        "dense_latency_s": 20e-6, "dense_latency_256_s": 1e-3, "tools": {"onnxruntime": "1.32.0"},
    },
    "c": {
        "files": ["model.c", "model.h"], "bytes": 90_000, "compressed_bytes": 20_000,
        "max_abs_difference": 1e-6, "tolerance": None, "agreement": 0.992, "num_examples": 256,
        "split": "validation", "batch_sizes": [1], "latency_s": 4e-6, "latency_256_s": None,
        "dense_latency_s": 20e-6, "dense_latency_256_s": None, "tools": {"cc": "12.2"},
    },
}  # fmt: skip


def test_exports_are_compared_with_the_dense_network() -> None:
    text = exports_table(EXPORTS)
    for cell in ("C source", "model.c, model.h", "87.9 KiB", "19.5 KiB", "4 µs", "5.00 ×", "99.2 %",
                 "3.8e-06 (allowed 3.1e-04)", "1.0e-06 (no promise)"):  # fmt: skip
        assert f">{cell}<" in text
    assert "256 validation examples" in text
    assert "cc 12.2, onnxruntime 1.32.0" in text


def test_a_footprint_is_told_in_bytes_and_units() -> None:
    text = footprint_facts(
        {
            "entropy_bound_bytes": 31_000, "flash_bytes": 40_200, "ram_bytes": 1_500,
            "compacted_flops": 16_000, "vector_width": 8,
            "widths": [{"name": "fc1", "units": 256, "live": 201, "padded": 208}],
        }
    )  # fmt: skip
    assert "39.3 KiB" in text
    assert "fc1 201 of 256 units (full vectors: 208); vectors of 8" in text


def test_tables_and_prose_are_escaped() -> None:
    assert "&lt;b&gt;" in table("<b>", ["a"], [["<i>"]])
    assert "<i>" not in table("<b>", ["a"], [["<i>"]])
    assert prose("run `a < b` now") == "run <code>a &lt; b</code> now"


def test_files_that_ship_say_what_was_proved_of_them_or_that_nothing_was() -> None:
    refused = ArtifactRecord(
        file="int8.onnx", sha256="0", status="not certified", how="It has a step of 3 < 4"
    )
    text = "".join(shipped([refused]))
    assert ">int8.onnx</th>" in text
    assert "int8.onnx: not certified. It has a step of 3 &lt; 4." in text
    assert "nothing at all is claimed" in text


def test_an_axis_of_bytes_is_round_in_the_units_of_constraints() -> None:
    assert round_ticks(3000, 30_000, "B") == [5 * 1024, 10 * 1024, 20 * 1024]
    assert round_ticks(90, 1500, "B") == round_values(90, 1500)
    _, axes = new_axes("sizes")
    set_axis(axes, "x", "flash_bytes", [3000, 30_000])
    assert axes.get_xlabel() == "flash"
    assert axes.xaxis.get_major_formatter()(5120.0, 0) == "5 KiB"


def test_the_label_of_an_axis_stays_inside_however_long_its_ticks_are() -> None:
    figure, axes = new_axes("one trial")
    set_axis(axes, "y", "natural_accuracy", [0.80, 0.82])
    axes.set_yticks([0.8, 0.805], ["80.55 %", "80.5 %"])
    figure.canvas.draw()
    assert axes.yaxis.label.get_window_extent().x0 >= 0
