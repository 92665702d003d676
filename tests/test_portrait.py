"""What is seen of a plan while it is sampled, and that seeing it changes nothing."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from pipeline.benchmarks import load
from pipeline.cluster import InProcessPool
from pipeline.metrics.features import quantise
from pipeline.noise import noise
from pipeline.plan import Plan
from pipeline.portrait import PATH_IMAGES, PICTURES, Portrait, Sitting
from pipeline.portrait_store import PortraitPool, PortraitStore, digest_of
from pipeline.result import TrialRecord
from pipeline.sampler import integrate, trace
from pipeline.schedules import EDM
from pipeline.sdm import curvature_profile
from pipeline.solvers import DPMSolver2, Euler, Heun
from pipeline.teacher import Teacher, compare, teach
from pipeline.trial import TrialSpec, draw, evaluate
from pipeline.wasserstein import measured_eta
from pipeline.worker import Compared, Evaluated, Task
from tests.synthetic_study import climbed, small_study

SIGMAS = EDM(6).sigmas().tolist()
SEEDS = range(40, 240)


@pytest.fixture(scope="module")
def gmm():
    return load("gmm")


@pytest.fixture(scope="module")
def digits():
    return load("digits-kde")


def seen(plan, benchmark, seeds=SEEDS):
    sitting = Sitting()
    evaluate(plan, benchmark, seeds, sitting=sitting)
    return sitting.portrait


def test_along_an_euler_path_kappa_and_eta_are_those_of_sdm(digits):
    portrait = seen(trace(Euler(), SIGMAS), digits)
    batch, points = noise(SEEDS[:PATH_IMAGES], digits.shape, torch.float64), []
    integrate(digits.model.denoiser(), SIGMAS[0] * batch, SIGMAS, Euler(), observe=points.append)
    assert portrait.images == PATH_IMAGES
    assert portrait.sigmas == tuple(SIGMAS)
    assert math.isnan(portrait.kappas[0])
    assert math.isnan(portrait.etas[0])
    # The plan ran in float32.
    assert portrait.kappas[1:] == pytest.approx(curvature_profile(points)[1:], rel=1e-3)
    etas, _ = measured_eta(digits.model.denoiser(), batch, SIGMAS)
    assert portrait.etas[1:] == pytest.approx(etas[: len(portrait.etas) - 1], rel=1e-3)


def test_at_the_nodes_of_a_heun_path_kappa_is_that_from_node_to_node(digits):
    portrait = seen(trace(Heun(), SIGMAS), digits)
    batch, points = noise(SEEDS[:PATH_IMAGES], digits.shape, torch.float64), []
    integrate(digits.model.denoiser(), SIGMAS[0] * batch, SIGMAS, Heun(), observe=points.append)
    assert len(portrait.kappas) == 11
    assert portrait.sigmas[:4] == (SIGMAS[0], SIGMAS[1], SIGMAS[1], SIGMAS[2])
    # At the last, sigma 0.002, what rounding to float32 leaves of x - D is more of a bend than the path's.
    assert portrait.kappas[2:-1:2] == pytest.approx(curvature_profile(points)[1:-1], rel=1e-3)
    # The second evaluation of a step is at its Euler end: eta is what Heun adds to Euler there.
    start = points[0]
    end = start.x + (SIGMAS[1] - SIGMAS[0]) * start.slope
    added = torch.linalg.vector_norm((points[1].x - end).flatten(1), dim=1).mean()
    assert portrait.etas[1] == pytest.approx(float(added), rel=1e-3)


def test_between_two_evaluations_of_a_midpoint_rule_the_last_one_counts(gmm):
    portrait = seen(trace(DPMSolver2(), SIGMAS), gmm)
    assert portrait.sigmas[1] == pytest.approx(math.sqrt(SIGMAS[0] * SIGMAS[1]))
    assert all(math.isfinite(value) and value > 0 for value in (*portrait.kappas[1:], *portrait.etas[1:]))


def test_watching_changes_no_bit_and_asks_for_no_evaluation(digits):
    plan, seeds = trace(Heun(), SIGMAS), range(100)
    alone, watched = (evaluate(plan, digits, seeds, 20, sitting) for sitting in (None, Sitting()))
    for ours, theirs in zip(watched, alone, strict=True):
        assert ours.moments.mean.tobytes() == theirs.moments.mean.tobytes()
        assert ours.moments.scatter.tobytes() == theirs.moments.scatter.tobytes()
        assert (ours.rows, ours.seeds) == (theirs.rows, theirs.seeds)
    taught, _ = teach(plan, digits, range(32))
    coarse = trace(Euler(), SIGMAS)
    assert compare(coarse, digits, taught, Sitting()) == compare(coarse, digits, taught)


def test_the_pictures_are_those_of_the_first_seeds(digits, gmm):
    plan = trace(Euler(), SIGMAS)
    portrait = seen(plan, digits, range(50))
    samples = draw(plan, digits.model.denoiser(), digits.shape, range(50))
    assert portrait.pixels.dtype == np.uint8
    assert portrait.pixels.shape == (PICTURES, 8, 8, 1)
    assert (portrait.pixels == quantise(samples[:PICTURES]).movedim(1, -1).numpy()).all()
    assert seen(plan, digits, range(7)).pixels.shape[0] == 7
    assert seen(plan, gmm).pixels is None  # its samples are no pictures


def test_a_slope_that_is_nought_has_no_kappa(gmm):
    sitting, plan = Sitting(), trace(Euler(), SIGMAS)
    watched = sitting.watch(lambda x, sigma: x)
    plan.run(watched, noise(range(8), gmm.shape))
    sitting.end(plan, torch.zeros(8, *gmm.shape), gmm)
    assert all(map(math.isnan, sitting.portrait.kappas))
    assert sitting.portrait.etas[1:] == (0.0,) * 5


def portrait(**changes):
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3, 1)
    return dataclasses.replace(Portrait((2.0, 1.0, 0.0), (math.nan, 0.5), (math.nan, 0.25), 128, pixels), **changes)


@pytest.mark.parametrize("pixels", [True, False])
def test_a_portrait_is_kept_as_it_is_and_the_first_one_stays(tmp_path, pixels):
    store, made = PortraitStore(tmp_path / "kept"), portrait() if pixels else portrait(pixels=None)
    assert store.take("abc") is None
    store.keep("abc", made)
    store.keep("abc", portrait(images=1))
    held = store.take("abc")
    assert (held.sigmas, held.kappas[1:], held.etas[1:], held.images) == ((2.0, 1.0, 0.0), (0.5,), (0.25,), 128)
    assert (held.pixels == made.pixels).all() if pixels else held.pixels is None
    other = PortraitStore(tmp_path / "fork")
    other.adopt(store)
    other.adopt(PortraitStore(tmp_path / "none"))
    assert other.take("abc").images == 128


def test_a_torn_portrait_or_one_of_another_plan_is_none(tmp_path):
    store = PortraitStore(tmp_path)
    store.keep("abc", portrait())
    file = tmp_path / "abc.safetensors"
    (tmp_path / "def.safetensors").write_bytes(file.read_bytes())
    assert store.take("def") is None
    file.write_bytes(file.read_bytes()[:-4])
    assert store.take("abc") is None


def test_whose_portrait_is_whose():
    complete, *_ = small_study()
    assert digest_of(complete) == complete.result.plan.digest
    stopped = next(item for item in climbed(small_study(), [3]) if item.key == "searched/1000")
    assert digest_of(stopped, sampled=True) == stopped.evidence.digest
    refused = dataclasses.replace(stopped, evidence=dataclasses.replace(stopped.evidence, teacher=None, scores=()))
    assert digest_of(refused) == stopped.evidence.digest
    assert digest_of(refused, sampled=True) == ""
    assert digest_of(TrialRecord("searched/0", "searched", "failed", "SDM")) == ""


def asked(plan: Plan, what, first_seed, seeds=None):
    spec = TrialSpec("gmm", {"name": "euler"}, {"name": "edm"}, images=80, shard_images=20, first_seed=first_seed)
    return Task("searched/0", (0, 0), spec, plan, seeds, what)


@pytest.mark.parametrize("taught", [True, False])
def test_the_first_images_that_are_sampled_bring_the_portrait(gmm, tmp_path, taught):
    """With a teacher those it compares with; only of the study's own seeds."""
    store, plan = PortraitStore(tmp_path), trace(Euler(), SIGMAS)
    pool = PortraitPool(InProcessPool("gmm"), store, 0)
    if taught:
        pool.share(Teacher.merge([teach(plan, gmm, range(16))[0]]))
        pool.submit(asked(plan, "compare", 0))
        _, outcome = pool.next(1)
        assert isinstance(outcome, Compared)
        assert outcome.portrait.images == 16
        assert store.take(plan.digest).images == 16
    for first_seed, seeds in ((1000, range(1000, 1040)), (0, range(40, 80)), (0, range(40))):
        assert taught or store.take(plan.digest) is None
        pool.submit(asked(plan, "evaluate", first_seed, seeds))
        _, outcome = pool.next(1)
        assert isinstance(outcome, Evaluated)
        assert (outcome.portrait is None) == (taught or seeds.start == 40)
    assert store.take(plan.digest).images == (16 if taught else 40)
    assert pool.next(0) is None
    pool.close()
