"""A search with a hundred virtual workers: how much of their time they have work, and what the driver takes a trial.

`python -m tests.performance.scale --workers 1000 --trials 10000` is the same at full size.
"""

from __future__ import annotations

from tests.performance.scale import simulate

WORKERS, TRIALS, ROW_SECONDS = 100, 1000, 2e-3


def test_a_hundred_workers_and_a_thousand_trials(benchmark, show, tmp_path):
    found = benchmark.pedantic(simulate, args=(WORKERS, TRIALS, ROW_SECONDS, tmp_path), rounds=1)
    for line in found.lines():
        show(line)
    benchmark.extra_info |= {
        "utilisation": round(found.utilisation, 3),
        "driver_ms": round(1e3 * found.driver / TRIALS, 1),
        "storage_ms": round(1e3 * found.seconds["storage"] / TRIALS, 1),
        "memory_mib": round(found.memory_mib),
    }
    assert found.busy <= WORKERS * found.makespan
    assert found.driver <= found.makespan
