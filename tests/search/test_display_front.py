"""How a front looks: what stands in its rows, and what is said beneath them."""

import re
from dataclasses import replace

import pytest
from printing import printed

from analysis.epsilon import Tolerance
from analysis.front import Front
from analysis.recorded import StudyRecord, Trial
from analysis.seeds import group_by_seed
from search.display_front import front_table
from spaces.constraint import Constraint

BRACKETS = "in brackets: 95 % interval (Wilson) of the accuracy, on these examples"


def make_trial(number: int, state: str = "completed", study: str = "digits", **changes) -> Trial:
    settings = {"topology.method": "rigl", "evaluation.radius": "0.05"}
    tags = {
        "goldenticket.study": study,
        "goldenticket.split": "validation",
        "goldenticket.bound": "ibp+crown",
        "goldenticket.num_examples": "300",
    }
    settings |= {name: changes.pop(name) for name in ("seed",) if name in changes}
    run_id = f"{number}23456789abcdef"
    return Trial(run_id, number, state, changes, settings, tags, "sqlite://")


def make_front(*objectives: str, members: tuple[Trial, ...] = ()) -> Front:
    best = make_trial(
        3, natural_accuracy=0.9, verified_accuracy=0.8, density=0.05, inference_flops=5e4
    )
    members = members or (best,)
    others = (make_trial(4, "stopped"), make_trial(5, "stopped"), make_trial(6, "failed"))
    study = StudyRecord("digits", "sqlite://", ("run",), (best, *others, make_trial(7)), None)
    return Front(study, objectives, (), members, members, ())


def test_a_front_says_what_was_tried_and_how_it_was_measured() -> None:
    title, head, _, row, caption, beneath = printed(front_table(make_front("natural_accuracy")))
    assert title == "Front of digits: 1 of 2 completed trials (2 stopped early, 1 failed)"
    assert head == "trial natural verified density FLOPs method run"
    # Wilson: 86.1 to 92.9 and 75.1 to 84.1, rounded outwards.
    assert row == "3 90.0% (86–93) 80.0% (75–85) 5.00% 50k rigl 32345678"
    assert caption == (
        "validation split, 300 examples · radius 0.05 (l∞) · verified by ibp + crown"
    )
    assert beneath == BRACKETS


def test_intervals_of_many_examples_have_a_decimal() -> None:
    front = make_front("natural_accuracy")
    (best,) = front.members
    many = replace(best, tags={**best.tags, "goldenticket.num_examples": "10000"})
    row = printed(front_table(replace(front, members=(many,))))[3]
    assert row.startswith("3 90.0% (89.3–90.6) 80.0% (79.2–80.8) ")


def test_without_a_number_of_examples_there_is_no_interval() -> None:
    front = make_front("natural_accuracy")
    (best,) = front.members
    tags = {k: text for k, text in best.tags.items() if not k.endswith("num_examples")}
    _, _, _, row, caption = printed(
        front_table(replace(front, members=(replace(best, tags=tags),)))
    )
    assert row == "3 90.0% 80.0% 5.00% 50k rigl 32345678"
    assert "an unknown number of examples" in caption


def test_exact_verdicts_are_a_column_where_a_member_has_them() -> None:
    front = make_front("natural_accuracy")
    (best,) = front.members
    exact = {"bound": "ibp+crown+exact", "split": "validation", "num_examples": "300",
             "num_unknown": "2", "seconds": "7.5"}  # fmt: skip
    tags = {f"goldenticket.exact_{name}": text for name, text in exact.items()}
    other = replace(
        best,
        number=9,
        metrics={**best.metrics, "exact_verified_accuracy": 0.85},
        tags={**best.tags, **tags},
    )
    lines = printed(front_table(replace(front, members=(best, other))))
    _, head, _, first, second, caption, *_ = lines
    assert head == "trial natural verified exact density FLOPs method run"
    assert first == "3 90.0% (86–93) 80.0% (75–85) - 5.00% 50k rigl 32345678"
    assert second == "9 90.0% (86–93) 80.0% (75–85) 85.0% (80–89) 5.00% 50k rigl 32345678"
    assert caption.endswith("verified by ibp + crown · exact: by exact too, at most 2 of 300 open")


def test_a_front_says_when_time_ran_out() -> None:
    front = make_front("natural_accuracy")
    late = replace(
        front.members[0], tags={**front.members[0].tags, "goldenticket.num_timeouts": "7"}
    )
    caption = printed(front_table(replace(front, members=(*front.members, late))))[5]
    assert caption.endswith("verified by ibp + crown, up to 7 left open for lack of time")


def test_further_objectives_follow_the_usual_columns_of_a_front() -> None:
    head = printed(front_table(make_front("training_flops", "verified_accuracy_at_0.1")))[1]
    assert head == "trial natural verified density FLOPs training FLOPs verified at 0.1 method run"


