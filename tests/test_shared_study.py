"""Several drivers on one ledger: who is given what, what each learns, and what one that is buried may not do."""

import shutil
import threading
import time
from collections import Counter

import optuna
import pytest
import sqlalchemy
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from pipeline import benchmarks
from pipeline.evidence import Evidence
from pipeline.leases import LeaseLostError, Leases
from pipeline.pruning import Stop
from pipeline.result import TrialRecord
from pipeline.scoring import MomentScoring
from pipeline.search import Search
from pipeline.shared_study import Shared, SharedLedger
from pipeline.study_storage import Server
from tests.spied_search import RUNGS, Heard, Spy
from tests.synthetic_study import record, result, score

TRIALS = 6
EVIDENCE = Evidence("00ff", 4, scores=(score(0.5, 0.01, images=100),))


class Still(Leases):
    """A driver whose thread sleeps: the test says when it beats and looks."""

    BEAT_SECONDS = 3600.0


def draw(suggest):
    return {"x": suggest("x", FloatDistribution(0.0, 1.0))}


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """An empty storage: to make Optuna's tables takes a second."""
    file = tmp_path_factory.mktemp("tables") / "server.db"
    optuna.storages.RDBStorage(f"sqlite:///{file}").engine.dispose()
    return file


@pytest.fixture
def driver(tmp_path, tables, monkeypatch):
    """Drivers of one study, each with its ledger, on two files in place of a server."""
    shutil.copy(tables, tmp_path / "server.db")
    monkeypatch.setattr("pipeline.shared_study.POLL_SECONDS", 0.0)
    opened = []

    def make(study="made", draw=draw, trials=TRIALS):
        leases = Still(sqlalchemy.create_engine(f"sqlite:///{tmp_path / 'leases.db'}"), study)
        opened.append(leases)
        place = leases.register({}, {}, join=True, waiting=pytest.fail)
        server = Server(f"sqlite:///{tmp_path / 'server.db'}", "a server", {}, place)
        with leases.turn():
            ledger = SharedLedger(None, study, draw, "random", 0, 2, "pruned", server)
        ledger.leases = leases
        sharing = Shared(ledger, leases, trials)
        sharing.leases, sharing.ledger = leases, ledger
        return sharing

    yield make
    for leases in opened:
        leases.close()


def bury(observer, dead):
    for _ in range(observer.leases.LOOKS + 1):
        observer.leases.look()
    with pytest.raises(LeaseLostError):
        dead.leases.check()


def states(sharing):
    return Counter(trial.state for trial in sharing.ledger._searched.get_trials())


# Asking ----------------------------------------------------------------------------------------------------------


