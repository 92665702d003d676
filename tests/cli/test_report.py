"""`sigmasearch report`: a study by its name, or a report of its own."""

import csv
import io
import json
import shutil

import pytest
import typer

from pipeline import report_commands
from reports.layouts import LAYOUTS
from search_spaces.study import RESERVED
from tests.cli.console import TABLES, TINY, command, contents, done, misused, mlflow_runs, refused

WORDS = sorted(set(typer.main.get_command(report_commands.app).commands) - {report_commands.STUDY})


def test_a_study_may_not_be_called_like_a_report():
    assert {"nfe", "tables"} <= set(WORDS) <= set(RESERVED)


@pytest.mark.parametrize("before", [True, False])
def test_a_study_is_reported_with_its_options_before_or_behind_it(before, runs, elsewhere):
    options = ("--out", "copy", "--runs", runs)
    ran = done("report", *(options if before else ()), "tiny", *(() if before else options))
    assert set(TABLES) <= {path.name for path in (elsewhere / "copy").iterdir()}
    assert "copy/table.md" in ran.out.splitlines()


@pytest.mark.parametrize("word", ["STUDY", "table", "digits"])
def test_a_word_that_is_no_report_is_a_study(word, runs, elsewhere):
    assert f"no such study in this store, given {word!r}" in refused(elsewhere, "report", word, "--runs", runs)


def test_without_a_word_it_is_the_demos_study(runs, elsewhere):
    assert "given 'digits'" in refused(elsewhere, "report", "--runs", runs)


def test_help_names_the_reports_and_each_has_an_example():
    out = done("report", "--help").out
    for word in (*WORDS, "STUDY"):
        assert f" {word} " in out
        shown = " ".join(done("report", word, "--help").out.split())
        assert "Example: sigmasearch report" in shown
    assert "--benchmark" in done("report", "digits", "--help").out


def test_the_tables_are_written_checked_and_traced(runs, elsewhere):
    made = ("report", "tables", "tiny", "--runs", runs, "--out", "tables")
    ran = done(*made)
    files = sorted(path.name for path in (elsewhere / "tables").iterdir())
    assert files == sorted(["index.md", *(f"{each.name}.{end}" for each in LAYOUTS for end in ("md", "csv", "tex"))])
    assert sorted(ran.out.split()) == [f"tables/{name}" for name in files]
    before = contents(elsewhere)
    assert done(*made, "--check").out == f"{len(files)} files of tables are what the record gives\n"
    assert contents(elsewhere) == before

    text = (elsewhere / "tables" / "few-steps.md").read_text()
    (elsewhere / "tables" / "few-steps.md").write_text(text.replace("| euler |", "| heun |", 1))
    line = text.split("| euler |")[0].count("\n") + 1
    told = command(*made, "--check")
    assert (told.status, told.out) == (1, "")
    assert told.err == f"error: tables/few-steps.md, line {line}: is not what the record gives\n"

    held = json.loads(done(*made, "--links", "--json").out)
    assert held["benchmark"] == "gmm"
    assert held["notes"] == []
    links = list(csv.DictReader(io.StringIO((elsewhere / "tables" / "links.csv").read_text())))
    assert {item["layout"] for item in links} >= {"few-steps", "eta-steps", "sigmas"}
    told = json.loads(done(*made, "--links", "--check", "--json").out)
    assert told["differences"] == []
    assert len(told["files"]) == len(files) + 1
    assert "tables/links.csv: was made with --links" in command(*made, "--check").err


def test_a_store_that_is_filled_anew_gives_the_same_tables(runs, elsewhere):
    done("report", "tables", "tiny", "--runs", runs, "--out", "tables")
    shutil.copytree(runs / "tiny", elsewhere / "again" / "tiny")
    done("sync", TINY, "--run-dir", "again/tiny")
    made = ("report", "tables", "tiny", "--runs", "again", "--out", "tables")
    assert command(*made, "--check").err == ""
    assert len(mlflow_runs(f"sqlite:///{elsewhere / 'again' / 'mlflow.db'}")[0]) > 10


def test_the_record_of_a_search_fills_the_tables(runs, elsewhere):
    done("report", "tables", "tiny", "--runs", runs, "--out", "tables")
    text = (elsewhere / "tables" / "eta-steps.md").read_text()
    assert "### Euler, 3 evaluations" in text
    assert "could not be read" not in text
    (three,) = (part for part in text.split("### ") if part.startswith("Euler, 3 evaluations"))
    rows = [line.split("|")[1:-1] for line in three.splitlines() if line.startswith("| ")]
    assert rows[0] == [" evaluation ", " edm sigma ", " edm eta "]
    assert float(rows[1][1]) == 80
    assert all(float(row[2]) > 0 for row in rows[2:])
    assert "| euler | edm | 3 | 80, " in (elsewhere / "tables" / "sigmas.md").read_text()


def test_what_is_not_there_is_missing_and_what_is_in_the_way_is_told(runs, elsewhere):
    made = ("report", "tables", "tiny", "--runs", runs)
    told = command(*made, "--out", "nowhere", "--check")
    assert told.status == 1
    assert "error: nowhere/index.md: is missing\n" in told.err
    assert contents(elsewhere) == {}
    (elsewhere / "taken").write_text("a file")
    assert "--out: cannot be written" in refused(elsewhere, *made, "--out", "taken")
    assert "taken/index.md: cannot be read (Not a directory)" in command(*made, "--out", "taken", "--check").err
    assert "no such study in this store, given 'tinny'" in refused(
        elsewhere, "report", "tables", "tinny", "--runs", runs
    )
    assert "given 'gm'" in refused(elsewhere, *made, "--benchmark", "gm")


def test_a_wrong_option_is_told(elsewhere):
    assert "No such option" in misused(elsewhere, "report", "tables", "--chek")
    assert "No such option" in misused(elsewhere, "report", "digits", "--check")
