"""A replay: the clock of its workers by hand, a search in it beside the live one, and what is made of its runs."""

import re

import pytest

from pipeline import benchmarks
from pipeline.cluster import InProcessPool
from pipeline.ledger import Ledger
from pipeline.replay.policy import Comparison, Policy, Run, run
from pipeline.replay.pool import TableScoring, VirtualPool
from pipeline.replay.table import Table, load, save
from pipeline.scoring import MomentScoring
from pipeline.search import Search
from pipeline.trial import Prepared
from pipeline.worker import Compared, Evaluated, Failure, Task, Taught
from tests.replay_study import by_hand, grid, measured, plan, spec

# Two plans of 3 and 6 evaluations at 0.5 s and 1 s an image; each takes a lesson of 160 rows on 16 images, of 2 s.
TABLE = by_hand([plan("a", 3, 7.5), plan("b", 6, 2.5, seconds=1.0, confirmed=2.75)], [("walk", 160, 16, 2.0)])


def task(key, order, nfe=3, images=0, what="evaluate", start=0):
    return Task(key, order, spec(nfe), None, range(start, start + images), what)


def ended(pool):
    """Key and time of each task, in the order in which they end."""
    found = []
    while (answer := pool.next(1.0)) is not None:
        found.append((answer[0].key, pool.clock))
    return found


# The clock ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("workers", "ends"),
    [
        (1, [("p", 20), ("q", 50), ("r", 60), ("s", 100)]),
        (2, [("p", 20), ("q", 30), ("r", 30), ("s", 70)]),
        (5, [("r", 10), ("p", 20), ("q", 30), ("s", 40)]),
    ],
)
def test_workers_take_the_oldest_first_and_as_long_as_the_table_says(workers, ends):
    pool = VirtualPool(TABLE, workers)
    pool.submit(task("s", (4, 0), 6, images=40))
    pool.submit(task("r", (3, 0), 3, images=20))
    pool.submit(task("q", (2, 0), 3, images=60))
    pool.submit(task("p", (1, 0), 6, images=20))
    assert ended(pool) == ends
    assert pool.next(1.0) is None
    assert pool.clock == ends[-1][1]


def test_what_comes_later_starts_when_it_comes_and_goes_before_what_waits():
    pool = VirtualPool(TABLE, 1)
    pool.submit(task("old", (1, 0), images=20))
    pool.submit(task("waits", (5, 0), images=20))
    assert pool.next(1.0)[0].key == "old"
    pool.submit(task("later", (2, 0), images=40))
    assert ended(pool) == [("later", 30), ("waits", 40)]


def test_what_is_cancelled_is_not_begun_and_what_runs_comes_back():
    pool = VirtualPool(TABLE, 1)
    for at in range(3):
        pool.submit(task("gone", (1, at), images=20))
    pool.submit(task("kept", (2, 0), images=20))
    assert pool.next(1.0)[0].key == "gone"
    pool.cancel("gone")
    assert ended(pool) == [("kept", 20)]


@pytest.mark.parametrize(("memory", "spent", "clock"), [(True, [160, 0], 2), (False, [160, 160], 4)])
def test_what_one_learned_is_free_for_the_next(memory, spent, clock):
    pool = VirtualPool(TABLE, 1, memory=memory)
    pool.submit(task("a", (1, 0), 3, what="prepare"))
    pool.submit(task("b", (2, 0), 6, what="prepare"))
    prepared = [pool.next(1.0)[1] for _ in range(2)]
    assert all(isinstance(each, Prepared) for each in prepared)
    assert [each.spent_rows for each in prepared] == spent
    assert [(each.setup_rows, each.setup_nfe) for each in prepared] == [(160, 10.0)] * 2
    assert [len(each.plan) for each in prepared] == [3, 6]
    assert pool.clock == clock