def test_drivers_that_ask_at_once_are_given_different_trials_and_never_more_than_there_are(driver):
    drivers, asked = [driver() for _ in range(3)], []
    for sharing in drivers:
        sharing.begin([{"x": 0.25}, {"x": 0.75}])
    start = threading.Barrier(len(drivers))

    def work(sharing):
        start.wait()
        while (found := sharing.ask()) is not None:
            asked.append((found[0].number, found[1]["x"]))

    threads = [threading.Thread(target=work, args=[sharing]) for sharing in drivers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(number for number, _ in asked) == list(range(TRIALS))
    assert len({x for _, x in asked}) == TRIALS, "two of them began with the same random points"
    assert {0.25, 0.75} < {x for _, x in asked}
    assert states(drivers[0]) == {TrialState.RUNNING: TRIALS}
    assert drivers[0].searching()


def test_published_settings_are_queued_once_whoever_comes_at_the_same_moment(driver):
    drivers = [driver() for _ in range(3)]
    start = threading.Barrier(len(drivers))

    def begin(sharing):
        start.wait()
        sharing.begin([{"x": 0.25}, {"x": 0.5}, {"x": 0.75}])

    threads = [threading.Thread(target=begin, args=[sharing]) for sharing in drivers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert states(drivers[0]) == {TrialState.WAITING: 3}
    assert [sharing.left for sharing in drivers] == [TRIALS] * 3


def test_what_a_dead_driver_was_at_is_another_ones_under_its_own_number_and_with_what_was_noted(driver):
    dead, heir = driver(trials=2), driver(trials=2)
    trial, params = dead.ask()
    dead.ledger.note(trial, EVIDENCE)
    assert heir.ask()[0].number == 1
    assert heir.ask() is None
    bury(heir, dead)
    taken, again = heir.ask()
    assert (taken.number, again) == (trial.number, params)
    assert Evidence.from_json(taken.user_attrs["evidence"]) == EVIDENCE
    assert heir.ask() is None
    heir.ledger.tell(taken, result(4, 0.5), EVIDENCE, {})
    assert [held.key for held in heir.ledger.records()] == ["searched/0"]


def test_more_than_the_study_has_is_not_taken_over(driver):
    dead, heir = driver(trials=3), driver(trials=2)
    for _ in range(3):
        dead.ask()
    bury(heir, dead)
    for _ in range(2):
        heir.ledger.tell_off(heir.ask()[0], "boom")
    assert heir.ask() is None
    assert not heir.searching()
    assert states(heir) == {TrialState.FAIL: 2, TrialState.RUNNING: 1}
    assert len(heir.ledger.records()) == 2


# One that is buried ----------------------------------------------------------------------------------------------

WAYS = {
    "note": lambda ledger, trial: ledger.note(trial, EVIDENCE),
    "tell": lambda ledger, trial: ledger.tell(trial, result(4, 0.5), EVIDENCE, {}),
    "tell_stopped": lambda ledger, trial: ledger.tell_stopped(trial, Stop("", "", 0.1), EVIDENCE, {}, 0.5, "made"),
    "tell_waiting": lambda ledger, trial: ledger.tell_waiting(trial, EVIDENCE, {}, 0.5, "made"),
    "tell_off": lambda ledger, trial: ledger.tell_off(trial, "boom"),
    "finish": lambda ledger, trial: ledger.finish(trial.number, EVIDENCE, {}, result(4, 0.5)),
    "reach": lambda ledger, trial: ledger.reach(trial.number, EVIDENCE),
    "add_measured": lambda ledger, trial: ledger.add_measured(record("floor", 31, 0.07)),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_buried_driver_writes_nothing(driver, way):
    dead, other = driver(), driver()
    trial, _ = dead.ask()
    bury(other, dead)
    with pytest.raises(LeaseLostError):
        WAYS[way](dead.ledger, trial)
    (held,) = other.ledger._searched.get_trials()
    assert (held.state, held.user_attrs) == (TrialState.RUNNING, {})
    assert other.ledger._measured.get_trials() == []


@pytest.mark.parametrize("way", ["note", "tell", "tell_stopped", "tell_waiting", "tell_off"])
def test_a_trial_that_is_over_is_not_told_again(driver, way, monkeypatch):
    """Even where the driver was frozen between its last look at the lease and the telling."""
    late, heir = driver(), driver()
    trial, _ = late.ask()
    bury(heir, late)
    heir.ledger.tell(heir.ask()[0], result(4, 0.5), EVIDENCE, {})
    before = heir.ledger.records()
    monkeypatch.setattr(late.leases, "check", lambda: None)
    with pytest.raises(LeaseLostError):
        WAYS[way](late.ledger, trial)
    assert heir.ledger.records() == before


@pytest.mark.parametrize("way", ["tell", "tell_stopped", "tell_waiting", "tell_off"])
def test_one_that_is_overtaken_between_two_of_its_writes_does_not_tell_either(driver, way, monkeypatch):
    late, heir = driver(), driver()
    trial, _ = late.ask()
    heir.ledger.tell(late.ledger.resume(late.ledger.running()[0])[0], result(4, 0.5), EVIDENCE, {})
    before = heir.ledger.records()
    for write in ("set_user_attr", "set_constraint"):
        monkeypatch.setattr(optuna.trial.Trial, write, lambda *_: None)
    with pytest.raises(LeaseLostError):
        WAYS[way](late.ledger, trial)
    assert heir.ledger.records() == before


def test_a_mistake_of_ones_own_is_not_taken_for_a_lost_trial(driver, monkeypatch):
    def fail(*_, **__):
        raise ValueError("a mistake")

    mine = driver()
    trial, _ = mine.ask()
    monkeypatch.setattr(mine.ledger._searched, "tell", fail)
    with pytest.raises(ValueError, match="a mistake"):
        mine.ledger.tell_off(trial, "boom")


def test_of_two_that_measured_the_same_the_first_counts(driver):
    first, second = driver(), driver()
    trial, _ = first.ask()
    first.ledger.tell_waiting(trial, EVIDENCE, {}, 0.5, "made")
    for sharing, fid in ((first, 0.3), (second, 0.4)):
        sharing.ledger.add_measured(record("floor", 31, fid))
        sharing.ledger.finish(0, EVIDENCE, {}, result(4, fid))
    for sharing in (first, second):
        assert [(held.key, held.result.fid) for held in sharing.ledger.records()] == [
            ("floor", 0.3),
            ("searched/0", 0.3),
        ]


# Learning --------------------------------------------------------------------------------------------------------


def test_what_others_told_is_news_once_and_what_was_told_here_is_none(driver):
    mine, theirs = driver(), driver()
    for sharing in (mine, theirs):
        sharing.begin([])
    theirs.ledger.tell_off(theirs.ask()[0], "boom")
    theirs.ledger.add_measured(record("floor", 31, 0.07))
    own = mine.ledger.tell(mine.ask()[0], result(4, 0.5), EVIDENCE, {})
    mine.told(own)
    assert sorted(held.key for held in mine.news()) == ["floor", "searched/0"]
    assert mine.news() == []
    assert mine.ended("floor")
    late = driver()
    late.begin([])
    assert late.news() == [], "what was there when it came is in the ledger"


def test_a_trial_that_waits_is_news_when_it_waits_and_when_it_ends(driver):
    mine, theirs = driver(), driver()
    mine.begin([])
    trial, _ = theirs.ask()
    theirs.ledger.tell_waiting(trial, EVIDENCE, {}, 0.5, "made")
    assert [(held.key, held.waiting) for held in mine.news()] == [("searched/0", True)]
    assert not mine.ended("searched/0")
    theirs.ledger.reach(0, EVIDENCE)
    assert mine.news() == []
    assert mine.reached(0) == EVIDENCE
    assert "reached" not in {held.key for held in mine.ledger.records()}
    theirs.ledger.finish(0, EVIDENCE, {}, result(4, 0.5))
    assert [(held.key, held.waiting) for held in mine.news()] == [("searched/0", False)]
    assert mine.ended("searched/0")


def test_what_a_driver_that_left_has_done_is_not_done_again(driver):
    mine, theirs = driver(), driver()
    for sharing in (mine, theirs):
        sharing.begin([])
    assert theirs.take("floor")
    assert not mine.take("floor")
    theirs.ledger.add_measured(record("floor", 31, 0.07))
    theirs.leases.close()
    assert not mine.take("floor")
    assert mine.take("baseline/ddim/3")


class Both(list):
    """The records that one driver has told, and, in the order of all, their keys."""

    def __init__(self, order):
        super().__init__()
        self.order = order

    def append(self, held):
        super().append(held)
        self.order.append(held.key)


# Whole searches --------------------------------------------------------------------------------------------------


def test_two_searches_at_once_do_all_of_a_study_each_of_it_once(driver, small_study):
    study = small_study(rungs=RUNGS, trials=12, optimizer={"name": "random", "seed": 0})
    gmm = benchmarks.load("gmm")
    heard, failed, order = [Heard(), Heard()], [], []
    for listener in heard:
        listener.records = Both(order)

    def dawdle(task, outcome):
        """One of them takes its time over baselines and last rungs: the other has to wait for it."""
        if task.key.startswith("baseline") or (task.seeds and task.seeds.start >= RUNGS["images"][0]):
            time.sleep(0.2)
        return outcome

    drivers = [driver("small", study.draw, 12) for _ in heard]

    def search(sharing, listener):
        spoil = dawdle if listener is heard[0] else None
        try:
            Search(
                study, sharing.ledger, lambda: Spy(spoil), MomentScoring(gmm), (gmm.sigma_min, gmm.sigma_max),
                [listener], sharing=sharing,
            ).run()  # fmt: skip
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=search, args=pair) for pair in zip(drivers, heard, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    told = [held.key for listener in heard for held in listener.records]
    first, second = (sharing.ledger.records() for sharing in drivers)
    assert first == second
    assert sorted(told) == sorted(held.key for held in first)
    assert len(set(told)) == len(told)
    roles = Counter(held.role for held in first)
    assert roles["published"] + roles["searched"] == 12
    assert (roles["floor"], roles["baseline"]) == (1, 4)
    assert roles["confirmed"] > 1
    confirmed = [key.startswith("confirmed/") for key in order]
    assert confirmed == sorted(confirmed), "something was confirmed before all was known"
    assert all(isinstance(held, TrialRecord) and not held.waiting for held in first)
    assert min(len(listener.records) for listener in heard) > 0