def test_what_a_constraint_is_about_is_a_column() -> None:
    front = make_front("natural_accuracy")
    where = (Constraint.parse("verified_accuracy_at_0.1 >= 0.5"),)
    head = printed(front_table(replace(front, where=where)))[1]
    assert head == "trial natural verified density FLOPs verified at 0.1 method run"


@pytest.mark.parametrize(
    ("width", "row"),
    [
        (80, "3 90.0% (86–93) 80.0% (75–85) 5.00% 50k rigl 32345678"),
        (74, "3 90.0% (86–93) 80.0% 5.00% 50k rigl 32345678"),  # the objective's is kept longest
        (68, "3 90.0% 80.0% 5.00% 50k rigl 32345678"),
    ],
)
def test_a_narrow_table_keeps_its_columns_and_leaves_intervals_out(width: int, row: str) -> None:
    lines = printed(front_table(make_front("natural_accuracy"), width), width=width)
    assert lines[3] == row
    told = " ".join(lines[4:])
    assert (BRACKETS if "(" in row else "of the accuracy, on these examples: --format") in told


def test_a_table_that_is_too_wide_loses_columns_that_nobody_asked_for_and_no_digits() -> None:
    front = make_front("natural_accuracy", "training_flops", "verified_accuracy_at_0.1")
    lines = printed(front_table(front, 80), width=80)
    assert lines[1] == "trial natural verified training FLOPs verified at 0.1 run"
    assert "left out for lack of room: density, method, FLOPs" in lines
    assert "…" not in " ".join(lines)


def test_rows_of_several_studies_say_which() -> None:
    front = make_front("natural_accuracy")
    (best,) = front.members
    other = replace(best, tags={**best.tags, "goldenticket.study": "other [b]"}, run_id="x" * 16)
    both = StudyRecord.together([front.study, replace(front.study, name="other [b]")])
    lines = printed(front_table(replace(front, study=both, members=(best, other))))
    assert lines[0].startswith("Front of digits, other [b]: 2 of 4 completed trials")
    assert lines[1].startswith("study trial natural")
    assert lines[3].startswith("digits 3 90.0%")
    assert lines[4].startswith("other [b] 3 90.0%")
    assert lines[-1].startswith("members digits/3 and other [b]/3 cannot be told apart")


def test_groups_of_one_seed_have_no_brackets_and_none_are_explained() -> None:
    groups, repeats = group_by_seed([make_trial(1, natural_accuracy=0.9)])
    front = make_front("natural_accuracy", members=tuple(groups))
    told = printed(front_table(replace(front, num_repeats=repeats)))[4:]
    assert not any("in brackets" in line for line in told)
    assert any("no configuration has completed with more than one seed; --study-run all" in line
               for line in told)  # fmt: skip


def test_seeds_have_a_row_with_their_mean_lowest_and_highest() -> None:
    runs = [
        make_trial(n, seed=f"{n}", natural_accuracy=a, density=0.25, inference_flops=f)
        for n, a, f in ((1, 0.90, 1000.0), (2, 0.94, 1000.0), (3, 0.95, 1000.0))
    ]
    groups, repeats = group_by_seed(runs)
    front = make_front("natural_accuracy", "inference_flops", members=tuple(groups))
    lines = printed(front_table(replace(front, num_repeats=repeats)))
    assert lines[0].startswith("Front of digits: 1 of 1 configurations (2 trials completed, ")
    assert lines[1] == "trial seeds natural verified density FLOPs method run"
    assert lines[3] == "1 3 93.0% (90.0–95.0) - 25.0% 1k rigl 12345678"
    assert lines[5] == "in brackets: lowest and highest over seeds"
    assert lines[6].startswith("figures are means over the seeds of a configuration")


def test_what_thinning_and_the_reference_did_is_told() -> None:
    front = make_front("natural_accuracy", "inference_flops")
    (best,) = front.members
    front = replace(
        front,
        epsilon={"natural_accuracy": Tolerance(0.005), "inference_flops": Tolerance(0.05, True)},
        thinned={"gone": best},
    )
    text = " ".join(printed(front_table(front.up_to({"natural_accuracy": 0.5,
                                                     "inference_flops": 1e5}))))  # fmt: skip
    assert "thinned by natural_accuracy=0.005, inference_flops=5%: 1 of 2 members" in text
    # 0.4 of accuracy times 50,000 FLOPs.
    assert re.search(r"hypervolume 20000 up to natural_accuracy=0\.5, inference_flops=100000", text)
    assert "add nothing" not in text
    idle = front.up_to({"natural_accuracy": 0.95, "inference_flops": 1e5})
    assert "hypervolume 0 up to" in " ".join(printed(front_table(idle)))
    assert "1 of 1 members are not better than it in all, and add nothing" in idle.notes[1]
