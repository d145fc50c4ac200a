"""The page in a real browser: at a desk and on a telephone, offline, whatever a study holds."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DESK, TELEPHONE = (1280, 900), (390, 844)
SMALLEST = 11.0  # pixels

TEXT_SIZES = """() => {
  const sizes = [];
  for (const text of document.querySelectorAll("svg text")) {
    const svg = text.closest("svg");
    const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
    sizes.push([parseFloat(getComputedStyle(text).fontSize) * scale, text.textContent]);
  }
  for (const other of document.querySelectorAll("body *:not(svg):not(svg *):not(script)"))
    if (other.textContent.trim())
      sizes.push([parseFloat(getComputedStyle(other).fontSize), other.textContent.slice(0, 30)]);
  return sizes;
}"""
BOXES = """() => [...document.querySelectorAll("figure")].map(figure => {
  const box = figure.querySelector("svg").getBoundingClientRect();
  return {name: figure.id, width: box.width, height: box.height,
          texts: figure.querySelectorAll("text").length,
          marks: figure.querySelectorAll("[data-run]").length,
          empty: [...figure.querySelectorAll("[data-run]")].filter(mark => {
            const place = mark.getBoundingClientRect();
            return place.width + place.height === 0;
          }).length};
})"""
PLACES = """texts => texts.map(text =>
  [+text.getAttribute("x"), +text.getAttribute("y"),
   ["start", "middle", "end"].indexOf(text.getAttribute("text-anchor"))])"""
MIDDLE = """mark => {
  mark.scrollIntoView({block: "center", behavior: "instant"});
  const box = mark.getBoundingClientRect();
  return [box.x + box.width / 2, box.y + box.height / 2];
}"""


@dataclass
class Opened:
    """A page in a window, and all that it asked for or complained about."""

    page: object
    asked: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def point_at(self, selector: str) -> None:
        """Move the mouse to the middle of an element."""
        x, y = self.page.eval_on_selector(selector, MIDDLE)
        self.page.mouse.move(x + 40, y + 40)
        self.page.mouse.move(x, y)


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        reason = f"no browser: none of {', '.join(NAMES)} is installed"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=path, headless=True, args=FLAGS)
        yield found
        found.close()


def opened(browser, path: Path, size: tuple[int, int], **options) -> Opened:
    """The page as a reader's browser shows it; nothing but the file itself is let through."""
    width, height = size
    context = browser.new_context(viewport={"width": width, "height": height}, **options)
    window = Opened(context.new_page())

    def route(asked) -> None:
        if asked.request.url == path.as_uri():
            asked.continue_()
            return
        window.asked.append(asked.request.url)
        asked.abort()

    context.route("**/*", route)
    window.page.on("console", lambda told: window.complaints.append(told.text))
    window.page.on("pageerror", lambda error: window.complaints.append(str(error)))
    window.page.goto(path.as_uri())
    return window


@pytest.fixture(scope="module")
def desk(browser, page: Path) -> Opened:
    return opened(browser, page, DESK)


@pytest.fixture(scope="module")
def telephone(browser, page: Path) -> Opened:
    return opened(browser, page, TELEPHONE, has_touch=True, is_mobile=True)


@pytest.fixture(params=["desk", "telephone"])
def window(request: pytest.FixtureRequest) -> Opened:
    return request.getfixturevalue(request.param)


def test_every_figure_is_drawn_with_all_its_marks(window: Opened, recorded) -> None:
    figures = {box["name"]: box for box in window.page.evaluate(BOXES)}
    members = len(recorded.front().members)
    for name, box in figures.items():
        assert box["width"] > 300 and box["height"] > 150, name
        assert box["texts"] >= 4, name
        assert box["empty"] == 0, name
    for name, marks in {
        "front-solid": members,
        "parallel": 12,
        "learning-verified-accuracy": 15,  # and those that were stopped
        "sparsity-verified-accuracy": 12,
        "radius-front": members,
        "layers-1": 2,
    }.items():
        assert figures[f"figure-{name}"]["marks"] >= marks, name
    assert figures["figure-front-verified-accuracy-natural-accuracy"]["marks"] >= members
    assert {"figure-radius-ticket", "figure-cascade-0-05", "figure-cascade-0-01"} <= set(figures)
    assert sum(name.startswith("figure-importance") for name in figures) >= 1


