"""A study made public: its record in MLflow, marked and described, with its report; and whether that is so already."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from pipeline import benchmarks, rerun
from pipeline.card import card as card_of
from pipeline.card import write_card
from pipeline.device import AUTO, CPU
from pipeline.entry import Entry, file_digests, flat
from pipeline.marks import marks
from pipeline.portrait_store import PortraitStore, digest_of
from pipeline.store import NOTE, SAMPLES
from pipeline.summary import Outcome
from pipeline.tracking import Record
from reports import figures, page, path_figures, tables
from reports.artifacts import RunArtifacts
from reports.leaderboard import PICTURE, Page, leaderboard
from reports.record import AT, complete, frame_of_told, read
from search_spaces import Study

if TYPE_CHECKING:
    from pipeline.result import TrialRecord

# By the names that the study's run has them under, what they are called in the report's folder.
ATTACHED = {
    "table.md": "table.md",
    "table.csv": "table.csv",
    "table.tex": "table.tex",
    "front.png": "front.png",
    "report.html": "report.html",
    PICTURE: PICTURE,
}
PICTURE_DPI = 160  # MLflow shows it in its own size: 560 pixels, half the page
NAMED = 5  # trials in a line about many


def publish(study: Study, record: Record, uri: str, folder: Path, records: Sequence[TrialRecord]) -> Outcome:
    """Read the record back, mark its front, and make the report, the pictures and the cards from it."""
    frame = _read(study, uri)
    outcome = Outcome(study, folder, uri, 0.0, 0, frame)
    here = Page(record.experiment_id, record.run_id)
    if complete(frame).empty:
        record.mark_front(())
        record.describe_study(leaderboard(frame, here))
        record.finish("FAILED")
        return outcome
    front = [str(key) for key in outcome.front()["key"]]
    record.mark_front(front)
    outcome.frame = frame = _read(study, uri)
    report = folder / "report"
    outcome.files = {path.name: path for path in tables.write(frame, report, study.budgets)}
    outcome.files["front.png"] = figures.front_png(frame, report / "front.png")
    outcome.files[PICTURE] = figures.front_png(frame, report / PICTURE, PICTURE_DPI)
    outcome.files["front.svg"] = figures.front_svg(frame, report / "front.svg")
    artifacts = RunArtifacts(uri)
    outcome.files["report.html"] = page.write(frame, report / "report.html", artifacts, study.budgets)
    outcome.files |= {path.name: path for path in path_figures.write(frame, report, artifacts, study.budgets)}
    device = AUTO if study.resources.gpus else CPU
    outcome.files["front"] = _cards(folder / "front", front, records, device)
    record.attach({name: outcome.files[held] for name, held in ATTACHED.items()})
    record.describe_study(leaderboard(frame, here))
    record.name_settings(settings(study))
    record.set_leaderboard_view()
    record.finish()
    return outcome


def differences(study: Study, uri: str, records: Sequence[TrialRecord], portraits: PortraitStore) -> list[str]:
    """In what MLflow's record differs from the study's truth, one line each; nothing is written.

    Raises:
        SpecError: the store cannot be opened.
    """
    experiment = benchmarks.load(study.benchmark).name
    record = Record.find(uri, experiment, study.study, study.fingerprint)
    if record is None:
        return [f"{experiment}: no run of the study {study.study}"]
    entries = {item.key: Entry.of(item, portraits.of(item)) for item in records}
    told = [f"run {twin}: a second one of this study" for twin in record.twins]
    told += [f"{child.key}: run {child.run_id} says to be this trial too" for child in record.strays]
    told += [f"{key}: no such trial in the study, but run {child.run_id}" for key, child in record.children.items()
             if key not in entries]  # fmt: skip
    told += [f"{run}: a foreign run in the experiment" for run in record.foreign()]
    expected = frame_of_told(entries.values(), experiment, study.study)
    scored = not complete(expected).empty
    front = [str(key) for key in Outcome(study, Path(), uri, 0.0, 0, expected).front()["key"]] if scored else []
    for key, mark in marks(entries, front, study.budgets).items():
        child = record.children.get(key)
        if child is None:
            told.append(f"{key}: no run")
            continue
        told += [f"{key}: {text}" for text in child.differences(entries[key])]
        told += [f"{key}: {text}" for text in child.unmarked(mark)]
        told += [f"{key}: file {name} is missing" for name in record.missing_files(child, entries[key])]
    return told + _own_differences(study, uri, record, scored)


def settings(study: Study) -> dict[str, str]:
    """What a study is, by the names of its file, for whoever opens its run; its space is in the report."""
    held = {name: value for name, value in study.identity().items() if name not in ("study", "space")}
    return flat(held)


def without_picture(study: Study, records: Iterable[TrialRecord], record: Record) -> list[str]:
    """The trials whose images were sampled, but that have no sample grid; none where samples are no pictures."""
    if not benchmarks.load(study.benchmark).spec.quantise:
        return []
    sampled = [item.key for item in records if digest_of(item, sampled=True)]
    return [key for key in sampled if SAMPLES not in file_digests(record.children[key].tags)]


def some(keys: Sequence[str]) -> str:
    """The first few of them."""
    rest = len(keys) - NAMED
    return ", ".join(keys[:NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _own_differences(study: Study, uri: str, record: Record, scored: bool) -> list[str]:
    """What differs in the study's own run."""
    told, name = [], f"run of {study.study}"
    status = "FINISHED" if scored else "FAILED"
    if record.status != status:
        told.append(f"{name}: status {record.status} instead of {status}")
    told += [f"{name}: param {key} is not {value}" for key, value in settings(study).items()
             if record.params.get(key) != value]  # fmt: skip
    for metric, value in record.counts().items():
        if record.metrics.get(metric) != value:
            told.append(f"{name}: metric {metric} is {record.metrics.get(metric, 'missing')} instead of {value:g}")
    if record.tags.get(NOTE) != leaderboard(_read(study, uri), Page(record.experiment_id, record.run_id)):
        told.append(f"{name}: the description is not the record's leaderboard")
    lost = sorted(set(ATTACHED) - record.files()) if scored else []
    return told + [f"{name}: file {file} is missing" for file in lost]


def _read(study: Study, uri: str) -> pd.DataFrame:
    # Another study may have this one's name, if not its fingerprint.
    return read(uri, benchmarks.load(study.benchmark).name, f"{study.study}{AT}{study.fingerprint}")


def _cards(folder: Path, front: Sequence[str], records: Sequence[TrialRecord], device: str) -> Path:
    """The cards of the front, and their pictures, drawn on `device`."""
    results = {item.key: item.result for item in records}
    by_plan = {item.result.plan.digest: item.result for item in records if item.role == "confirmed" and item.result}
    cards = []
    for key in front:
        result = results[key]
        if result is None:
            continue
        card = folder / f"nfe-{result.nfe:02g}.json"
        write_card(card, card_of(result, by_plan.get(result.plan.digest)))
        cards.append(card)
        if benchmarks.load(result.spec.benchmark).spec.quantise:
            rerun.sample(card, card.with_suffix(".png"), device=device)
    keep = {card.with_suffix(suffix) for card in cards for suffix in (".json", ".png")}
    for old in folder.glob("nfe-*"):
        if old not in keep:  # a trial that a better one has pushed off the front
            old.unlink()
    return folder
