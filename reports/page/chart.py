"""Where a value lies on an axis, in percent of its length, and which values are written beside it.

Percent, so that a chart is as wide as its reader's screen and its text stays as large as the page's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

APART = 3.4  # percent of an axis that its numbers need, on a wide screen


class Tick(NamedTuple):
    """A value on an axis. `crowded`: there is no room for it on a narrow screen."""

    at: str
    text: str
    crowded: bool = False


@dataclass(frozen=True)
class Axis:
    """From `low` to `high`, logarithmic or not; a `falling` one begins with `high`, as an upright one at its top."""

    low: float
    high: float
    log: bool = True
    falling: bool = False

    @staticmethod
    def around(values: Iterable[float], *, margin: float = 1.12, falling: bool = False) -> Axis:
        """A logarithmic axis that holds all these positive values, with a factor of room at either end."""
        held = list(values)
        return Axis(min(held) / margin, max(held) * margin, falling=falling)

    def at(self, value: float) -> str:
        """Percent of the length, cut off a little beyond the ends."""
        return f"{self._at(value):.2f}%"

    def holds(self, value: float) -> bool:
        """Whether it is drawn."""
        return self.low <= value <= self.high

    def ticks(self, values: Sequence[float], apart: float = APART) -> list[Tick]:
        """Those of the values that lie on the axis and at least `apart` percent from each other, as text."""
        found: list[Tick] = []
        last = last_wide = -math.inf
        for value in sorted(value for value in values if self.holds(value)):
            place = 100 - self._at(value) if self.falling else self._at(value)
            if place - last < apart:
                continue
            crowded = place - last_wide < 2 * apart
            found.append(Tick(self.at(value), f"{value:,.10g}" if value < 1e6 else f"{value:.0e}", crowded))
            last, last_wide = place, last_wide if crowded else place
        return found

    def decades(self, apart: float = APART) -> list[Tick]:
        """1, 2 and 5 of each decade, or each decade alone where there are many."""
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        many = math.log10(self.high / self.low)
        steps = (1, 2, 5) if many * apart < 3 * APART else (1,)
        every = max(1, math.ceil(many / 8))
        powers = range(first, last + 1)
        return self.ticks([step * 10.0**power for power in powers if power % every == 0 for step in steps], apart)

    def _at(self, value: float) -> float:
        if self.log:
            low, high, value = math.log(self.low), math.log(self.high), math.log(max(value, self.low / 1e3))
        else:
            low, high = self.low, self.high
        place = 100 * (value - low) / (high - low) if high > low else 50.0
        place = min(max(place, -20.0), 120.0)
        return 100 - place if self.falling else place
