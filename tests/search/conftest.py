"""Toy trials for every test here, and one Ray for all tests that need it."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = str(Path(__file__).parent)
sys.path.insert(0, HERE)


@pytest.fixture(autouse=True)
def _not_under_uv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UV", raising=False)  # `uv run` sets it, and suggested commands follow it


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    os.environ["PYTHONPATH"] = os.pathsep.join([HERE, *filter(None, sys.path)])  # of the workers
    import ray

    from search.ray_session import start_on_loopback

    start_on_loopback(num_cpus=2)
    yield
    ray.shutdown()