def test_outcomes_are_those_of_a_worker():
    pool = VirtualPool(TABLE, 1)
    for i, what in enumerate(("teach", "compare", "evaluate")):
        pool.submit(task(what, (i, 0), 6, images=40, what=what))
    taught, compared, evaluated = (pool.next(1.0)[1] for _ in range(3))
    assert isinstance(taught, Taught)
    assert (taught.rows, taught.teacher.seeds) == (40 * 6, range(40))
    assert isinstance(compared, Compared)
    assert (compared.rows, compared.distance) == (2 * 6, plan("b", 6, 2.5).teacher), "the table's two images"
    assert isinstance(evaluated, Evaluated)
    assert [(shard.seeds, shard.rows, shard.seconds) for shard in evaluated.shards] == [
        (range(20), 120, 20.0),
        (range(20, 40), 120, 20.0),
    ]
    assert pool.clock == 40 + 2 + 40


def test_a_trial_that_was_not_measured_fails():
    pool = VirtualPool(TABLE, 1)
    pool.submit(task("x", (1, 0), 5, what="prepare"))
    outcome = pool.next(1.0)[1]
    assert isinstance(outcome, Failure)
    assert "is not in the table of the replay" in outcome.reason
    assert pool.clock == 0


def test_scores_are_those_of_the_rung_and_of_other_seeds_those_of_the_confirmation():
    pool, scoring = VirtualPool(TABLE, 1), TableScoring(TABLE, 0)
    stand_in = TABLE.stand_in(TABLE.find(spec(6)))

    def score(start, images):
        pool.submit(task("x", (1, 0), 6, images=images, start=start))
        return scoring.score(stand_in, pool.next(1.0)[1].shards).fid

    assert (score(0, 40), score(0, 200), score(1000, 200)) == (3.5, 2.5, 2.75)
    with pytest.raises(Exception, match=r"rungs.images: the table has no such rung, given 60; allowed: \[40, 200\]"):
        score(0, 60)


# Beside the live search --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole():
    return measured(grid()).table()


# Numbers in a reason are told to the table's precision.
NUMBER = re.compile(r"[-+]?\d+(\.\d+)?e[-+]\d+|[-+]?\d+\.\d+")


def told(study, pool, scoring, ends):
    ledger = Ledger(
        None, study.study, study.draw, study.optimizer.name, study.optimizer.seed, 8, study.optimizer.stopped
    )
    status = Search(study, ledger, lambda: pool, scoring, ends).run()
    records = {
        record.key: (
            record.state,
            record.role,
            dict(record.params),
            NUMBER.sub("#", record.reason),
            record.same_as,
            record.evidence.nfe,
            record.evidence.spent_rows,
            record.evidence.setup_nfe,
            len(record.evidence.scores),
        )
        for record in ledger.records()
    }
    values = [value for trial in ledger.searched_trials() for value in trial.values or [0.0, 0.0]]
    return records, values, status.rows


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("stopped", ["pruned", "complete", "constraint"])
@pytest.mark.parametrize("stored", [False, True], ids=["as measured", "as stored"])
def test_a_replay_is_the_search_itself(whole, tmp_path, stored, stopped, seed):
    """Every trial, its parameters, why it ended and what it spent; what Optuna was told, to the table's precision."""
    gmm = benchmarks.load("gmm")
    study = grid(confirm=None, optimizer={"name": "tpe", "seed": seed, "startup": 8, "stopped": stopped})
    ends, table = (gmm.sigma_min, gmm.sigma_max), whole
    if stored:
        save(whole, tmp_path / "t.zip")
        table = load(tmp_path / "t.zip")
    live, live_values, live_rows = told(study, InProcessPool("gmm"), MomentScoring(gmm), ends)
    replayed, values, rows = told(study, VirtualPool(table, 1), TableScoring(table, 0), ends)
    assert replayed == live
    assert values == pytest.approx(live_values, rel=1e-3 if stored else 1e-9)
    assert rows == live_rows
    assert {record[0] for record in live.values()} == {"complete", "pruned"}


