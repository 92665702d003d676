"""A study begun from another one's trials: what is taken over, what is tried again, what is left."""

import io
import json
import re

import pytest
import yaml
from rich.console import Console

from pipeline import run_study
from pipeline.finals import Finals
from pipeline.fork import fork, old_identity
from pipeline.ledger import Ledger
from pipeline.registry import SpecError
from pipeline.run_folder import claim
from tests.conftest import SMALL
from tests.spied_search import EULERS, RUNGS, open_ledger, run

SPACE = EULERS | {"schedule": EULERS["schedule"] | {"rho": {"low": 2.0, "high": 9.0}}}
BASE = {
    "space": SPACE,
    "published": [{"schedule.num_steps": [2, 3, 5, 7], "schedule.rho": 7.0}],
    "rungs": RUNGS,
    "trials": 10,
    "baselines": ["ddim", "unipc_2"],
}


def identity(study, version=1):
    held = study.identity() | {"benchmark_version": version, "model": "m", "features": "f"}
    return json.loads(json.dumps(held))


def begun(folder, study, version=1):
    """The study run in a folder, on disk, as `run_study` begins it."""
    claim(folder, identity(study, version), study.fingerprint).close()
    return run(folder, study, disk=True)


@pytest.fixture(scope="module")
def old(small_study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("old")
    study = small_study(**BASE)
    return folder, begun(folder, study)


@pytest.fixture
def forked(old, small_study, tmp_path):
    """Fork with changes and run: what fork said, what ran."""

    def make(version=1, **changes):
        study = small_study(**BASE | {"study": "new"} | changes)
        ledger = open_ledger(tmp_path, study)
        said = fork(old[0], study, identity(study, version), ledger)
        return said, run(tmp_path, study)

    return make


def fids(ran, *roles):
    return sorted((r.evidence.digest, r.result.fid) for r in ran.of(*roles) if r.result is not None)


def test_under_the_same_conditions_nothing_is_done_again(old, forked):
    said, ran = forked()
    before = old[1]
    assert {r.state for r in before.of("searched", "published")} == {"complete", "pruned"}
    assert (said.taken, said.again, said.left) == (10, 0, 0)
    assert {task.key.partition("/")[0] for task in ran.pool.tasks} <= {"confirmed"}
    assert fids(ran, "searched", "published") == fids(before, "searched", "published")
    assert fids(ran, "floor", "baseline") == fids(before, "floor", "baseline")
    assert len(ran.records) == len(before.records)
    assert not any(record.waiting for record in ran.records)


def test_what_baselines_and_the_floor_confirmed_holds_and_the_searchs_is_confirmed_anew(old, forked):
    said, ran = forked()
    again = {task.key for task in ran.pool.tasks}
    confirmed = {record.key: record.confirms for record in old[1].of("confirmed")}
    kept = {key for key, confirms in confirmed.items() if confirms.startswith(("baseline/", "floor"))}
    assert kept
    assert {"confirmed/floor"} < kept
    assert again
    assert not again & kept
    assert said.measured == 1 + 4 + len(kept)


def test_whose_plan_is_shared_is_named_as_it_is_here(old, small_study, tmp_path):
    space = {
        "solver": {"name": "switch", "tau_k": {"low": 1e6, "high": 1e9, "log": True}},
        "schedule": EULERS["schedule"],
    }
    points = [{"schedule.num_steps": n, "solver.tau_k": tau} for n, tau in ((2, 1e6), (5, 1e6), (5, 1e7), (6, 1e7))]
    changes = {"space": space, "published": points, "trials": 4, "rungs": RUNGS, "confirm": None}
    before = begun(tmp_path / "old", small_study(**changes))
    assert before.record("published/2").same_as == "published/1"
    # Without the first of them, every number is another one.
    narrower = space | {"schedule": space["schedule"] | {"num_steps": {"low": 3, "high": 7}}}
    study = small_study(**changes | {"space": narrower, "published": points[1:], "study": "new"})
    ledger = open_ledger(tmp_path, study)
    said = fork(tmp_path / "old", study, identity(study), ledger)
    assert (said.taken, said.left) == (3, 1)
    shared = [record for record in ledger.records() if record.same_as]
    assert len(shared) >= 1
    for record in shared:
        if record.same_as.startswith("published/"):
            owner = next(other for other in ledger.records() if other.key == record.same_as)
            assert owner.evidence.digest == record.evidence.digest
            assert owner.key != record.key


def test_in_a_changed_space_those_inside_are_taken_and_the_others_left(old, forked):
    narrow = SPACE | {"schedule": SPACE["schedule"] | {"num_steps": {"low": 3, "high": 7}}}
    points = [{"schedule.num_steps": [3, 5, 7], "schedule.rho": 7.0}]
    inside = [r for r in old[1].of("searched", "published") if r.params["schedule.num_steps"] >= 3]
    assert 0 < len(inside) < 10
    said, ran = forked(space=narrow, published=points)
    assert (said.taken, said.left, said.again) == (len(inside), 10 - len(inside), 0)
    assert str(said).endswith(f"; {10 - len(inside)} left behind, outside the new space")
    new = {task.key for task in ran.pool.tasks if task.key.startswith("searched")}
    assert len(new) == 10 - len(inside), "as many are searched as are left of the number"
    assert all(3 <= record.params["schedule.num_steps"] <= 7 for record in ran.of("searched", "published"))


def test_a_parameter_that_means_something_else_is_left(old, forked):
    """The same names and ranges, but on a schedule that goes on to 0."""
    said, _ = forked(space=SPACE | {"schedule": SPACE["schedule"] | {"final": "zero"}}, trials=1, confirm=None)
    assert (said.taken, said.again, said.left) == (0, 0, 10)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"images": 400, "rungs": {"teacher": 32, "images": [80, 200]}}, "images was 200 and is 400"),
        ({"first_seed": 5000}, "first_seed was 0 and is 5000"),
        ({"version": 2}, "benchmark_version was 1 and is 2"),
    ],
)
def test_under_other_conditions_every_setting_is_tried_again(old, forked, changes, says):
    said, ran = forked(**changes)
    assert (said.taken, said.measured, said.again, said.left) == (0, 0, 10, 0)
    assert f"10 are tried again ({says})" in str(said)
    settings = {json.dumps(r.params, sort_keys=True) for r in old[1].of("searched", "published")}
    assert {json.dumps(r.params, sort_keys=True) for r in ran.of("searched", "published")} == settings
    assert len(ran.of("published")) == 4
    assert len(ran.pool.of("floor", "evaluate")) > 0


