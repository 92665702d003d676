"""Records by hand for the layouts: trials with the params that MLflow holds of their spec, and files of their runs."""

from __future__ import annotations

import json
from typing import Any

from reports.layouts.comparable import Comparable, comparables
from reports.layouts.table import Table
from reports.record import frame_of
from tests.report_rows import row

SWITCH = {"name": "switch", "low.name": "euler", "high.name": "heun", "rule": "step"}


def trial(key: str, solver: dict[str, Any] | str, schedule: str, nfe: float, fid: float, **more: Any) -> dict[str, Any]:
    """A scored trial of this pair; `moves` and further params by name."""
    fields = {"name": solver} if isinstance(solver, str) else solver
    params = {f"solver.{name}": str(value) for name, value in fields.items()}
    params |= {"schedule.name": schedule} | {f"schedule.{k}": str(v) for k, v in more.pop("placed", {}).items()}
    if "moves" in more:
        params["schedule.num_steps"] = str(more.pop("moves"))
    params |= more.pop("params", {})
    held = {"plan": key, "run_id": f"run-{key}", "role": key.split("/")[0]} | more
    return row(key, nfe, fid, **held) | {f"params.{name}": value for name, value in params.items()}


def comparable(*rows: dict[str, Any], files: Any = None) -> Comparable:
    """The one group of these rows."""
    (group,) = comparables(frame_of(rows), *([files] if files else []))
    return group


def texts(table: Table) -> dict[tuple[str, ...], list[str]]:
    """What a table shows, by its rows' labels: the FID or the text, `*` lowest, `~` inconclusive, `[...]` printed."""
    shown = {}
    for line in table.lines:
        shown[line.labels] = [
            (cell.text or (f"{cell.row['fid']:g}" if cell.row is not None else ""))
            + cell.after
            + "*" * cell.lowest
            + "~" * cell.tied
            + "".join(f"[{value}]" for value, _ in cell.printed)
            for cell in line.cells
        ]
    return shown


def card(sigmas: Any, walk: Any = None) -> bytes:
    return json.dumps({"plan": {"sigmas": sigmas}, **({"walk": walk} if walk else {})}).encode()


def files_of(held: dict[str, dict[str, bytes]]) -> Any:
    """Files by the key of their trial and their name."""
    return lambda run_id, name: held.get(run_id.removeprefix("run-"), {}).get(name)
