"""The papers' tables of a study: all files of them as text, written to a folder or compared with one."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from pipeline.registry import SpecError
from pipeline.whole_file import write_whole
from reports import record
from reports.artifacts import RunArtifacts
from reports.layouts import LAYOUTS
from reports.layouts.comparable import comparables
from reports.layouts.render import Filled, latex, links, long_form, markdown
from reports.markdown import counted, md
from reports.runs import Runs

INDEX, LINKS = "index.md", "links.csv"


def build(uri: str, experiment: str, study: str, *, linked: bool = False) -> tuple[dict[str, str], list[str]]:
    """Every file by its name, and what a reader of the record must know (a namesake, a run that is missing).

    Same record, same bytes; with `linked` the ids of the runs are in them, which another copy of the record gives anew.

    Raises:
        SpecError: no such store, experiment or study, or one without a scored trial.
    """
    frame = record.read(uri, experiment, study)
    runs = Runs.of(uri, experiment, frame)
    groups = comparables(frame, functools.cache(RunArtifacts(uri).get))
    if not groups:
        raise SpecError("this study has no scored trial yet", path="study", given=study, allowed="one that has")
    filled = [Filled.of(layout, groups) for layout in LAYOUTS]
    told = notices(frame, runs)
    files = {INDEX: _index(frame, filled, told)}
    for each in filled:
        name = each.layout.name
        files[f"{name}.md"] = markdown(each, runs.path if linked else None)
        files[f"{name}.csv"] = long_form(each)
        files[f"{name}.tex"] = latex(each)
    if linked:
        files[LINKS] = links(filled, runs.path)
    return files, told


def notices(frame: pd.DataFrame, runs: Runs) -> list[str]:
    """What of the record is not as a search leaves it, a sentence each; and which of several studies is read."""
    told = []
    if runs.namesakes > 1:
        name = frame["study"].iloc[0]
        which = f"{name}{record.AT}{runs.fingerprint[: record.FEW_DIGITS]}"
        told.append(f"{runs.namesakes} studies of this experiment are called {name}; these tables are of {which}.")
    foreign, broken = frame[frame["state"].eq("foreign")], frame[frame["state"].eq("broken")]
    if not foreign.empty:
        names = ", ".join(sorted(_printable(name) or "without a name" for name in foreign["name"]))
        told.append(f"{len(foreign)} runs of this experiment are no trials of the study and are in no table: {names}.")
    if not broken.empty:
        told.append(f"{len(broken)} trials have no FID that can be read and are in no table: {_listed(broken['key'])}.")
    if runs.deleted:
        told.append(
            f"{len(runs.deleted)} runs were deleted in MLflow and are in no table: {_listed(runs.deleted)}; "
            "`sigmasearch sync` writes them again."
        )
    if runs.gone:
        told.append(
            f"The study's run counted {runs.gone} trials more than MLflow still has; `sigmasearch sync` writes them "
            "again."
        )
    return told


def write(files: Mapping[str, str], folder: Path) -> list[Path]:
    """Write the files; links of an earlier time that do not belong to them are taken away."""
    folder.mkdir(parents=True, exist_ok=True)
    if LINKS not in files:
        (folder / LINKS).unlink(missing_ok=True)
    for name, text in files.items():
        write_whole(folder / name, text.encode())
    return [folder / name for name in files]


def differences(files: Mapping[str, str], folder: Path) -> list[str]:
    """Where a folder is not these files, to the byte: each file that is missing, or the first line that differs."""
    found = []
    if LINKS not in files and (folder / LINKS).exists():
        found.append(f"{folder / LINKS}: was made with --links, which --check needs as well then")
    for name, text in files.items():
        path, wanted = folder / name, text.encode()
        try:
            held = path.read_bytes()
        except FileNotFoundError:
            found.append(f"{path}: is missing")
            continue
        except OSError as error:
            found.append(f"{path}: cannot be read ({error.strerror})")
            continue
        if held != wanted:
            found.append(f"{path}, line {_first(held, wanted)}: is not what the record gives")
    return found


def _first(held: bytes, wanted: bytes) -> int:
    """The number of the first line that differs."""
    ours, theirs = held.split(b"\n"), wanted.split(b"\n")
    same = next((n for n, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))
    return same + 1


def _index(frame: pd.DataFrame, filled: list[Filled], told: list[str]) -> str:
    lines = ["| table | cells | of them empty | files |", "|:--|--:|--:|:--|"]
    for each in filled:
        cells = [cell for *_, cell in each.cells()]
        empty = sum(cell.empty for cell in cells)
        name = each.layout.name
        lines.append(
            f"| [{each.layout.title}]({name}.md) | {len(cells)} | {empty} | [csv]({name}.csv), [tex]({name}.tex) |"
        )
    title = f"# Tables of {md(frame['study'].iloc[0])} on {md(frame['benchmark'].iloc[0])}"
    return "\n\n".join([title, counted(frame), *map(md, told), "\n".join(lines)]) + "\n"


def _printable(text: str) -> str:
    """Without what a terminal would obey."""
    return "".join(character for character in text if character.isprintable())


def _listed(keys: Iterable[str]) -> str:
    return ", ".join(sorted(map(_printable, keys), key=record.natural))
