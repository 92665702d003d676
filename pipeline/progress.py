"""What a search looks like while it runs: a live table on a terminal, plain lines in a job's log."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipeline.job import Status
from pipeline.result import TrialRecord
from reports.numbers import with_error

SEARCHED = ("searched", "published")


class Standings:
    """The best FID at each budget so far, of the search and of the baselines, and the floor."""

    def __init__(self, budgets: Sequence[int], records: Iterable[TrialRecord] = ()) -> None:
        self.budgets = list(budgets)
        self.best: dict[tuple[str, int], TrialRecord] = {}
        self.floor: TrialRecord | None = None
        for record in records:
            self.add(record)

    def add(self, record: TrialRecord) -> None:
        """Let a finished trial compete at every budget that its NFE fits in; a confirmation moves nothing."""
        if record.result is None or record.role == "confirmed":
            return  # other seeds have another bias
        if record.role == "floor":
            self.floor = record
            return
        side = "search" if record.role in SEARCHED else "baseline"
        for budget in self.budgets:
            held = self.best.get((side, budget))
            better = held is None or held.result is None or record.result.fid < held.result.fid
            if record.result.nfe <= budget and better:
                self.best[side, budget] = record

    def fid(self, side: str, budget: int) -> str:
        """The best FID of one side at a budget, to print."""
        record = self.best.get((side, budget))
        return "–" if record is None or record.result is None else short(record.result.fid)

    def rows(self) -> list[list[str]]:
        """One row a contender: name, then its best FID at each budget."""
        floor = "–" if self.floor is None or self.floor.result is None else short(self.floor.result.fid)
        return [
            ["searched", *(self.fid("search", budget) for budget in self.budgets)],
            ["baselines", *(self.fid("baseline", budget) for budget in self.budgets)],
            ["fine solve", *(floor for _ in self.budgets)],
        ]


def short(value: float) -> str:
    """A FID in three digits: eleven budgets fit 80 columns."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def clock(seconds: float | None) -> str:
    """Minutes and seconds; a dash where unknown."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def outcome(record: TrialRecord) -> str:
    """One finished trial in a line."""
    if record.result is None:
        return f"{record.key:<28} {record.state}: {record.reason}"
    result = record.result
    again = f"  (plan of {record.same_as})" if record.same_as else ""
    # A searched method names its schedule; a published one may have been given another.
    baseline = "baseline" in (record.role, record.confirms.partition("/")[0])
    method = f"{record.method} · {result.spec.schedule.get('name', '')}" if baseline else record.method
    fid = " ± ".join(with_error(result.fid, result.fid_se))
    return f"{record.key:<28} FID {fid:<19} NFE {result.nfe:<4g} {method}{again}"


class PlainProgress:
    """For logs: one line a finished trial, the standings every `every` trials, a sign of life in `quiet` seconds."""

    def __init__(
        self,
        console: Console,
        standings: Standings,
        every: int = 25,
        quiet: float = 60.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.console, self.standings, self.every, self.quiet = console, standings, every, quiet
        self._now, self._spoke = now, now()

    def __enter__(self) -> PlainProgress:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def finished(self, record: TrialRecord, status: Status) -> None:
        """Print the trial, and now and then where things stand."""
        self.standings.add(record)
        self._line(f"[{status.done}/{status.total}] {outcome(record)}")
        if status.done % self.every == 0 and status.done < status.total:
            self._where(status)
            self._line("   budget        " + " ".join(f"{budget:>5}" for budget in self.standings.budgets))
            for name, *cells in self.standings.rows():
                self._line(f"   {name:<13} " + " ".join(f"{cell:>5}" for cell in cells))

    def waiting(self, status: Status) -> None:
        """Say where things stand, if nothing has been said for a while: a trial of many images takes its time."""
        if self._now() - self._spoke >= self.quiet:
            self._where(status)

    def _where(self, status: Status) -> None:
        counts = f"{status.running} running, {status.failed} failed"
        clocks = f"{clock(status.seconds)} so far, about {clock(status.seconds_left)} left"
        self._line(f"-- {status.done} of {status.total} done, {counts}, {clocks}")

    def _line(self, text: str) -> None:
        self._spoke = self._now()
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


class LiveProgress:
    """A table that stays in place: progress, time left, standings at each budget, the last trials."""

    def __init__(self, console: Console, standings: Standings) -> None:
        self.console, self.standings = console, standings
        self._recent: list[str] = []
        self._status = Status(total=0)
        self._live = Live(console=console, refresh_per_second=4, get_renderable=self.render)

    def __enter__(self) -> LiveProgress:
        self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._live.stop()

    def finished(self, record: TrialRecord, status: Status) -> None:
        """Show the trial among the last ones."""
        self.standings.add(record)
        self._recent = [*self._recent[-4:], outcome(record)]
        self._status = status

    def waiting(self, status: Status) -> None:
        """Keep the clock going."""
        self._status = status

    def render(self) -> Group:
        """The screen."""
        status = self._status
        if status.total == 0:
            return Group()
        head = Text.assemble(
            (f"{status.done}/{status.total} trials", "bold"),
            f"   {status.running} running   ",
            (f"{status.failed} failed", "red" if status.failed else ""),
            f"   {clock(status.seconds)} so far   ",
            (f"about {clock(status.seconds_left)} left", "bold"),
        )
        title = "Best FID within each NFE budget (lower is better)"
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
        table.add_column("budget", style="bold", no_wrap=True)
        for budget in self.standings.budgets:
            table.add_column(str(budget), justify="right", no_wrap=True)
        styles = ("green", "", "dim")
        for style, row in zip(styles, self.standings.rows(), strict=True):
            table.add_row(*row, style=style)
        bar = Table.grid()
        bar.add_row(ProgressBar(total=status.total, completed=status.done, width=min(self.console.width, 80)))
        recent = [Text(line, style="dim", no_wrap=True, overflow="ellipsis") for line in self._recent]
        return Group(head, bar, table, *recent)


def progress(console: Console, standings: Standings) -> LiveProgress | PlainProgress:
    """The live table where the output is a terminal that can redraw, plain lines where it is not.

    FORCE_COLOR makes any output a terminal for Rich; a log would hold every frame.
    """
    live = console.is_terminal and not console.is_dumb_terminal and console.file.isatty()
    return LiveProgress(console, standings) if live else PlainProgress(console, standings)
