"""A report: one file that says everything, where from, and what is missing."""

from __future__ import annotations

import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from analysis.errors import FrontError, TicketError
from analysis.report import panels, write_report
from analysis.report.material import gather
from analysis.store import open_store
from analysis.ticket import save_ticket

SECTIONS = [
    "front", "parallel", "importance", "learning", "layers", "sparsity", "radius", "cost", "ticket",
    "cascade",
]  # fmt: skip


def section(text: str, name: str) -> str:
    return text[text.index(f'<section id="{name}"') :].split("</section>")[0]


def words(fragment: str) -> str:
    """What a person reads of it."""
    prose = re.sub(r"<[^>]+>", " ", re.sub(r"<svg.*?</svg>", "", fragment, flags=re.S))
    return " ".join(unescape(prose).split())


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small pictures, and no forests but in the page that all tests share."""
    monkeypatch.setattr("analysis.report.write._DPI", 40)
    monkeypatch.setattr("analysis.report.influence.LEAST_TRIALS", 100)


# What it says -------------------------------------------------------------------------------------


def test_it_begins_with_how_the_figures_were_obtained(page: Path) -> None:
    head = words(page.read_text().split("<section")[0])
    for told in (
        "digits: 300 examples of the validation split",
        "0.05 (l∞, data units)",
        "ibp + crown",
        "12 completed, 3 stopped early, 1 failed",
        "0.1.0+abc",
        "2023-11-14 22:13 UTC",  # of the newest trial: a report has no date of its own
        "in brackets: 95 % interval",
    ):
        assert told in head


def test_every_section_has_a_link_and_a_figure_a_table_or_a_reason(page: Path) -> None:
    text = page.read_text()
    assert re.findall(r'<li><a href="#([^"]+)">', text) == SECTIONS
    for name in SECTIONS:
        assert "<svg" in section(text, name) or "<table" in section(text, name), name


def test_a_section_without_data_says_why_and_has_no_figure(recorded, tmp_path: Path) -> None:
    path = write_report(recorded.front("bare page"), tmp_path / "bare.html", log=False)
    text = path.read_text()
    for name, reason in {
        "parallel": "they need two completed trials with different settings, and 1 completed",
        "importance": "completed trials, is trustworthy from about 40",
        "learning": "the tracking store has no trial with figures after two epochs",
        "layers": "no member of the front has a ticket in the tracking store's artifacts",
        "sparsity": "a curve needs two",
        "ticket": "has no ticket: there is no folder ticket",
        "cascade": "certify it by goldenticket verify TICKET",
    }.items():
        assert reason in words(section(text, name))
        assert "<svg" not in section(text, name)
    assert "Rungs" not in text


def test_members_of_the_front_are_marked_in_every_figure_of_trials(recorded, page: Path) -> None:
    text = page.read_text()
    for trial in recorded.front().members:
        for name in ("front", "parallel", "learning", "sparsity", "radius", "cost"):
            assert f'data-run="{trial.run_id}"' in section(text, name), name


def test_several_studies_share_one_page(recorded, tmp_path: Path) -> None:
    front = recorded.front(["page", "bare page"])
    text = write_report(front, tmp_path / "r.html", log=False).read_text()
    assert "<h1>page, bare page</h1>" in text
    for name in front.labels().values():
        assert f">#{name}</th>" in text
    assert "several studies were asked, each with its own" in text
    for note in front.notes:
        assert note in words(text)


def test_learning_curves_mark_the_rungs_of_the_scheduler(page: Path) -> None:
    assert "rungs, after epochs 1 and 2, where" in words(section(page.read_text(), "learning"))


def test_importance_says_by_what_and_warns_of_few_trials(page: Path) -> None:
    told = words(section(page.read_text(), "importance"))
    assert "permutation importance of random forests" in told
    assert "Only 12 completed trials: take it as a hint" in told


def test_the_ticket_page_says_what_was_proved_on_what_and_how_to_check_it(recorded, page) -> None:
    told = words(section(page.read_text(), "ticket"))
    for fact in (
        f"trial #0 of page (run {recorded.runs[0]})",
        "On the first 24 examples of the test split of digits",
        "proved right for every change within radius 0.05",
        "mlp, input 1 × 8 × 8, 10 classes",
        "ibp: interval bounds",
        "largest difference",
        "sha256",
        f"goldenticket verify {recorded.ticket} --split test --examples 24 --radius 0.05 --radius "
        "0.01 --methods ibp,crown",
        "selected by its figures on the validation split",
    ):
        assert fact in told


def test_a_ticket_from_the_store_is_not_certified_and_the_page_says_how(recorded, tmp_path) -> None:
    front = recorded.front()
    trial = front.study.trial(recorded.runs[1])
    path = write_report(front, tmp_path / "r.html", trial=trial, log=False)
    told = words(section(path.read_text(), "ticket"))
    assert "not certified on the test split yet" in told
    assert f"goldenticket export page --run {trial.run_id} --to ticket" in told


# What it is ---------------------------------------------------------------------------------------


class Addresses(HTMLParser):
    """Whatever in a page could be fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: set[str] = set()
        self.ids: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "data", "action", "srcset", "poster"):
                self.found.append(value)
            if name == "id":
                self.ids.append(value)
            self.found += re.findall(r"url\(([^)]*)\)", value or "")


