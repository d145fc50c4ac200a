"""`goldenticket space`: the search space of a study file."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Annotated

import typer

from search.display import space_table, stdout
from spaces import StudyConfig

StudyFile = Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The study file.")]
space_app = typer.Typer(help="Look at the search space of a study file.", no_args_is_help=True)


@space_app.command("show")
def space_show(study_file: StudyFile) -> None:
    """List what may be tried: each parameter, its values, and when it is asked for."""
    study = StudyConfig.from_yaml(study_file)
    stdout().print(space_table(study.search_space(), f"Search space of {study.name}"))


@space_app.command("sample")
def space_sample(
    study_file: StudyFile,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many trials.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 0,
) -> None:
    """Print trial configurations drawn at random, one JSON document per line."""
    space = StudyConfig.from_yaml(study_file).search_space()
    rng = random.Random(seed)
    for _ in range(count):
        print(space.decode(space.sample(rng)).model_dump_json())


@space_app.command("schema")
def space_schema(study_file: StudyFile) -> None:
    """Print the JSON Schema of study files, for editors; the file itself is checked first."""
    StudyConfig.from_yaml(study_file)
    print(json.dumps(StudyConfig.model_json_schema(), indent=2))
