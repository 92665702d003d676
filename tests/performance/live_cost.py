"""What rungs save and lose in the demo's own space: live searches beside the same ones with every trial at full size.

`python -m tests.performance.live_cost --seeds 10` (`make bench-live`) takes about half an hour of two cores. The
baselines are measured once, for all searches. What is measured is kept in the folder: run again, it goes on.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

import search_spaces
from pipeline import benchmarks
from pipeline.agenda import LOOP, leaders
from pipeline.benchmarks import Benchmark
from pipeline.cluster import open_pool
from pipeline.comparison import Estimate, verdict
from pipeline.ledger import Ledger
from pipeline.replay.policy import SEARCHED, front_area, whole_price
from pipeline.result import TrialRecord
from pipeline.scoring import MomentScoring
from pipeline.search import Search
from pipeline.trial import evaluate
from search_spaces import Study

Winners = dict[int, TrialRecord]


def search(folder: Path, changes: dict[str, Any], seed: int = 0, trials: int | None = None) -> list[TrialRecord]:
    """Search the demo's study with these changes, or go on with what `folder` holds."""
    held = search_spaces.load("digits").model_dump(mode="json")["optimizer"]
    study = search_spaces.load("digits", {"confirm": "none", "optimizer": held | {"seed": seed}, **changes})
    if trials is not None:
        study = study.model_copy(update={"trials": trials})
    folder.mkdir(parents=True, exist_ok=True)
    benchmark, optimizer = benchmarks.load(study.benchmark), study.optimizer
    startup = optimizer.startup + len(study.published_points)
    ledger = Ledger(folder, study.study, study.draw, optimizer.name, seed, startup, optimizer.stopped)
    ends = benchmark.sigma_min, benchmark.sigma_max
    Search(
        study, ledger, lambda: open_pool(study.benchmark, study.workers, study.threads, folder / "memory"),
        MomentScoring(benchmark), ends, (), folder, json.dumps(study.identity(), sort_keys=True),
    ).run()  # fmt: skip
    return ledger.records()


def winners(study: Study, records: list[TrialRecord]) -> Winners:
    """Who leads within each budget, by corrected FID at all images."""
    front = [record for record in leaders([r for r in records if r.role in SEARCHED], []) if record.result]
    found = {}
    for budget in study.budgets:
        within = [(r.result.score.ranked, r.result.nfe, r) for r in front if r.result and r.result.nfe <= budget]
        if within:
            found[budget] = min(within, key=lambda item: item[:2])[2]
    return found


class Confirmed:
    """Scores on seeds that no search saw, each plan's once."""

    def __init__(self, study: Study, benchmark: Benchmark) -> None:
        self._study, self._benchmark, self._known = study, benchmark, dict[str, Estimate]()

    def __call__(self, record: TrialRecord) -> Estimate:
        assert record.result is not None
        plan, scored = record.result.plan, record.result.spec
        spec = self._study.confirm_spec({name: getattr(scored, name) for name in LOOP})
        assert spec is not None
        if plan.digest not in self._known:
            shards = [s for seeds in spec.batches() for s in evaluate(plan, self._benchmark, seeds, spec.shard_images)]
            self._known[plan.digest] = MomentScoring(self._benchmark).score(plan, shards)
        return self._known[plan.digest]

    def compared(self, ours: Winners, theirs: Winners) -> Counter[str]:
        """How our winners stand to theirs, over the budgets."""
        words: Counter[str] = Counter()
        for budget in ours.keys() | theirs.keys():
            if budget not in ours or budget not in theirs:
                words["worse" if budget in theirs else "better"] += 1
            elif _digest(ours[budget]) == _digest(theirs[budget]):
                words["same"] += 1
            else:
                words[verdict(self(ours[budget]), self(theirs[budget]))] += 1
        return words


def _digest(record: TrialRecord) -> str:
    assert record.result is not None
    return record.result.plan.digest


def _spent(study: Study, records: list[TrialRecord]) -> int:
    teacher = study.teacher_images * next(int(r.result.nfe) for r in records if r.role == "floor" and r.result)
    return teacher + sum(r.evidence.spent_rows for r in records if r.role in SEARCHED and r.evidence)


def main() -> None:
    """Compare, and print one line a seed and the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--trials", type=int, default=None)
    parser.add_argument("--out", type=Path, default=Path("runs/live-cost"))
    given = parser.parse_args()
    out = given.out.resolve()
    study = search_spaces.load("digits")
    confirmed = Confirmed(study, benchmarks.load(study.benchmark))
    search(out / "baselines", {}, trials=0)
    rows, volumes, full_winners = [], [], []
    words: Counter[str] = Counter()
    for seed in range(given.seeds):
        full = search(out / f"full-{seed}", {"rungs": "none", "baselines": []}, seed, given.trials)
        if not (out / f"rungs-{seed}").exists():
            shutil.copytree(out / "baselines", out / f"rungs-{seed}")
        ours = search(out / f"rungs-{seed}", {}, seed, given.trials)
        price = sum(whole_price(r, study.images, study.budgets[-1]) for r in full if r.role in SEARCHED)
        rows.append(_spent(study, ours) / price)
        floor = next(r.result.fid for r in full if r.role == "floor" and r.result)
        worst = max(r.result.fid for r in ours if r.role == "baseline" and r.result and r.result.nfe <= 3)
        areas = [front_area(records, floor, (study.budgets[-1] + 1.0, worst)) for records in (ours, full)]
        volumes.append(areas[0] / areas[1])
        full_winners.append(winners(study, full))
        counts = confirmed.compared(winners(study, ours), full_winners[-1])
        words += counts
        print(f"seed {seed}: rows 1/{1 / rows[-1]:.1f}, hypervolume {volumes[-1]:.2%}, {dict(counts)}", flush=True)
    print(f"median: rows 1/{1 / statistics.median(rows):.1f}, hypervolume {statistics.median(volumes):.2%}")
    print(f"lowest hypervolume {min(volumes):.2%}; winners {dict(words)}")
    apart: Counter[str] = Counter()
    for i, theirs in enumerate(full_winners):
        apart += confirmed.compared(full_winners[i - 1], theirs)
    print(f"full-size searches of two seeds: {dict(apart)}")


if __name__ == "__main__":
    main()
