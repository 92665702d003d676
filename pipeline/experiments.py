"""An experiment of an MLflow store: the studies in it, their trials, and the runs that are nobody's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline import store
from pipeline.child import Child
from pipeline.registry import SpecError

PAGE = 1000  # runs a request, of MLflow's maximum of 50,000
TAGS = {"mlflow.experimentKind": "custom_model_development"}  # its runs page, not the one of chat traces


def find(client: Any, name: str) -> str | None:
    """The id of the experiment of this name; None where there is none.

    Raises:
        SpecError: it is deleted.
    """
    held = client.get_experiment_by_name(name)
    if held is None:
        return None
    if held.lifecycle_stage != "active":
        raise SpecError("the experiment is deleted in this store; restore it", path="experiment", given=name)
    return str(held.experiment_id)


def begin(client: Any, uri: str, name: str, folder: Path | None = None) -> str:
    """Make the experiment; `folder` keeps its files where the store is a database (see `Record.open`)."""
    file = store.sqlite_file(uri)
    if folder is None and file is not None:
        folder = file.parent / "mlartifacts"
    # Without one, MLflow would use ./mlruns of whoever comes first.
    location = None if store.is_server(uri) else (folder or Path("mlartifacts")).resolve().as_uri()
    return str(client.create_experiment(name, artifact_location=location, tags=TAGS))


def same_study(study: str, fingerprint: str) -> str:
    """The query for the runs of one study.

    Raises:
        SpecError: its name holds both kinds of quotation mark.
    """
    return f"tags.`{store.STUDY}` = {_quoted(study)} AND tags.`{store.FINGERPRINT}` = {_quoted(fingerprint)}"


def studies(client: Any, experiment_id: str, query: str = "", *, deleted: bool = False) -> list[Any]:
    """The runs that are a study's own, the first one first."""
    return [run for run in _runs(client, experiment_id, query, deleted=deleted) if _is_study(run)]


def children_of(client: Any, experiment_id: str, parent: str) -> Iterator[Child]:
    """The active runs under a run, the oldest first; those without a key are no trials."""
    for run in _runs(client, experiment_id, f"tags.`{store.PARENT}` = '{parent}'"):
        tags, data = dict(run.data.tags), run.data
        key, params, metrics = tags.get(store.KEY, ""), dict(data.params), dict(data.metrics)
        yield Child(run.info.run_id, key, run.info.status, params, metrics, tags)


def foreign(client: Any, experiment_id: str) -> list[Any]:
    """The runs that are neither a study nor one of its trials."""
    runs = list(_runs(client, experiment_id))
    parents = {run.info.run_id for run in runs if _is_study(run)}
    return [run for run in runs if run.info.run_id not in parents and not _is_trial(run, parents)]


def _is_study(run: Any) -> bool:
    return store.STUDY in run.data.tags and store.PARENT not in run.data.tags


def _is_trial(run: Any, parents: set[str]) -> bool:
    return bool(run.data.tags.get(store.KEY)) and run.data.tags.get(store.PARENT) in parents


def _runs(client: Any, experiment_id: str, query: str = "", *, deleted: bool = False) -> Iterator[Any]:
    """Active or deleted runs, the oldest first."""
    from mlflow.entities import ViewType

    view = ViewType.DELETED_ONLY if deleted else ViewType.ACTIVE_ONLY
    token: str | None = None
    order = ["attributes.start_time ASC"]
    while True:
        page = client.search_runs([experiment_id], query, view, PAGE, order, token)
        yield from page
        token = page.token
        if not token:
            return


def _quoted(text: str) -> str:
    """A string of MLflow's filter language, which cannot hold both kinds of quote."""
    if "'" in text and '"' in text:
        raise SpecError("cannot hold both kinds of quotation mark", path="study", given=text)
    return f'"{text}"' if "'" in text else f"'{text}'"
