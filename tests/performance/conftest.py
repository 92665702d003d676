"""Measurements, not tests: a plain run leaves them out, `make bench` runs them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Collect this folder only where `--benchmark-only` asks for it."""
    del collection_path
    return None if config.getoption("--benchmark-only", default=False) else True


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def show(capsys):
    """Print a line past pytest's capture."""

    def line(text):
        with capsys.disabled():
            print(f"\n  {text}", end="")

    return line