def test_it_fetches_nothing_and_has_no_id_twice(page: Path) -> None:
    parser = Addresses()
    parser.feed(page.read_text())
    assert parser.found
    assert all(address.startswith("#") for address in parser.found)
    assert {a[1:] for a in parser.found} <= set(parser.ids)
    assert not parser.tags & {"link", "img", "iframe", "object", "embed", "form"}
    assert len(parser.ids) == len(set(parser.ids))


def test_what_a_store_holds_is_escaped(page: Path) -> None:
    text = page.read_text()
    assert text.count("</script>") == 2  # the data's and the program's own
    assert "<img" not in text


def test_the_same_store_gives_the_same_page_and_pictures(recorded, tmp_path: Path) -> None:
    front = recorded.front("bare page")
    for name in ("a", "b"):
        write_report(front, tmp_path / f"{name}.html", figures=tmp_path / name, log=False)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    pictures = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert "front-verified-accuracy-natural-accuracy.png" in pictures
    assert "front-solid.png" in pictures
    for name in pictures:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_page_and_pictures_are_kept_with_the_studys_run(recorded, tmp_path: Path) -> None:
    front = recorded.front("bare page")
    write_report(front, tmp_path / "kept.html")
    found = open_store(recorded.uri).list_artifacts(front.study.run_ids[0], "report")
    assert {"report/kept.html", "report/front-solid.png"} <= {item.path for item in found}


# What goes wrong ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [("report.pdf", "must end in .html"), ("nowhere/report.html", "there is no folder")],
)
def test_a_place_that_cannot_be_written_is_told_before_any_work(recorded, tmp_path, name, message):
    with pytest.raises(TicketError, match=message):
        write_report(recorded.front(), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_store_that_refuses_is_told_and_the_page_is_written(recorded, tmp_path, monkeypatch):
    def refuse(*_args) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("mlflow.tracking.MlflowClient.log_artifact", refuse)
    with pytest.raises(FrontError, match=r"did not take the report \(disk full\), but .*r.html"):
        write_report(recorded.front("bare page"), tmp_path / "r.html")
    assert "</html>" in (tmp_path / "r.html").read_text()


def test_a_trial_without_a_ticket_that_was_asked_for_is_an_error(recorded, tmp_path: Path) -> None:
    front = recorded.front()
    with pytest.raises(FrontError, match="has no ticket"):
        write_report(front, tmp_path / "r.html", trial=front.study.trial(recorded.runs[12]))
    with pytest.raises(TicketError, match="one ticket"):
        write_report(front, tmp_path / "r.html", trial=front.members[0], ticket=recorded.ticket)


def test_a_ticket_of_another_study_is_said_to_be_none_of_it(recorded, ticket_of, tmp_path) -> None:
    other = save_ticket(ticket_of(seed=1), tmp_path / "other")
    path = write_report(recorded.front("bare page"), tmp_path / "r.html", ticket=other, log=False)
    told = words(section(path.read_text(), "ticket"))
    assert "not a recorded trial of this study" in told
    assert "No completed trial of this study has this ticket's settings and figures" in told


def test_a_certificate_of_another_ticket_is_refused(recorded, ticket_of, tmp_path: Path) -> None:
    other = save_ticket(ticket_of(seed=1), tmp_path / "other")
    for path in recorded.ticket.iterdir():
        if not (other / path.name).exists():
            (other / path.name).write_bytes(path.read_bytes())
    with pytest.raises(TicketError, match="is about another ticket"):
        write_report(recorded.front(), tmp_path / "r.html", ticket=other)


def test_other_objectives_are_drawn_against_the_accuracy_that_goes_with_them(recorded) -> None:
    front = recorded.front(objectives=["natural_accuracy", "training_flops"])
    names = [drawing.name for drawing in panels.section(gather(front, None)).parts]
    assert "front-natural-accuracy-training-flops" in names
    assert "front-verified-accuracy-training-flops" not in names
