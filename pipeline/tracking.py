"""The MLflow record of a study, written by the driver only and in step with the truth, which lies elsewhere.

One experiment a benchmark, one parent run a study, one child run a trial. Everything may be said twice: what is there
already is not written again, so a resumed search syncs by telling all it knows; what was changed by hand is put right.
MLflow is imported when a store is opened, not before.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline import experiments, store
from pipeline.child import Child
from pipeline.entry import Entry, file_digests, files_tag
from pipeline.experiments import children_of
from pipeline.leaderboard_view import leaderboard_view
from pipeline.marks import marks
from pipeline.run_files import RunFile
from pipeline.store import leaderboard_url, server_command, store_uri

if TYPE_CHECKING:
    from pipeline.portrait import Portrait
    from pipeline.result import TrialRecord

__all__ = ["Entry", "Record", "server_command", "store_uri"]


class Record:
    """An open study. Use `Record.open`; one writer at a time.

    `budgets` are the study's, by which trials can be filtered. `twins` are other runs that say to be this very study,
    `strays` children that are none of its trials.
    """

    def __init__(self, client: Any, experiment_id: str, run: Any) -> None:
        self._client = client
        self.experiment_id = experiment_id
        self.run_id: str = run.info.run_id
        self._study = str(run.data.tags[store.STUDY])
        self._status: str = run.info.status
        self._tags: dict[str, str] = dict(run.data.tags)
        self._metrics: dict[str, float] = dict(run.data.metrics)
        self._params: dict[str, str] = dict(run.data.params)
        self._children: dict[str, Child] = {}
        self.budgets: Sequence[int] = ()
        self.twins: list[str] = []
        self.strays: list[Child] = []

    @staticmethod
    def open(uri: str, experiment: str, study: str, fingerprint: str, artifact_folder: Path | None = None) -> Record:
        """Find the study again by its name and fingerprint, or begin it; one that was deleted by hand is restored.

        `artifact_folder` is where a new experiment keeps its files if the store is a database; by default `mlartifacts`
        beside a sqlite file. A server keeps them itself.

        Raises:
            SpecError: the store cannot be opened, or its experiment of this name is deleted.
        """
        query = experiments.same_study(study, fingerprint)
        client = store.open_client(uri, create=True)
        experiment_id = experiments.find(client, experiment) or experiments.begin(
            client, uri, experiment, artifact_folder
        )
        found = Record._found(client, experiment_id, query)
        if found is not None:
            return found
        deleted = experiments.studies(client, experiment_id, query, deleted=True)
        if deleted:  # its trials have stayed, and have nobody
            client.restore_run(deleted[-1].info.run_id)
            found = Record._found(client, experiment_id, query)
            assert found is not None
            return found
        tags = {store.STUDY: study, store.FINGERPRINT: fingerprint}
        return Record(client, experiment_id, client.create_run(experiment_id, tags=tags, run_name=study))

    @staticmethod
    def find(uri: str, experiment: str, study: str, fingerprint: str) -> Record | None:
        """The study as it is recorded, to be looked at; None where it is not. Nothing is written.

        Raises:
            SpecError: no such store, or it cannot be opened.
        """
        client = store.open_client(uri, create=False)
        experiment_id = experiments.find(client, experiment)
        if experiment_id is None:
            return None
        return Record._found(client, experiment_id, experiments.same_study(study, fingerprint))

    @staticmethod
    def _found(client: Any, experiment_id: str, query: str) -> Record | None:
        runs = experiments.studies(client, experiment_id, query)
        if not runs:
            return None
        record = Record(client, experiment_id, runs[0])
        record.twins = [run.info.run_id for run in runs[1:]]
        for child in children_of(client, experiment_id, record.run_id):
            if not child.key:
                continue  # somebody's own
            if child.key in record._children:
                record.strays.append(child)
            else:
                record._children[child.key] = child
        return record

    def __len__(self) -> int:
        return len(self._children)

    @property
    def children(self) -> Mapping[str, Child]:
        """The runs of its trials, by key."""
        return self._children

    @property
    def tags(self) -> Mapping[str, str]:
        """The study's own."""
        return self._tags

    @property
    def metrics(self) -> Mapping[str, float]:
        """The study's own."""
        return self._metrics

    @property
    def params(self) -> Mapping[str, str]:
        """The study's own."""
        return self._params

    @property
    def status(self) -> str:
        """MLflow's word for how the study's run stands."""
        return self._status

    def log(
        self,
        record: TrialRecord,
        portrait: Portrait | None = None,
        *,
        started: float | None = None,
        ended: float | None = None,
    ) -> bool:
        """Create or update the trial's child run; False where the store held exactly this already.

        `started` and `ended` are seconds since 1970, now by default.
        """
        return self.put(record.key, Entry.of(record, portrait), started=started, ended=ended)

    def put(self, key: str, entry: Entry, *, started: float | None = None, ended: float | None = None) -> bool:
        """What `log` does, of an entry."""
        child = self._children.get(key)
        if child is not None and not child.differences(entry):
            return False
        self._resume()
        if child is not None and not child.grows_into(entry):
            # Params cannot change and metrics cannot be taken back in MLflow; a rung left behind would stay a tag.
            self._client.delete_run(child.run_id)
            child = None
        now = time.time()
        points, params, files = entry.points, entry.params, entry.files
        if child is None:
            tags: dict[str, str] = {
                **entry.tags,
                **marks({key: entry}, (), self.budgets)[key].tags,
                store.STUDY: self._study,
            }
            run_id = self._create(entry.name, tags, now if started is None else started)
            changed: dict[str, str] = {}
        else:
            told = {**entry.tags, store.FILES: files_tag(child.files_after(entry))}
            run_id, tags, points = child.run_id, {**child.tags, **told}, child.new_points(entry)
            params = {name: value for name, value in params.items() if name not in child.params}
            changed = {name: value for name, value in told.items() if child.tags.get(name) != value}
            files = {name: files[name] for name in child.new_files(entry)}
        self._attach(run_id, files)
        self._batch(run_id, params, points, changed)
        # The last of all: a run that was cut short is still running, and is written again.
        self._client.set_terminated(run_id, entry.status, int(1000 * (now if ended is None else ended)))
        metrics = (child.metrics if child is not None else {}) | entry.metrics
        self._children[key] = Child(run_id, key, entry.status, dict(entry.params), metrics, tags)
        return True

    def restore_files(self, key: str, entry: Entry) -> list[str]:
        """Write those of a trial's files that the store has lost; their names."""
        child = self._children[key]
        lost = self.missing_files(child, entry)
        self._attach(child.run_id, {name: entry.files[name] for name in lost})
        return lost

    def missing_files(self, child: Child, entry: Entry) -> list[str]:
        """The names of a trial's files that the store does not have."""
        held = {item.path for item in self._client.list_artifacts(child.run_id)}
        return sorted(set(entry.files) - held)

    def files(self) -> set[str]:
        """The names of the study's own files."""
        return {item.path for item in self._client.list_artifacts(self.run_id)}

    def foreign(self) -> list[str]:
        """The runs of the experiment that belong to no study, each by its id and name."""
        return [
            f"run {run.info.run_id} ({run.info.run_name})"
            for run in experiments.foreign(self._client, self.experiment_id)
        ]

    def tidy(self, keys: Iterable[str]) -> list[str]:
        """Delete what says to be a part of this study and is not, as MLflow deletes: it can be restored. What it was.

        `keys` are the study's trials. Runs of others in the experiment are left alone.
        """
        told, known = [], set(keys)
        for twin in self.twins:
            for child in children_of(self._client, self.experiment_id, twin):
                if child.key:
                    self._client.delete_run(child.run_id)
            self._client.delete_run(twin)
            told.append(f"run {twin}, a second one of this study, and the trials under it")
        strays = self.strays + [child for key, child in self._children.items() if key not in known]
        for child in strays:
            self._client.delete_run(child.run_id)
            told.append(f"run {child.run_id}, which says to be {child.key}")
        self.twins, self.strays = [], []
        self._children = {key: child for key, child in self._children.items() if key in known}
        return told

    def mark_front(self, front: Iterable[str]) -> int:
        """Say which trials are the front, what confirmed them and their ranks; how many runs had to be changed."""
        changed = 0
        for key, mark in marks(self._children, front, self.budgets).items():
            child = self._children[key]
            tags = {name: value for name, value in mark.tags.items() if child.tags.get(name) != value}
            metrics = {name: value for name, value in mark.metrics.items() if child.metrics.get(name) != value}
            if tags or metrics:
                self._resume()
                self._batch(child.run_id, {}, {(name, 0): value for name, value in metrics.items()}, tags)
                child.tags |= tags
                child.metrics |= metrics
                changed += 1
        return changed

    def describe_study(self, markdown: str) -> None:
        """Set the text that MLflow shows above the study's run."""
        if markdown != self._tags.get(store.NOTE):
            self._client.set_tag(self.run_id, store.NOTE, markdown)
            self._tags[store.NOTE] = markdown

    def name_settings(self, params: Mapping[str, str]) -> None:
        """Say what the study is; those that are said already stay."""
        new = {name: value for name, value in params.items() if name not in self._params}
        self._batch(self.run_id, new, {}, {})
        self._params |= new

    def attach(self, files: Mapping[str, Path]) -> list[str]:
        """Keep files with the study under these names; the names of those that were not there as they are."""
        held = file_digests(self._tags)
        there = self.files()
        digests = {name: hashlib.sha256(path.read_bytes()).hexdigest()[:8] for name, path in files.items()}
        new = [name for name, digest in digests.items() if held.get(name) != digest or name not in there]
        self._attach(self.run_id, {name: RunFile(digests[name], _copy(files[name])) for name in new})
        if new:
            told = files_tag(held | digests)
            self._client.set_tag(self.run_id, store.FILES, told)
            self._tags[store.FILES] = told
        return new

    def finish(self, status: Literal["FINISHED", "KILLED", "FAILED"] = "FINISHED") -> None:
        """End the study's run, with the numbers of its trials by state and role as metrics; twice is once."""
        counts = self.counts()
        if self._status == status and counts.items() <= self._metrics.items():
            return
        self._batch(self.run_id, {}, {(name, 0): value for name, value in counts.items()}, {})
        self._metrics |= counts
        self._client.set_terminated(self.run_id, status)
        self._status = status

    def counts(self) -> dict[str, float]:
        """The numbers of its trials by state and role."""
        counts: dict[str, float] = {"trials": len(self._children)}
        for child in self._children.values():
            for name in (child.tags.get(store.STATE, "broken"), child.tags.get(store.ROLE, "broken")):
                counts[f"trials_{name}"] = counts.get(f"trials_{name}", 0) + 1
        return counts | {"front": sum(child.tags.get(store.FRONT) == "true" for child in self._children.values())}

    def set_leaderboard_view(self) -> None:
        """Make the experiment's page a leaderboard of this study: `leaderboard_url` opens it.

        MLflow's shared views are undocumented; the value is what its page reads (MLflow 3.17.2). One view a study,
        and one of the experiment for the study that was published last.
        """
        told = {name for child in self._children.values() for name in child.metrics}
        beside = [name for name in store.BESIDE if name in told]
        held = self._client.get_experiment(self.experiment_id).tags
        value = json.dumps(leaderboard_view(self.run_id, beside))
        for run_id in ("", self.run_id):
            name = f"mlflow.sharedViewState.{store.leaderboard_view(run_id)}"
            if held.get(name) != value:
                self._client.set_experiment_tag(self.experiment_id, name, value)

    def leaderboard_url(self, base: str) -> str:
        """The leaderboard's page under a server's address, e.g. http://127.0.0.1:5000."""
        return leaderboard_url(base, self.experiment_id)

    def _resume(self) -> None:
        if self._status != "RUNNING":
            self._client.update_run(self.run_id, status="RUNNING")
            self._status = "RUNNING"

    def _create(self, name: str, tags: Mapping[str, str], started: float) -> str:
        # Tags given here cost nothing; each of a batch's kinds is a commit, which a disk takes 5 to 10 ms for.
        run = self._client.create_run(
            self.experiment_id, int(1000 * started), {**tags, store.PARENT: self.run_id}, name
        )
        return str(run.info.run_id)

    def _batch(
        self,
        run_id: str,
        params: Mapping[str, str],
        points: Mapping[tuple[str, int], float],
        tags: Mapping[str, str],
    ) -> None:
        from mlflow.entities import Metric, Param, RunTag

        if not params and not points and not tags:
            return
        now = int(1000 * time.time())
        self._client.log_batch(
            run_id,
            metrics=[Metric(name, value, now, step) for (name, step), value in points.items()],
            params=[Param(name, value) for name, value in params.items()],
            tags=[RunTag(name, value) for name, value in tags.items()],
            synchronous=True,
        )

    def _attach(self, run_id: str, files: Mapping[str, RunFile]) -> None:
        if not files:
            return
        with tempfile.TemporaryDirectory() as folder:
            for name, file in files.items():
                file.write(Path(folder, name))
            self._client.log_artifacts(run_id, folder)  # one call for all: each begins by asking where they go


def _copy(source: Path) -> Callable[[Path], object]:
    return lambda target: shutil.copyfile(source, target)