def test_a_run_is_judged_by_its_searched_trials(whole):
    study = grid()
    full = run(whole, Policy(rungs=False), 0)
    pruned = run(whole, Policy(stopped="complete"), 0)
    assert full.stopped == {}
    assert sum(pruned.stopped.values()) > 0
    assert pruned.rows < full.rows
    assert 0 < pruned.hypervolume <= full.hypervolume * 1.5
    assert set(full.winners) <= set(study.budgets)
    for budget, winner in full.winners.items():
        assert winner.nfe <= budget
        assert winner.digest in {entry.plan.digest for entry in whole}
    assert run(whole, Policy(rungs=False), 0) == full


def test_at_full_size_every_trial_pays_for_itself(whole, monkeypatch):
    """Its set-up and all its images, whoever had the plan or the lesson before."""
    asked, honest = [], VirtualPool.submit

    def submit(self, task):
        if task.what == "prepare" and task.key.startswith("searched"):
            asked.append(whole.find(task.spec))
        honest(self, task)

    monkeypatch.setattr(VirtualPool, "submit", submit)
    table = Table(whole.study | {"budgets": [3, 4]}, whole.about, whole)
    full = run(table, Policy("random", rungs=False), 0, trials=30)
    assert len({entry.plan.digest for entry in asked}) < len(asked) == 30
    sampled = [entry for entry in asked if entry.plan.nfe <= 4]
    assert len(sampled) < 30, "some are above the last budget"
    setups = sum(lesson.rows for entry in sampled for lesson in entry.lessons)
    assert full.rows == setups + sum(200 * entry.plan.nfe for entry in sampled)


def test_more_workers_take_less_time_and_spend_as_much_on_the_same_trials(whole):
    one, four = (run(whole, Policy("random", rungs=False), 0, workers=count) for count in (1, 4))
    assert one.seconds / 4 <= four.seconds < one.seconds
    assert one.rows == four.rows, "what random search proposes does not depend on what is told"


# What is made of runs ----------------------------------------------------------------------------------------------


def ran(rows, area, winners=None):
    return Run(rows, area, winners or {}, {}, 1.0)


def test_shares_are_of_the_run_with_the_same_seed():
    compared = Comparison(Policy(), [ran(10, 3.0), ran(30, 1.0), ran(5, 2.0)])
    reference = [ran(100, 4.0), ran(100, 1.0), ran(20, 1.0)]
    assert compared.rows_share(reference) == 0.25
    assert compared.hypervolume_share(reference) == [0.75, 1.0, 2.0]
    assert Comparison(Policy(), [ran(0, 0.0)]).rows_share([ran(0, 0.0)]) == 1.0
    with pytest.raises(ValueError, match="zip"):
        compared.rows_share(reference[:2])


def test_winners_by_the_confirmation_where_both_have_one_and_by_the_searchs_seeds_where_not():
    low, mid, high = (plan(name, 3, fid) for name, fid in (("low", 2.0), ("mid", 2.01), ("high", 3.0)))
    lucky, sound = plan("lucky", 3, 2.0, confirmed=3.0), plan("sound", 3, 3.0, confirmed=2.0)
    ours = [
        ran(1, 1.0, {3: low, 5: high, 7: mid}),
        ran(1, 1.0, {3: lucky, 5: sound}),
        ran(1, 1.0, {3: low}),
    ]
    theirs = [
        ran(1, 1.0, {3: high, 5: low, 7: low}),
        ran(1, 1.0, {3: sound, 5: lucky}),
        ran(1, 1.0, {3: low, 5: low}),
    ]
    words = Comparison(Policy(), ours).winners(theirs)
    # better: low beside high, sound beside lucky; worse: the two in reverse, and the budget that we have nothing for;
    # 0.5 % is below the resolution.
    assert words == {"same": 1, "better": 2, "inconclusive": 1, "worse": 3}
    assert Comparison(Policy(), theirs[2:]).winners(ours[2:])["better"] == 1
