"""What an export is made from, and what a target is: it writes one Python file that executes a card's plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from pipeline.card import read_card
from pipeline.plan import Plan
from pipeline.registry import Registry
from pipeline.trial import TrialSpec


@dataclass(frozen=True)
class Source:
    """A card as `read_card` gives it. Its strings are anybody's: they reach a file through `pipeline.export.text`."""

    spec: TrialSpec
    plan: Plan
    card: Mapping[str, Any]

    @staticmethod
    def read(path: Path) -> Source:
        """Read a card.

        Raises:
            SpecError: the card is unreadable; names the file and the key.
        """
        return Source(*read_card(path))


class Target(Protocol):
    """Writes the file. `summary` says in a line what the file holds."""

    registry_name: ClassVar[str]
    summary: ClassVar[str]

    def render(self, source: Source) -> str:
        """The file's text: the same for the same card.

        Raises:
            SpecError: this target cannot run such a plan.
        """
        ...


TARGETS: Registry[Target] = Registry("export target", ("pipeline.export",))
