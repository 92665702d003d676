"""The function of `export --to python` against the plan that it was made from."""

import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.noise import noise
from pipeline.registry import to_spec
from pipeline.schedules import SCHEDULES
from pipeline.solvers import SOLVERS
from pipeline.trial import TrialSpec
from tests.conformance_problem import LATENTS, MIXTURE
from tests.contract_examples import SCHEDULE_EXAMPLES, SOLVER_EXAMPLES, prepare
from tests.contract_examples import noise as calibration
from tests.exports.exported import KINDS, module, of, source, text


def fresh(stream):
    return noise(range(len(LATENTS)), LATENTS.shape[1:], torch.float64, stream=stream)


def placed(spec):
    schedule = SCHEDULES.build(spec)
    if schedule.calibration_images:
        return schedule.sigmas(MIXTURE, calibration(schedule.calibration_images)).tolist()
    return schedule.sigmas().tolist()


solvers = st.sampled_from([s for name in SOLVERS.names() for s in SOLVER_EXAMPLES.get(name, [{"name": name}])])
schedules = st.sampled_from(
    [s for name in SCHEDULES.names() for s in SCHEDULE_EXAMPLES.get(name, [{"name": name, "num_steps": 8}])]
)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(solver=solvers, schedule=schedules)
def test_any_solver_on_any_schedule_gives_what_its_plan_gives(solver, schedule):
    sigmas = placed(schedule)
    decided, plan = prepare(solver, sigmas)
    card = of(TrialSpec("gmm", to_spec(decided), {"name": "given", "values": sigmas}), plan)
    assert len(card.card["steps"]["sigma"]) == len(sigmas) - 1
    found = module("python", card).sample(MIXTURE, LATENTS)
    assert torch.equal(found, plan.run(MIXTURE, LATENTS))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_plan_gives_the_same_samples(kind):
    card = source(kind)
    exported = module("python", card)
    calls = []

    def denoise(x, sigma):
        calls.append(sigma)
        return MIXTURE(x, sigma)

    found = exported.sample(denoise, LATENTS, fresh)
    assert torch.equal(found, card.plan.run(MIXTURE, LATENTS, fresh))
    assert calls == [stage.sigma for stage in card.plan.stages]
    assert card.plan.sigmas == exported.SIGMAS


def test_fresh_noise_is_asked_for():
    with pytest.raises(ValueError, match="give `fresh`"):
        module("python", source("churn")).sample(MIXTURE, LATENTS)


@pytest.mark.parametrize("kind", ["unipc", "churn"])
def test_nothing_is_held_that_is_not_read_again(kind):
    """As many tensors at each evaluation as the plan's own run holds."""
    card = source(kind)

    def held_by(run):
        counts = []

        def denoise(x, sigma):
            frame = next(f for f in frames() if "held" in f.f_locals and "combine" in f.f_locals)
            counts.append(len(frame.f_locals["held"]))
            return MIXTURE(x, sigma)

        run(denoise)
        return counts

    exported = module("python", card)
    ours = held_by(lambda denoise: exported.sample(denoise, LATENTS, fresh))
    plans = held_by(lambda denoise: card.plan.run(denoise, LATENTS, fresh))
    assert ours == plans


def frames():
    frame = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def test_the_file_says_which_solver_made_each_evaluation_and_what_it_scored():
    score = {
        "fid": 2.03125, "fid_se": 0.0126, "fid_corrected": 1.98, "images": 8000, "first_seed": 1000, "nfe": 9.0,
        "setup_nfe": 4.0,
    }  # fmt: skip
    card = source("switch", result=score, method="sdm euler>heun@3 edm 6")
    written = text("python", card)
    lines = [line for line in written.splitlines() if line.startswith("    (")]
    assert [line.rpartition("# ")[2] for line in lines] == ["euler"] * 3 + ["heun"] * 4 + ["euler"]
    head = written[: written.index("import torch")]
    for told in (
        "sdm euler>heun@3 edm 6", "8 network evaluations an image, 9 measured", "took 4 more, once", card.plan.digest,
        "2.031 ± 0.013 (1.980 ", "8,000 images, seeds 1000-8999", "gmm version 2", "ab" * 32, "cd" * 32,
        "a1b2c3d4e5f6",
    ):  # fmt: skip
        assert told in head, told


def test_a_plan_that_is_not_scored_says_so_and_one_that_stops_says_where():
    assert "FID       not measured" in text("python", source("euler"))
    assert "end       at sigma 0" in text("python", source("euler"))
    assert "stops at sigma 0.002" in text("python", source("multistep-to-sigma-min"))
    assert "fresh in 4 steps" in text("python", source("churn"))
