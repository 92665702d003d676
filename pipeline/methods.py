"""Published methods: a solver and a schedule as their authors run them, for a given number of network evaluations.

A baseline's file registers its own. A report asks here what to run beside SDM, and at which budgets that is possible.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.registry import SpecError, import_all

# The specs of a solver and of a schedule, ready for `Registry.build`.
Pair = tuple[dict[str, Any], dict[str, Any]]


@dataclass(frozen=True)
class Method:
    """A published method.

    `source` says who published the setting and where. `pair` turns an NFE into the two specs, or into None where the
    method cannot spend exactly that many evaluations.
    """

    name: str
    title: str
    source: str
    pair: Callable[[int], Pair | None]

    def spending(self, nfe: int, rows_per_image: int) -> Pair | None:
        """The pair for a network that takes so many rows an evaluation, as a guided one does; NFE counts rows."""
        evaluations, rest = divmod(nfe, rows_per_image)
        return None if rest or not evaluations else self.pair(evaluations)


class Methods:
    """Methods by name, filled by importing `baselines` when first asked."""

    def __init__(self, plugins: tuple[str, ...] = ()) -> None:
        self._plugins = plugins
        self._methods: dict[str, Method] = {}

    def register(self, method: Method) -> Method:
        """File `method` under its name. A second method of that name is a programming error."""
        if self._methods.setdefault(method.name, method) is not method:
            raise ValueError(
                f"two methods are called {method.name!r}: {self._methods[method.name].title} and {method.title}"
            )
        return method

    def names(self) -> list[str]:
        """Every registered name, sorted."""
        self._fill()
        return sorted(self._methods)

    def get(self, name: str) -> Method:
        """The method called `name`; a `SpecError` names the nearest one if there is none."""
        self._fill()
        if name not in self._methods:
            raise SpecError("unknown method", given=name, allowed=self.names())
        return self._methods[name]

    def __contains__(self, name: object) -> bool:
        self._fill()
        return name in self._methods

    def __iter__(self) -> Iterator[Method]:
        return iter([self._methods[name] for name in self.names()])

    def __len__(self) -> int:
        return len(self.names())

    def _fill(self) -> None:
        plugins, self._plugins = self._plugins, ()
        import_all(plugins)


METHODS = Methods(("baselines",))