def test_all_text_is_large_enough_and_the_page_does_not_scroll_sideways(window: Opened) -> None:
    size, text = min(window.page.evaluate(TEXT_SIZES))
    assert size >= SMALLEST, text
    inner, outer = window.page.evaluate(
        "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert inner <= outer


def test_pointing_at_a_trial_shows_its_settings_and_finds_it_elsewhere(desk, recorded) -> None:
    run = recorded.runs[6]
    desk.point_at(f"#figure-sparsity-natural-accuracy [data-run='{run}']")
    card = desk.page.inner_text("#card")
    assert "trial #6, rigl" in card
    assert "optimizer.lr" in card
    assert "[16]" in card
    hot = desk.page.eval_on_selector_all(
        ".hot", "marks => marks.map(mark => [mark.dataset.run, mark.closest('figure, tr')?.id])"
    )
    assert {found for found, _ in hot} == {run}
    assert {"figure-parallel", "figure-front-solid", "figure-learning-rung-score"} <= {
        place for _, place in hot
    }
    desk.page.mouse.move(2, 2)
    assert desk.page.is_hidden("#card")
    assert desk.page.locator(".hot").count() == 0


def test_the_keyboard_reaches_the_members_of_the_front(desk: Opened, recorded) -> None:
    run = recorded.front().members[0].run_id
    desk.page.focus(f"#figure-front-verified-accuracy-natural-accuracy [data-run='{run}']")
    assert "on the front" in desk.page.inner_text("#card")
    desk.page.keyboard.press("Escape")
    assert desk.page.is_hidden("#card")


def test_a_tap_shows_the_card_on_the_screen(telephone: Opened, recorded) -> None:
    run = recorded.front().members[0].run_id
    telephone.page.tap(f"#figure-front-natural-accuracy-density [data-run='{run}']")
    box = telephone.page.locator("#card").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= TELEPHONE[0]
    telephone.page.tap("h1")
    assert telephone.page.is_hidden("#card")


def test_the_spatial_figure_turns_by_dragging_and_by_keys(desk: Opened, recorded) -> None:
    run = recorded.front().members[0].run_id
    place = f"svg.solid [data-run='{run}'] circle"

    def where() -> tuple[float, float]:
        return tuple(
            desk.page.eval_on_selector(place, "c => [c.cx, c.cy].map(v => v.baseVal.value)")
        )

    def texts() -> list[list[float]]:
        return desk.page.eval_on_selector_all("svg.solid text", PLACES)

    first, before = where(), texts()
    desk.page.focus("svg.solid")
    desk.page.keyboard.press("ArrowLeft")
    turned = where()
    assert turned != first
    desk.page.keyboard.press("ArrowRight")
    # Back again by the script, everything is where Python had put it.
    assert where() == pytest.approx(first, abs=0.11)
    for text, old in zip(texts(), before, strict=True):
        assert text == pytest.approx(old, abs=0.11)
    x, y = desk.page.eval_on_selector("svg.solid", MIDDLE)
    desk.page.mouse.move(x, y)
    desk.page.mouse.down()
    desk.page.mouse.move(x + 60, y + 20, steps=3)
    desk.page.mouse.up()
    assert where() != pytest.approx(first, abs=2.0)
    assert desk.page.locator(".hot").count() == 0  # a drag is no click


def test_what_a_study_holds_does_no_harm(desk: Opened, recorded) -> None:
    desk.point_at(f"#figure-sparsity-natural-accuracy [data-run='{recorded.runs[6]}']")
    assert "</script><img src=x onerror=" in desk.page.inner_text("#card")
    assert desk.page.evaluate("window.hurt") is None
    assert desk.page.locator("img").count() == 0


def test_it_is_whole_without_a_script(browser, page: Path) -> None:
    window = opened(browser, page, DESK, java_script_enabled=False)
    assert window.page.locator("svg.solid circle").count() >= 5
    assert window.page.locator("figure svg title").count() > 50  # the browser's own tooltips
    assert window.page.is_hidden("#card")


def test_nothing_was_asked_for_and_nothing_went_wrong(desk: Opened, telephone: Opened) -> None:
    for window in (desk, telephone):
        assert window.asked == []
        assert window.complaints == []
