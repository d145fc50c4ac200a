"""What the command line does with clusters: launch files, and a search as a job."""

from __future__ import annotations

import importlib.resources
import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from spaces import StudyConfig

LAUNCH_FILES = {"ray-up": "ray-up.yaml", "kuberay": "rayjob.yaml", "slurm": "slurm.sh"}
cluster_app = typer.Typer(help="Launch files for clusters.", no_args_is_help=True)


@cluster_app.callback()
def _group() -> None:
    """Launch files for clusters."""


@cluster_app.command("show")
def cluster_show(
    kind: Annotated[
        Literal["ray-up", "kuberay", "slurm"],
        typer.Argument(help="What starts the cluster: `ray up`, Kubernetes with KubeRay, SLURM."),
    ],
) -> None:
    """Print a launch file, to be saved and filled in where it says FILL IN."""
    files = importlib.resources.files("search") / "cluster"
    print((files / LAUNCH_FILES[kind]).read_text(encoding="utf-8"), end="")


def search_as_job(
    study: StudyConfig, address: str, best: str, output: Path, resume: bool, resume_or_start: bool
) -> int:
    """Submit a search, follow it to its end and say what to run next; its exit status."""
    from search.jobs import submit_search  # noqa: PLC0415

    options = ["--best", best]
    if output.is_absolute():  # a relative one would lie in the job's own folder
        options += ["--output", str(output)]
    options += ["--resume"] * resume + ["--resume-or-start"] * resume_or_start
    try:
        status = submit_search(study, address, options)
    except KeyboardInterrupt:
        return 130
    if status == 0:
        uri = f"--tracking-uri {shlex.quote(study.tracking.uri)}"
        print(
            "Next, here:\n"
            f"  goldenticket front {study.name} {uri}\n"
            f"  goldenticket export {study.name} --best {best} {uri} "
            f"--to {shlex.quote(str(output / study.name))}",
            file=sys.stderr,
        )
    return status
