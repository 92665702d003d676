"""The command run in this process, and what the tests expect of it when it works and when it refuses."""

import contextlib
import io
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer

import search_spaces
from pipeline import cli, store

TINY = Path(__file__).parent.parent / "data" / "tiny.yaml"
SHIPPED = sorted(path.stem for path in Path(search_spaces.__file__).parent.glob("*.yaml"))
TABLES = ("table.md", "table.csv", "table.tex")
COMMANDS = sorted(typer.main.get_command(cli.app).commands)


def command(*argv):
    """Run the command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setattr(sys, "argv", ["sigmasearch", *map(str, argv)])
        with pytest.raises(SystemExit) as left:
            cli.main()
    return SimpleNamespace(status=left.value.code or 0, out=out.getvalue(), err=err.getvalue())


def done(*argv):
    ran = command(*argv)
    assert ran.status == 0, ran.err
    return ran


def contents(folder):
    return {str(path.relative_to(folder)): path.is_file() and path.read_bytes() for path in folder.rglob("*")}


def refused(folder, *argv):
    """One line on stderr, status 2, nothing written; returns the line."""
    before = contents(folder)
    ran = command(*argv)
    assert ran.status == 2, ran
    assert ran.out == ""
    assert ran.err.startswith("error: ")
    assert ran.err.count("\n") == 1
    assert ran.err.endswith("\n")
    assert "Traceback" not in ran.err
    assert contents(folder) == before
    return ran.err


def misused(folder, *argv):
    """Typer's own words: a usage line and the reason."""
    ran = command(*argv)
    assert ran.status == 2
    assert "Usage: sigmasearch" in ran.err
    assert "Traceback" not in ran.err
    assert contents(folder) == {}
    return " ".join(ran.err.split())


@dataclass
class Visit:
    """What one run of the search command printed and left behind."""

    ran: SimpleNamespace
    tables: dict[str, bytes]
    cards: dict[str, bytes]
    runs: dict[str, int]
    roles: Counter[str]
    told: dict = field(default_factory=dict)


def mlflow_runs(uri):
    """When each run ended, by its id, and how many trials of each role there are."""
    from mlflow import MlflowClient
    from mlflow.entities import ViewType

    client = MlflowClient(tracking_uri=uri)
    (experiment,) = [e for e in client.search_experiments() if e.name != "Default"]
    runs = client.search_runs([experiment.experiment_id], run_view_type=ViewType.ALL)
    roles = Counter(run.data.tags[store.ROLE] for run in runs if store.ROLE in run.data.tags)
    return {run.info.run_id: run.info.end_time for run in runs}, roles