def test_under_another_constraint_the_searched_are_tried_again_and_the_measured_hold(forked):
    said, ran = forked(constraints={"setup_nfe": 500.0})
    assert (said.taken, said.again) == (0, 10)
    assert said.measured > 5
    assert all(record.constraints == {"setup_nfe": 0.0 - 500.0} for record in ran.of("published"))
    assert not ran.pool.of("floor")


def test_what_was_refused_for_the_last_budget_is_tried_under_another(small_study, tmp_path):
    before = begun(tmp_path / "old", small_study(**BASE, budgets=[3, 5]))
    refused = [r for r in before.of("searched", "published") if r.reason.endswith("above the last budget, 5")]
    assert refused
    study = small_study(**BASE | {"study": "new", "budgets": [3, 5, 7]})
    ledger = open_ledger(tmp_path, study)
    said = fork(tmp_path / "old", study, identity(study), ledger)
    assert said.again >= len(refused)
    assert "budgets was [3, 5] and is [3, 5, 7]" in str(said)
    ran = run(tmp_path, study)
    assert not [record for record in ran.records if "above the last budget" in record.reason]
    assert sorted(r.budget for r in ran.of("baseline")) == [3, 3, 5, 5, 7, 7]


def test_with_another_floor_distances_to_the_old_teacher_are_gone(old, forked):
    floor = {"solver": {"name": "heun"}, "schedule": {"name": "edm", "num_steps": 14}}
    said, ran = forked(floor=floor)
    assert said.taken == 10
    assert ran.pool.of("floor", "evaluate")
    assert not [r for r in ran.of("published", "searched", "baseline") if r.evidence.teacher]
    assert fids(ran, "baseline") == fids(old[1], "baseline")


