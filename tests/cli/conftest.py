"""A folder for every test, and one study run three times for all that look at a finished one."""

import json

import pytest

from tests.cli.console import TABLES, TINY, Visit, done, mlflow_runs


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Every test has a folder of its own to write in by mistake."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("tiny")


@pytest.fixture(scope="session")
def visits(root):
    """The study run, run again for a script, and continued to 8 trials."""

    def visit(*options):
        ran = done("search", TINY, "--run-dir", root / "runs" / "tiny", *options)
        report, front = root / "runs" / "tiny" / "report", root / "runs" / "tiny" / "front"
        return Visit(
            ran,
            {name: (report / name).read_bytes() for name in TABLES},
            {path.name: path.read_bytes() for path in front.glob("*.json")},
            *mlflow_runs(f"sqlite:///{root / 'runs' / 'mlflow.db'}"),
            json.loads(ran.out) if "--json" in options else {},
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return [visit(), visit("--json"), visit("--trials", 8, "--json")]


@pytest.fixture(scope="session")
def runs(visits, root):
    """The folder with the finished study's MLflow store."""
    return root / "runs"


@pytest.fixture(scope="session")
def card(visits, runs):
    return sorted((runs / "tiny" / "front").glob("*.json"))[-1]
