"""Shared by the tests: a study that runs in seconds, and one Ray for all that need it."""

import importlib
import importlib.util
import sys

import hypothesis
import pytest
import torch

from pipeline.cluster import RayPool, start_ray
from pipeline.ray_pool import guard_local_ray
from search_spaces import Study

guard_local_ray()  # before a test imports Ray for its own ends
hypothesis.settings.register_profile("untimed", deadline=None)  # a busy machine is no mistake
hypothesis.settings.load_profile("untimed")

SMALL = {
    "study": "small",
    "benchmark": "gmm",
    "budgets": [3, 7],
    "trials": 6,
    "images": 200,
    "shard_images": 20,
    "workers": 0,
    "optimizer": {"name": "tpe", "seed": 0, "startup": 2},
    "baselines": ["ddim", "heun"],
    "floor": {"solver": {"name": "heun"}, "schedule": {"name": "edm", "num_steps": 12}},
    "space": {
        "solver": {"name": "switch", "tau_k": {"low": 1e-3, "high": 10.0, "log": True}, "calibration_images": 16},
        "schedule": {
            "name": "sdm",
            "num_steps": {"low": 2, "high": 4},
            "base_steps": 10,
            "eta_max": {"low": 1e-6, "high": 1e-5, "log": True},
            "eta_min": {"share_of": "eta_max", "low": 0.1, "high": 1.0},
            "calibration_images": 16,
        },
    },
    "published": [
        {"solver.tau_k": 0.1, "schedule.num_steps": [2, 3], "schedule.eta_max": 5e-6, "schedule.eta_min": 1e-6}
    ],
}


def pytest_xdist_make_scheduler(config, log):
    """A file goes to one process, so that what its tests share is made once; so does a folder that shares more."""
    from xdist.scheduler import LoadScopeScheduling

    class BySharing(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.partition("::")[0]
            folder = file.rpartition("/")[0]
            return folder if folder in ("tests/cli", "tests/faults") else file

    return BySharing(config, log)


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_foreign_store(monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "SIGMASEARCH_STORAGE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def small_study():
    def make(**changes):
        return Study.model_validate(SMALL | changes)

    return make


@pytest.fixture(scope="session")
def ray_pool():
    """Two workers on gmm, and room for a third of a test's own. Tests leave it as they found it: no tasks queued."""
    start_ray(workers=3, threads=1)
    pool = RayPool("gmm", workers=2)
    yield pool
    pool.close()
    pool._ray.shutdown()


@pytest.fixture(scope="session")
def k_diffusion_package():
    """Its modules external and sampling. The package itself is not run: it imports what only training with it needs."""
    spec = importlib.util.find_spec("k_diffusion")
    if spec is None:
        pytest.skip("k-diffusion is not installed; make does it")
    for needed in ("torchsde", "torchdiffeq"):
        pytest.importorskip(needed, reason=f"k_diffusion.sampling needs {needed}")
    with pytest.MonkeyPatch.context() as patch:
        package = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, "k_diffusion", package)
        package.sampling = importlib.import_module("k_diffusion.sampling")
        package.external = importlib.import_module("k_diffusion.external")
        return package