def test_a_fork_of_a_search_that_was_killed_goes_on_from_its_waiting_trials(small_study, tmp_path, monkeypatch):
    study = small_study(**BASE)

    def killed(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Finals, "rounds", killed)
        with pytest.raises(KeyboardInterrupt):
            begun(tmp_path / "old", study)
    source = open_ledger(tmp_path / "old", study, disk=True)
    waiting = len(source.waiting())
    assert waiting > 0
    new = small_study(**BASE | {"study": "new"})
    ledger = open_ledger(tmp_path, new)
    fork(tmp_path / "old", new, identity(new), ledger)
    assert len(ledger.waiting()) == waiting
    ran = run(tmp_path, new)
    assert not any(record.waiting for record in ran.records)
    assert len(ran.of("searched", "published")) == 10


def test_twice_is_once(old, small_study, tmp_path):
    study = small_study(**BASE | {"study": "new"})
    ledger = open_ledger(tmp_path, study)
    first = fork(old[0], study, identity(study), ledger)
    before = ledger.records()
    second = fork(old[0], study, identity(study), ledger)
    assert ledger.records() == before
    assert len(before) == first.taken + first.measured
    assert second.measured == 0
    other = small_study(**BASE | {"study": "new", "first_seed": 5000})
    queued = Ledger(None, "other", other.draw, "random", 0, 0)
    for _ in range(2):
        fork(old[0], other, identity(other), queued)
    assert len(queued._searched.trials) == 10


# Mistakes ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def begun_file(tmp_path, old):
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(SMALL | BASE))
    return file, old[0]


def search(file, folder, name):
    console = Console(file=io.StringIO(), width=120)
    return run_study.search(str(file), trials=None, workers=None, run_dir=folder, console=console, fork=name)


def test_a_study_is_not_forked_onto_itself(begun_file, tmp_path):
    file, folder = begun_file
    with pytest.raises(SpecError, match="--fork: is the name of the study itself, given"):
        search(file, folder, folder.name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.yaml"]


def test_a_study_that_is_not_there_is_not_forked(begun_file, tmp_path):
    with pytest.raises(SpecError, match="--run-dir: holds no study to fork, given"):
        search(begun_file[0], tmp_path / "nowhere", "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.yaml"]
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "study.db").touch()
    for text in ("", "[]", '{"identity": {"study": "odd"}}'):
        (tmp_path / "odd" / "study.json").write_text(text)
        with pytest.raises(SpecError, match=r"study.json: is unreadable"):
            old_identity(tmp_path / "odd")


@pytest.mark.parametrize(
    ("changes", "version", "path"),
    [
        ({"space": SPACE | {"schedule": SPACE["schedule"] | {"num_steps": {"low": 3, "high": 7}}}}, 1,
         "space.schedule.num_steps.low is 2 there"),
        ({"first_seed": 5000}, 1, "first_seed is 0 there"),
        ({}, 2, "benchmark_version is 1 there"),
    ],
)  # fmt: skip
def test_a_refused_resume_names_the_difference_and_the_way_out(old, small_study, changes, version, path):
    points = [{"schedule.num_steps": [3, 5, 7], "schedule.rho": 7.0}]
    study = small_study(**BASE | {"published": points} | changes)
    with pytest.raises(SpecError) as caught:
        claim(old[0], identity(study, version), study.fingerprint, "mine.yaml")
    text = str(caught.value)
    assert "\n" not in text
    assert path in text
    assert re.search(r"--fork NAME to go on from its trials", text)
