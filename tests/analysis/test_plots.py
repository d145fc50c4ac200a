"""The front as a picture that says what it shows."""

import re
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from analysis.errors import FrontError, TicketError
from analysis.front import load_front
from analysis.plot_labels import Point, along, label_points
from analysis.plots import COLOURS, plot_front


@pytest.fixture
def front(store):
    return load_front("digits", tracking_uri=store.uri)


def test_a_png_is_an_image_with_something_on_it(front, tmp_path: Path) -> None:
    path = plot_front(front, tmp_path / "front.png")
    pixels = np.asarray(Image.open(path).convert("L"))
    assert pixels.shape[1] > 1000
    assert 0.005 < float((pixels < 250).mean()) < 0.5


def test_the_same_front_gives_the_same_picture(front, tmp_path: Path) -> None:
    for suffix in (".png", ".html"):
        first = plot_front(front, tmp_path / f"a{suffix}").read_bytes()
        assert plot_front(front, tmp_path / f"b{suffix}").read_bytes() == first


def test_html_says_how_the_figures_were_obtained_and_holds_the_table(front, tmp_path) -> None:
    page = plot_front(front, tmp_path / "front.html").read_text()
    for words in (
        "digits: 4 of 6 completed trials on the front",
        "validation split, 300 examples",
        "radius 0.05",
        "verified by ibp + crown",
        "natural accuracy",
        "verified accuracy",
        "FLOPs per",
    ):
        assert words in page
    assert page.count("<tr>") == 1 + 4
    for trial in front.members:
        assert f"<td>{trial.run_id}</td>" in page


def test_html_fetches_nothing_and_runs_nothing(front, tmp_path: Path) -> None:
    page = plot_front(front, tmp_path / "front.html").read_text()
    assert not re.search(r"<script|<link|<img|<iframe|@import|<!DOCTYPE svg", page, re.IGNORECASE)
    assert not re.search(r"(src|href)\s*=\s*[\"'](?!#|data:)", page)
    assert not re.search(r"url\((?!#)", page)


def test_every_drawn_trial_has_a_tooltip(front, store, tmp_path: Path) -> None:
    page = plot_front(front, tmp_path / "front.html").read_text()
    svg = ElementTree.fromstring(page[page.index("<svg") : page.index("</svg>") + 6])
    tooltips = {
        group.get("id"): group[0].text
        for group in svg.iter("{http://www.w3.org/2000/svg}g")
        if group.get("id", "").startswith("run-")
    }
    member = tooltips[f"run-{store.runs['digits/1']}"]
    assert "trial 1 (completed, rigl)" in member
    assert "verified 85.0 %" in member
    # The dominated trial is far below the front, which sets the view: counted, but not drawn.
    assert f"run-{store.runs['digits/3']}" not in tooltips
    assert "completed, not on the front (0 of 1 in view)" in page


def test_what_a_person_wrote_is_escaped(front, tmp_path: Path) -> None:
    front.members[0].tags["goldenticket.bound"] = "<script>"  # type: ignore[index]
    page = plot_front(front, tmp_path / "front.html").read_text()
    assert "<script>" not in page


def test_a_front_of_one_trial_can_be_drawn(store, tmp_path: Path) -> None:
    one = load_front("other", tracking_uri=store.uri)
    assert plot_front(one, tmp_path / "one.png").stat().st_size > 1000


def test_few_flops_are_light_and_many_dark_in_grey_too() -> None:
    red, green, blue, _ = np.asarray([COLOURS(x) for x in np.linspace(0, 1, 50)]).T
    assert (np.diff(0.299 * red + 0.587 * green + 0.114 * blue) < 0).all()


def test_another_suffix_is_told(front, tmp_path: Path) -> None:
    with pytest.raises(FrontError, match=r"front.pdf: .* must end in .png or .html"):
        plot_front(front, tmp_path / "front.pdf")


def test_a_place_that_cannot_be_written_is_told(front, tmp_path: Path) -> None:
    with pytest.raises(TicketError, match=r"nowhere/front.png cannot be written"):
        plot_front(front, tmp_path / "nowhere" / "front.png")


def test_crowded_labels_cover_no_mark_and_lead_to_their_points() -> None:
    figure, axes = plt.subplots(figsize=(4, 3))
    axes.set(xlim=(0, 1), ylim=(0, 1))
    places = [(0.5 + 0.04 * (k % 3), 0.5 + 0.05 * (k // 3)) for k in range(9)]
    label_points(axes, [Point(x, y, 8.0, f"#{k}") for k, (x, y) in enumerate(places)])
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in axes.texts if text.get_text()]
    marks = axes.transData.transform(places)
    assert len(boxes) == 9
    assert not any(box.contains(x, y) for box in boxes for x, y in marks)
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    assert any(not text.get_text() for text in axes.texts)  # lines of those further away


def test_labels_keep_clear_of_a_line() -> None:
    figure, axes = plt.subplots(figsize=(4, 3))
    axes.set(xlim=(0, 1), ylim=(0, 1))
    label_points(axes, [Point(0.5, 0.5, 8.0, "#1")], along(axes, [(0.5, 0.5), (1.0, 0.5)]))
    assert axes.texts[0].get_position()[0] < 0  # on its other side
