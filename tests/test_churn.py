"""EDM's stochastic sampler: its Algorithm 2, by image seed, in a plan."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import benchmarks
from pipeline.churn import Churn
from pipeline.denoiser import Meter
from pipeline.noise import noise
from pipeline.plan import Plan
from pipeline.registry import SpecError, build_dataclass
from pipeline.result import describe
from pipeline.sampler import Sampler, integrate, trace
from pipeline.schedules import EDM
from pipeline.scoring import finish
from pipeline.solvers import SOLVERS, Euler, Heun
from pipeline.trial import TrialSpec, draw, evaluate, prepare
from search_spaces.space import Space
from tests.conformance_problem import LATENTS, MIXTURE

SIGMAS = EDM(8).sigmas().tolist()
IMAGENET = Churn(40, 0.05, 50.0, 1.003)  # aiimaginglab/sdm bash_scripts/test_scripts/test_imagenet.sh
ONE_STEP = [name for name in SOLVERS.names() if SOLVERS.get(name).one_step is True]


def fresh(stream: int) -> torch.Tensor:
    return noise(range(len(LATENTS)), LATENTS.shape[1:], torch.float64, stream=stream)


def algorithm_2(denoise, x, sigmas, s_churn, s_min, s_max, s_noise, alpha=1.0):
    """Karras et al. (2022), Algorithm 2, line by line; with the second point at alpha of the step."""
    steps = len(sigmas) - 1
    for i in range(steps):
        t, t_next = sigmas[i], sigmas[i + 1]
        gamma = min(s_churn / steps, 2**0.5 - 1) if s_min <= t <= s_max else 0.0
        t_hat = t + gamma * t
        x_hat = x + math.sqrt(t_hat**2 - t**2) * s_noise * fresh(i + 1)
        d = (x_hat - denoise(x_hat, t_hat)) / t_hat
        x = x_hat + (t_next - t_hat) * d
        if t_next != 0:
            t_prime = t_hat + alpha * (t_next - t_hat)
            x_prime = x_hat + (t_prime - t_hat) * d
            d_prime = (x_prime - denoise(x_prime, t_prime)) / t_prime
            x = x_hat + (t_next - t_hat) * ((1 - 1 / (2 * alpha)) * d + d_prime / (2 * alpha))
    return x


@pytest.mark.parametrize("alpha", [1.0, 0.6])
@pytest.mark.parametrize("churn", [IMAGENET, Churn(3.0), Churn(80.0, s_max=10.0), Churn(0.0)])
def test_heun_with_churn_is_edms_algorithm_2(churn, alpha):
    s_max = math.inf if churn.s_max is None else churn.s_max
    values = churn.s_churn, churn.s_min, s_max, churn.s_noise, alpha
    expected = algorithm_2(MIXTURE, SIGMAS[0] * LATENTS, SIGMAS, *values)
    plan, meter = trace(Heun(alpha), SIGMAS, churn=churn), Meter(MIXTURE)
    samples = plan.run(meter, LATENTS, fresh)
    torch.testing.assert_close(samples, expected, rtol=1e-11, atol=1e-11)
    assert meter.calls == len(plan) == 15, "churn costs no evaluation"


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(ONE_STEP),
    st.floats(0.01, 100),
    st.floats(0, 1),
    st.one_of(st.none(), st.floats(1, 80)),
    st.floats(0.1, 1.1),
    st.booleans(),
)
def test_a_stochastic_plan_is_the_eager_loop(name, s_churn, s_min, s_max, s_noise, afs):
    churn, solver = Churn(s_churn, s_min, s_max, s_noise), SOLVERS.build({"name": name})
    x = SIGMAS[0] * LATENTS
    eager = integrate(MIXTURE, x, SIGMAS, solver, afs=afs, churn=churn, fresh=fresh)
    plan = trace(solver, SIGMAS, afs=afs, churn=churn)
    back = Plan.from_json(json.loads(json.dumps(plan.to_json())))
    assert back == plan
    torch.testing.assert_close(back.run(MIXTURE, LATENTS, fresh), eager, rtol=1e-10, atol=1e-10)
    lifted = {i + 1 for i, sigma in enumerate(SIGMAS[:-1]) if churn.lifted(sigma, 8) > sigma}
    assert set(plan.streams) == lifted


def test_one_step_solvers_are_those_of_the_papers():
    assert {"euler", "heun"} <= set(ONE_STEP)
    assert not {"dpm_solver_pp", "unipc", "ipndm", "ipndm_v"} & set(ONE_STEP)


@pytest.mark.parametrize("name", ["dpm_solver_pp", "unipc", "ipndm"])
def test_churn_is_refused_where_a_solver_looks_back(name):
    spec = TrialSpec("gmm", {"name": name}, {"name": "edm", "num_steps": 4}, churn={"s_churn": 40})
    with pytest.raises(SpecError, match=rf"churn: needs a solver .*'{name}'.*heun"):
        spec.sampler()
    with pytest.raises(SpecError, match="churn"):
        trace(SOLVERS.build({"name": name}), SIGMAS, churn=IMAGENET)


def test_lifting_keeps_the_marginal():
    """With data N(0, v), x at sigma is N(0, v + sigma^2); lifted with s_noise 1 it is N(0, v + sigma_hat^2)."""
    churn, sigmas, images, v = Churn(5.0), [2.0, 0.5, 0.0], range(40_000), 0.3
    x = math.sqrt(v + sigmas[0] ** 2) * noise(images, (1,), torch.float64)
    seen = []

    def lift(stream):
        return noise(images, (1,), torch.float64, stream=stream)

    integrate(lambda x, sigma: x * v / (sigma**2 + v), x, sigmas, Heun(), churn=churn, fresh=lift, observe=seen.append)
    for point, sigma in zip(seen, sigmas, strict=False):
        assert point.sigma == churn.lifted(sigma, 2) > sigma
    expected = v + seen[0].sigma ** 2
    assert abs(float(seen[0].x.var()) - expected) < 4 * expected * math.sqrt(2 / len(images))


def test_gamma_is_capped():
    assert Churn(1e9).lifted(1.0, 10) == pytest.approx(math.sqrt(2), rel=1e-15)
    assert Churn(10, s_min=1.0, s_max=2.0).lifted(2.0, 10) == pytest.approx(2 * math.sqrt(2), rel=1e-15)
    assert Churn(10, s_min=1.0, s_max=2.0).lifted(2.1, 10) == 2.1
    assert Churn(10, s_min=1.0, s_max=2.0).lifted(0.9, 10) == 0.9


def test_streams_of_a_seed_are_independent_and_the_same_in_any_batch():
    one, two = noise(range(4000), (25,), torch.float64), noise(range(4000), (25,), torch.float64, stream=1)
    correlation = torch.corrcoef(torch.stack([one.flatten(), two.flatten()]))[0, 1]
    assert abs(float(correlation)) < 4 / 100_000**0.5
    # Nor is one a shifted copy of the other: no number of a seed stands in two of its streams.
    for row in range(5):
        streams = [noise([row], (25,), torch.float64, stream=k) for k in range(4)]
        assert len(torch.cat(streams).unique()) == 100
    assert torch.equal(noise([7, 3], (25,), torch.float64, stream=1), two[[7, 3]])
    assert not torch.equal(two, noise(range(4000), (25,), torch.float64, stream=2))


def test_a_stochastic_image_is_a_function_of_its_seed():
    plan = trace(Euler(), SIGMAS, churn=IMAGENET)
    whole = draw(plan, MIXTURE, LATENTS.shape[1:], range(10, 18))
    parts = [draw(plan, MIXTURE, LATENTS.shape[1:], part) for part in (range(10, 13), range(13, 18))]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-5, atol=1e-5)


def test_a_stochastic_plan_asks_for_its_noise():
    with pytest.raises(ValueError, match="fresh noise for 8 steps"):
        trace(Euler(), SIGMAS, churn=Churn(4.0)).run(MIXTURE, LATENTS)
    with pytest.raises(ValueError, match="fresh"):
        integrate(MIXTURE, LATENTS, SIGMAS, Euler(), churn=Churn(4.0))


def test_a_plan_may_not_write_over_its_noise():
    plan = trace(Euler(), SIGMAS, churn=Churn(4.0)).to_json()
    plan["stages"][3]["carry"] = {"n2": {"x1": 1.0}}
    with pytest.raises(SpecError, match=r"plan row 3: is written twice, given 'n2'"):
        Plan.from_json(plan)


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"s_churn": -1.0}, "s_churn"),
        ({"s_churn": math.inf}, "s_churn"),
        ({"s_churn": 1.0, "s_min": 2.0, "s_max": 1.0}, "s_max"),
        ({"s_churn": 1.0, "s_max": math.inf}, "s_max: .* null for no upper end"),
        ({"s_churn": 1.0, "s_noise": -0.1}, "s_noise"),
        ({"s_churn": 1.0, "s_turn": 1.0}, "s_turn"),
    ],
)
def test_mistakes_name_the_key(values, key):
    with pytest.raises(SpecError, match=key):
        build_dataclass(Churn, values)


# The last denoising ----------------------------------------------------------------------------------------------


def test_denoise_to_zero_is_a_schedule_that_goes_on_to_0():
    stops, goes_on = EDM(6, final="sigma_min"), EDM(7, final="zero")
    _, added = Sampler(Heun(), stops, denoise_to_zero=True).prepare(MIXTURE, LATENTS[:0])
    _, whole = Sampler(Heun(), goes_on).prepare(MIXTURE, LATENTS[:0])
    assert added == whole
    assert len(added) == len(trace(Heun(), stops.sigmas().tolist())) + 1
    with pytest.raises(SpecError, match="denoise_to_zero"):
        Sampler(Heun(), goes_on, denoise_to_zero=True)
    given_list = {"name": "given", "values": [80.0, 1.0, 0.0]}
    spec = TrialSpec("gmm", {"name": "euler"}, given_list, denoise_to_zero=True)
    with pytest.raises(SpecError, match="denoise_to_zero"):
        spec.sampler().prepare(MIXTURE, LATENTS[:0])


# In a study and on the command line --------------------------------------------------------------------------------

TREE = {
    "solver": {"name": "heun"},
    "schedule": {"name": "edm", "num_steps": {"low": 3, "high": 6}, "final": "sigma_min"},
    "denoise_to_zero": True,
    "churn": {"s_churn": {"low": 0.0, "high": 80.0}, "s_noise": 1.003},
}


def test_a_space_searches_the_loops_options():
    space = Space(TREE)
    built = space.assemble({"schedule.num_steps": 3, "churn.s_churn": 40.0})
    spec = TrialSpec("gmm", **built)
    assert spec.sampler().churn == Churn(40.0, s_noise=1.003)
    assert describe(spec) == "heun edm 3 to 0 · churn 40"
    assert space.check("gmm") == len(prepare(spec, benchmarks.load("gmm")).plan) == 7
    assert TrialSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"churn": {"s_churn": {"low": -1.0, "high": 80.0}}}, "churn.s_churn: is out of range, given -1.0"),
        ({"churn": 40}, "churn: has the wrong type, given 40"),
        ({"churn": {"s_chrun": 3.0}}, "did you mean 's_churn'"),
        ({"solver": {"name": "unipc"}}, "churn: needs a solver that starts each step afresh, given 'unipc'"),
        ({"denoise_to_zero": "yes"}, "denoise_to_zero: has the wrong type, given 'yes'; allowed: true or false"),
        ({"schedule": {"name": "edm", "num_steps": 4}}, "denoise_to_zero: is for a schedule that stops at sigma_min"),
    ],
)
def test_a_space_that_cannot_be_is_refused(change, line):
    with pytest.raises(SpecError) as refused:
        Space({**TREE, **change}).check("gmm")
    assert line in str(refused.value)


def test_a_stochastic_trial_is_the_same_however_it_is_sharded():
    gmm = benchmarks.load("gmm")
    moments = []
    for size in (20, 50):
        spec = TrialSpec(
            "gmm",
            {"name": "heun"},
            {"name": "edm", "num_steps": 5},
            churn={"s_churn": 20.0},
            images=100,
            shard_images=size,
        )
        ready = prepare(spec, gmm)
        parts = evaluate(ready.plan, gmm, range(100), size)
        result = finish(spec, ready, parts, gmm)
        assert result.nfe == 9
        moments.append(result.fid)
    assert moments[0] == pytest.approx(moments[1], rel=1e-6)
