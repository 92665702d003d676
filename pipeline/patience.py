"""How long a task may take before its worker counts as hung: by what such tasks have taken."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.worker import Task


@dataclass
class Patience:
    """Limits in seconds. `factor` times what the slowest task of its kind took, by its size; `least` at the least.

    Before one of its kind is known a task has `first`: a model has to be loaded, and kernels to be compiled.
    """

    factor: float = 20.0
    least: float = 60.0
    first: float = 1800.0
    _slowest: dict[str, float] = field(default_factory=dict)

    def limit(self, task: Task) -> float:
        """How long this task may take."""
        slowest = self._slowest.get(task.what)
        return self.first if slowest is None else max(self.least, self.factor * slowest * _size(task))

    def took(self, task: Task, seconds: float) -> None:
        """A task of its kind was done in so many seconds."""
        self._slowest[task.what] = max(self._slowest.get(task.what, 0.0), seconds / _size(task))


def _size(task: Task) -> float:
    """Network evaluations, where the plan says how many."""
    images = 1 if task.seeds is None else len(task.seeds)
    return float(images * (1 if task.plan is None else len(task.plan)))
