"""The screen: who counts for which row and budget, and what a log is told when."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from pipeline.job import Status
from pipeline.progress import LiveProgress, PlainProgress, Standings, outcome, progress
from tests.synthetic_study import record


def standings(*records):
    return Standings((4, 8), records).rows()


def test_each_side_shows_its_best_within_each_budget():
    rows = standings(
        record("floor", 99, 0.1),
        record("baseline/ddim/4", 4, 0.9),
        record("baseline/heun/7", 7, 0.95),
        record("published/0", 3, 0.8),
        record("searched/1", 8, 0.5),
        record("searched/2", 8, 0.6),
        record("searched/3", 9, 0.2),
    )
    assert rows == [
        ["searched", "0.80", "0.50"],
        ["baselines", "0.90", "0.90"],
        ["fine solve", "0.10", "0.10"],
    ]


@pytest.mark.parametrize("of", ["floor", "baseline/ddim/4", "searched/0"])
def test_a_confirmation_moves_no_row(of):
    """Its seeds are others, and so is its luck."""
    held = [record("floor", 99, 0.3), record("baseline/ddim/4", 4, 0.9), record("searched/0", 4, 0.8)]
    again = replace(record(of, 4, 0.01), key=f"confirmed/{of}", role="confirmed", confirms=of)
    assert standings(*held, again) == standings(*held)


def test_who_has_no_score_moves_no_row():
    waits = replace(record("searched/0", 4, 0.1), result=None, state="pruned", waiting=True)
    assert standings(waits) == [["searched", "–", "–"], ["baselines", "–", "–"], ["fine solve", "–", "–"]]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def kind(file, monkeypatch, **environment):
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return type(progress(Console(file=file), Standings((4,))))


def test_only_a_terminal_that_can_redraw_has_a_table_in_place(monkeypatch):
    assert kind(Terminal(), monkeypatch, TERM="xterm") is LiveProgress
    assert kind(Terminal(), monkeypatch, TERM="dumb") is PlainProgress
    assert kind(io.StringIO(), monkeypatch, TERM="xterm") is PlainProgress
    assert kind(io.StringIO(), monkeypatch, TERM="xterm", FORCE_COLOR="1") is PlainProgress


class Log:
    """A job's log and its clock."""

    def __init__(self, **options):
        self.file, self.time, self.status = io.StringIO(), 0.0, Status(total=200, running=3)
        self.plain = PlainProgress(Console(file=self.file, width=40), Standings((4, 8)), now=self.now, **options)

    def now(self):
        return self.time

    def finish(self, *records):
        for each in records:
            self.status.done += 1
            self.plain.finished(each, self.status)

    def lines(self):
        return self.file.getvalue().splitlines()


def test_a_log_has_one_whole_line_for_each_trial_however_narrow_it_is():
    log = Log()
    log.finish(record("floor", 99, 0.1), record("searched/0", 4, 0.00556, 0.00014, method="euler>heun@2 · sdm 4" * 3))
    assert len(log.lines()) == 2
    assert [line.split("]")[0] for line in log.lines()] == ["[1/200", "[2/200"]
    assert log.lines()[1].endswith("sdm 4")


def test_a_log_says_where_things_stand_every_so_many_trials():
    log = Log(every=2)
    log.finish(*(record(f"searched/{i}", 4, 0.5 - i / 10) for i in range(3)))
    starts = [line.split()[:2] for line in log.lines()]
    where = [["--", "2"], ["budget", "4"], ["searched", "0.40"], ["baselines", "–"], ["fine", "solve"]]
    assert starts == [["[1/200]", "searched/0"], ["[2/200]", "searched/1"], *where, ["[3/200]", "searched/2"]]
    assert log.lines()[4].split() == ["searched", "0.40", "0.40"]


def test_a_log_gives_a_sign_of_life_once_a_minute_and_only_when_it_has_been_quiet():
    log = Log()
    for log.time in range(1, 60):
        log.plain.waiting(log.status)
    assert log.lines() == []
    for log.time in range(60, 121):
        log.plain.waiting(log.status)
    assert [line.split(",")[0] for line in log.lines()] == ["-- 0 of 200 done"] * 2
    log.time = 170
    log.finish(record("floor", 99, 0.1))
    for log.time in range(171, 230):
        log.plain.waiting(log.status)
    assert len(log.lines()) == 3


def test_a_line_names_the_schedule_once():
    baseline = record("baseline/ddim/4", 4, 0.9, method="DDIM")
    searched = record("searched/1", 4, 0.5, method="euler · edm 4")
    assert outcome(baseline).endswith("DDIM · edm")
    assert outcome(searched).endswith("euler · edm 4")
    for one in (baseline, searched):
        again = replace(one, key=f"confirmed/{one.key}", role="confirmed", confirms=one.key)
        assert outcome(again).split()[-3:] == outcome(one).split()[-3:]
