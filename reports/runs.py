"""The MLflow runs behind a record: where each is shown, which study is read, and what is missing there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from pipeline import store
from pipeline.registry import SpecError


@dataclass(frozen=True)
class Runs:
    """The runs of one study in a store.

    `fingerprint`: what tells the study from the `namesakes - 1` others of its name in this experiment. `deleted`: the
    keys of trials whose runs were deleted and not written again. `gone`: how many more the study's run once counted.
    """

    experiment_id: str
    fingerprint: str
    namesakes: int
    deleted: tuple[str, ...]
    gone: int

    @staticmethod
    def of(uri: str, experiment: str, frame: pd.DataFrame) -> Runs:
        """Find the runs of a record that `reports.record.read` gave.

        Raises:
            SpecError: the record holds no trial.
        """
        own = frame[frame["state"].ne("foreign")]
        if own.empty:
            raise SpecError("this study has no trial in MLflow yet", path="study", given=_name(frame) or experiment)
        client = store.open_client(uri, create=False)
        experiment_id = client.get_experiment_by_name(experiment).experiment_id
        parent = client.get_run(client.get_run(own["run_id"].iloc[0]).data.tags[store.PARENT])
        tops = _search(client, experiment_id, f"tags.`{store.FINGERPRINT}` LIKE '%'")
        name = parent.data.tags[store.STUDY]
        prints = {
            run.data.tags[store.FINGERPRINT]
            for run in tops
            if run.data.tags.get(store.STUDY) == name and store.PARENT not in run.data.tags
        }
        deleted = _deleted(client, experiment_id, parent.info.run_id) - set(own["key"])
        told = int(parent.data.metrics.get("trials", 0))
        return Runs(
            experiment_id,
            parent.data.tags.get(store.FINGERPRINT, "?"),
            len(prints),
            tuple(sorted(deleted)),
            max(told - len(own) - len(deleted), 0),
        )

    def path(self, run_id: str) -> str:
        """The run's page below a server's address."""
        return f"#/experiments/{self.experiment_id}/runs/{run_id}"


def _deleted(client: Any, experiment_id: str, parent: str) -> set[str]:
    from mlflow.entities import ViewType

    found = _search(client, experiment_id, f"tags.`{store.PARENT}` = '{parent}'", run_view_type=ViewType.DELETED_ONLY)
    return {run.data.tags[store.KEY] for run in found if store.KEY in run.data.tags}


def _search(client: Any, experiment_id: str, query: str, **how: Any) -> list[Any]:
    found: list[Any] = []
    token: str | None = None
    while True:
        page = client.search_runs([experiment_id], query, max_results=1000, page_token=token, **how)
        found += page
        token = page.token
        if not token:
            return found


def _name(frame: pd.DataFrame) -> str:
    return "" if frame.empty else str(frame["study"].iloc[0])
