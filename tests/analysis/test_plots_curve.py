"""Verified accuracy over the radius as a picture."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from analysis.certificate_model import Certificate, CertifiedRadius
from analysis.errors import FrontError, TicketError
from analysis.plots_curve import plot_curve, share_beyond

VERIFIED = (0.03, 0.1, None, 0.0)


def a_certificate(with_radii: bool = True) -> Certificate:
    radii = CertifiedRadius(
        largest=0.1,
        tolerance=0.01,
        bound="ibp+exact",
        mean=0.0325,
        verified=VERIFIED,
        falsified=(0.04, None, 0.0, 0.01),
        curve=((0.0, 0.75, 0.75), (0.05, 0.25, 0.25), (0.1, 0.25, 0.25)),
        seconds=1.0,
    )
    return Certificate(
        ticket_digest="",
        files={},
        data="digits",
        split="test",
        split_fingerprint="",
        num_examples=4,
        bound="ibp+exact",
        timeout_s=60.0,
        onnx=None,
        counterexamples=None,
        versions={},
        results=(),
        certified_radius=radii if with_radii else None,
    )


def test_the_steps_of_a_curve_by_hand() -> None:
    # Half of them hold at 0.02 and one at 0.05: the share falls behind each.
    xs, ys = share_beyond([0.02, 0.05, math.inf, -1.0], largest=0.1)
    assert xs == [0.0, 0.02, 0.02, 0.05, 0.05, 0.1]
    assert ys == [0.75, 0.75, 0.5, 0.5, 0.25, 0.25]
    # What holds nowhere but at 0 counts at 0 alone; what holds at the largest counts to the end.
    assert share_beyond([0.0, 0.1], largest=0.1) == ([0.0, 0.0, 0.0, 0.1], [1.0, 1.0, 0.5, 0.5])


def test_a_png_is_an_image_with_something_on_it(tmp_path: Path) -> None:
    path = plot_curve(a_certificate(), tmp_path / "curve.png")
    pixels = np.asarray(Image.open(path).convert("L"))
    assert pixels.shape[1] > 1000
    assert 0.005 < float((pixels < 250).mean()) < 0.5


def test_html_says_what_is_drawn_and_fetches_nothing(tmp_path: Path) -> None:
    page = plot_curve(a_certificate(), tmp_path / "curve.html").read_text()
    for words in (
        "digits: mean certified radius 0.0325",
        "test split, 4 examples",
        "verified by ibp + exact",
        "radius (l∞, in data units: the range of an input is 0 to 1)",
        "share of the examples",
        "natural accuracy 75.0 %",
        "not falsified",
        "<td>0.05</td><td>25.0 %</td>",
    ):
        assert words in page
    assert not re.search(r"<script|<link|<img|<iframe|@import|<!DOCTYPE svg", page, re.IGNORECASE)
    assert not re.search(r"(src|href)\s*=\s*[\"'](?!#|data:)", page)
    assert page == plot_curve(a_certificate(), tmp_path / "again.html").read_text()


def test_what_cannot_be_drawn_is_told(tmp_path: Path) -> None:
    with pytest.raises(FrontError, match=r"curve.pdf: .* must end in .png or .html"):
        plot_curve(a_certificate(), tmp_path / "curve.pdf")
    with pytest.raises(TicketError, match="no certified radii to draw: .*--certified-radius"):
        plot_curve(a_certificate(with_radii=False), tmp_path / "curve.png")
