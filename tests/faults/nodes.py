"""A study on three nodes of which one is killed and another one comes; prints what came of it as JSON."""

from __future__ import annotations

import json
import os
import time
from typing import Any

os.environ |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": os.urandom(32).hex()}

import ray
from ray.cluster_utils import Cluster

from pipeline import ray_pool, yaml_file
from pipeline.ray_pool import RayPool
from search_spaces import Study
from tests.faults.driver import LISTED, TINY
from tests.faults.test_workers import Disturbed, fingerprint
from tests.spied_search import run, values

ray_pool.IDLE_SECONDS = 600.0  # all three are looked at in the end


def _where(worker: object) -> str:
    del worker
    return str(ray.get_runtime_context().get_node_id())


def nodes_of(pool: RayPool) -> set[str]:
    """The nodes that workers are up on."""
    found = set()
    for slot in pool._slots:
        if slot.up:
            try:
                found.add(pool._ray.get(slot.actor.__ray_call__.remote(_where)))
            except pool._ray.exceptions.RayActorError:
                continue
    return found


def main() -> None:
    """Run it."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    nodes = [cluster.add_node(num_cpus=1), cluster.add_node(num_cpus=1)]
    os.environ["RAY_ADDRESS"] = cluster.address
    pool = RayPool("gmm", 3)
    while sum(slot.up for slot in pool._slots) < 3:
        pool.next(0.5)
    before = nodes_of(pool)
    calls, answered, gap = 0, [time.monotonic()], 0.0

    def disturb() -> None:
        nonlocal calls
        calls += 1
        if calls == 10:
            cluster.remove_node(nodes.pop(), allow_graceful=False)
        if calls == 60:
            nodes.append(cluster.add_node(num_cpus=1))

    class Watched(Disturbed):
        def next(self, timeout: float) -> Any:
            nonlocal gap
            answer = super().next(timeout)
            if answer is not None:
                gap = max(gap, time.monotonic() - answered[-1])
                answered.append(time.monotonic())
            return answer

    study = Study.model_validate(yaml_file.read(TINY) | LISTED)
    found = values(run(None, study, pool=Watched(pool, disturb)).records)
    if calls < 60:
        nodes.append(cluster.add_node(num_cpus=1))
    deadline = time.monotonic() + 120
    while sum(slot.up for slot in pool._slots) < 3 and time.monotonic() < deadline:
        pool.next(0.5)
    after = nodes_of(pool)
    pool.close()
    said = {"values": fingerprint(found), "nodes_before": len(before), "new_node_used": bool(after - before)}
    print(json.dumps(said | {"calls": calls, "seconds_without_answer": gap}))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main()
