"""The scheduler class of `export --to diffusers`, run by the installed diffusers with networks made here."""

import importlib
import json
import math
import sys

import pytest
import torch

from pipeline.plan import Plan
from pipeline.registry import SpecError
from pipeline.trial import TrialSpec
from tests.exports.exported import KINDS, fresh_noise, made, module, of, source, start, text
from tests.peers.diffusers_loop import OLD_HABITS

SHAPE = (1, 8, 8)
STOCHASTIC = [kind for kind, (_, _, loop) in KINDS.items() if "churn" in loop]
DETERMINISTIC = [kind for kind in KINDS if kind not in STOCHASTIC]
# float32: the state is a sum of a few products in each of some eight evaluations, and comes back through the network.
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def diffusers():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield pytest.importorskip("diffusers", reason="diffusers is not installed; make does it")


@pytest.fixture(scope="module")
def unet(diffusers):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = diffusers.UNet2DModel(
            sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(16, 32),
            norm_num_groups=4, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        )  # fmt: skip
    return made.eval()


def scheduler_of(card, **config):
    (cls,) = (value for name, value in vars(module("diffusers", card)).items() if name.startswith("Plan"))
    return cls(**config)


def alphas_cumprod(diffusers, config):
    names = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule")
    return diffusers.DDPMScheduler(**{k: v for k, v in config.items() if k in names}).alphas_cumprod.double()


def edm_denoiser(diffusers, unet, kind="epsilon", **config):
    """D(x; sigma) of the network, in formulas of its own: the interface of the plan."""
    kept = alphas_cumprod(diffusers, config)
    trained = ((1 - kept) / kept).sqrt().log()

    def time(sigma):
        place = int((trained < math.log(sigma)).sum())
        if place in (0, len(trained)):
            return float(min(place, len(trained) - 1))
        low, high = trained[place - 1], trained[place]
        return place - 1 + float((math.log(sigma) - low) / (high - low))

    def denoise(x, sigma):
        if kind == "flow_prediction":
            share = sigma / (1 + sigma)
            seen = x / (1 + sigma)
            return seen - share * unet(seen, torch.tensor(1000 * share)).sample
        alpha = 1 / math.sqrt(1 + sigma**2)
        answer = unet(alpha * x, torch.tensor(time(sigma))).sample
        if kind == "sample":
            return answer
        return x - sigma * answer if kind == "epsilon" else alpha * (alpha * x) - sigma * alpha * answer

    return denoise


def loop(scheduler, unet, noise, **options):
    """What a pipeline does with a scheduler."""
    x = noise * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        answer = unet(scheduler.scale_model_input(x, t), t).sample
        x = scheduler.step(answer, t, x, **options).prev_sample
    return x


def error(found, expected):
    assert found.shape == expected.shape
    assert torch.isfinite(expected).all()
    return float((found - expected).abs().max() / expected.abs().max())


@torch.no_grad()
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample", "flow_prediction"])
@pytest.mark.parametrize("kind", DETERMINISTIC)
def test_the_scheduler_gives_the_plans_images(diffusers, unet, kind, prediction):
    card = source(kind)
    denoise = edm_denoiser(diffusers, unet, prediction)
    scheduler = scheduler_of(card, prediction_type=prediction)
    found = loop(scheduler, unet, start(SHAPE))
    assert error(found, card.plan.run(denoise, start(SHAPE))) < TOLERANCE
    scheduler.set_timesteps(len(card.plan))
    assert torch.equal(loop(scheduler, unet, start(SHAPE)), found), "a second batch"


@torch.no_grad()
@pytest.mark.parametrize("kind", STOCHASTIC)
def test_fresh_noise_comes_by_the_stream_and_what_comes_first_is_one_noise(diffusers, unet, kind):
    card = source(kind)
    fresh = fresh_noise(SHAPE)
    first = card.plan.stages[0].input
    total = math.sqrt(sum(value**2 for value in first.values()))
    begun = sum(value / total * (start(SHAPE) if key == "n" else fresh(int(key[1:]))) for key, value in first.items())
    found = loop(scheduler_of(card), unet, begun, fresh=fresh)
    assert error(found, card.plan.run(edm_denoiser(diffusers, unet), start(SHAPE), fresh)) < TOLERANCE


@torch.no_grad()
def test_a_plan_that_forms_states_before_its_first_evaluation(diffusers, unet):
    """No solver here does; a card may."""
    stages = [
        {"sigma": 9.0, "carry": {"c0.0": {"n": 3.0}, "c0.1": {"n": -1.0}}, "input": {"n": 5.0, "c0.0": 2.0}},
        {"sigma": 1.0, "input": {"d0": 0.5, "c0.0": 0.3, "c0.1": -0.1, "n": 0.2}},
    ]
    plan = Plan.from_json({"sigmas": [9.0, 1.0, 0.0], "stages": stages, "output": {"d1": 1.0, "c0.1": 0.01}})
    card = of(TrialSpec("gmm", {"name": "euler"}, {"name": "given", "values": [9.0, 1.0, 0.0]}), plan)
    del card.card["steps"]
    scheduler = scheduler_of(card)
    assert scheduler.init_noise_sigma == pytest.approx(11 / math.sqrt(82))
    expected = plan.run(edm_denoiser(diffusers, unet), start(SHAPE))
    assert error(loop(scheduler, unet, start(SHAPE)), expected) < TOLERANCE


def test_noises_that_are_read_again_are_refused():
    churned = made({"name": "heun"}, {"name": "edm", "num_steps": 4}, {"churn": {"s_churn": 3.0}, "afs": True})
    with pytest.raises(SpecError, match="reads its first noises again"):
        text("diffusers", churned)
    for target in ("python", "k-diffusion", "comfyui"):
        assert "fresh in 4 steps" in text(target, churned)
    nothing = Plan((), {"n": 1.0}, (80.0, 0.0))
    card = of(TrialSpec("gmm", {"name": "euler"}, {"name": "given", "values": [80.0, 0.0]}), nothing)
    with pytest.raises(SpecError, match="makes no evaluation"):
        text("diffusers", card)


@torch.no_grad()
def test_fresh_noise_follows_the_pipelines_generator(diffusers, unet):
    card = source("churn")
    images = [
        loop(scheduler_of(card), unet, start(SHAPE), generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    ]
    assert torch.equal(images[0], images[1])
    assert error(images[0], images[2]) > 1e-3


@torch.no_grad()
def test_a_pipeline_of_diffusers_runs_it(diffusers, unet):
    """DDPMPipeline starts from unit-normal noise and scales nothing: from the noise over init_noise_sigma, to us."""
    card = source("switch")
    config = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}
    pipe = diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler(**config))
    cls = type(scheduler_of(card))
    pipe.scheduler = cls.from_config(pipe.scheduler.config)
    assert pipe.scheduler.config.beta_schedule == "squaredcos_cap_v2"
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(3)
    found = pipe(3, generator, num_inference_steps=len(card.plan), output_type="pt").images
    noise = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(3)) / pipe.scheduler.init_noise_sigma
    expected = card.plan.run(edm_denoiser(diffusers, unet, "v_prediction", **config), noise)
    assert error(found, (expected / 2 + 0.5).clamp(0, 1)) < TOLERANCE
    with pytest.raises(ValueError, match=f"num_inference_steps={len(card.plan)}"):
        pipe(3, generator, num_inference_steps=50)


@torch.no_grad()
def test_half_precision_keeps_the_state_and_returns_what_it_was_given(diffusers, unet):
    card = source("unipc")
    scheduler = scheduler_of(card)
    denoise = edm_denoiser(diffusers, unet)
    x = (start(SHAPE) * scheduler.init_noise_sigma).bfloat16()
    for t in scheduler.timesteps:
        x = scheduler.step(unet(x.float(), t).sample.bfloat16(), t, x).prev_sample
        assert x.dtype == torch.bfloat16
        assert {held.dtype for held in scheduler._held.values()} <= {torch.float32}
    assert error(x.float(), card.plan.run(denoise, start(SHAPE))) < 0.1


def test_it_is_saved_and_loaded_from_a_module(diffusers, tmp_path, monkeypatch):
    """As a file that is imported, and as the scheduler of a pipeline's folder."""
    file = tmp_path / "plan_scheduler.py"
    file.write_text(text("diffusers", source("unipc")))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "plan_scheduler", raising=False)
    (cls,) = (v for k, v in vars(importlib.import_module("plan_scheduler")).items() if k.startswith("Plan"))
    scheduler = cls(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction")
    scheduler.save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "scheduler_config.json").read_text())["_class_name"] == cls.__name__
    again = cls.from_pretrained(tmp_path / "saved")
    names = {name for name in scheduler.config if not name.startswith("_")}
    assert {name: again.config[name] for name in names} == {name: scheduler.config[name] for name in names}
    assert again.config.prediction_type == "v_prediction"
    assert torch.equal(again.timesteps, scheduler.timesteps)


def test_times_are_the_models_own_and_the_nearest_beyond_them(diffusers):
    scheduler = scheduler_of(source("euler"), beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    kept = alphas_cumprod(diffusers, dict(scheduler.config))
    trained = ((1 - kept) / kept).sqrt()
    assert trained[-1] < 80
    assert trained[0] > 0.002
    assert scheduler.timesteps[0] == 999
    assert scheduler.timesteps[-1] == 0
    between = made({"name": "euler"}, {"name": "given", "values": [float(trained[700]), float(trained[41]), 0.0]}, {})
    own = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    assert scheduler_of(between, **own).timesteps.tolist() == pytest.approx([700, 41], abs=1e-4)


def test_a_model_that_begins_with_noise_alone_has_times_for_every_sigma(diffusers):
    scheduler = scheduler_of(source("euler"), rescale_betas_zero_snr=True)
    assert torch.isfinite(scheduler.timesteps).all()
    assert scheduler.timesteps[0] < 999


@pytest.mark.parametrize("prediction", ["epsilon", "flow_prediction"])
def test_noise_is_added_as_diffusers_adds_it(diffusers, prediction):
    clean, noise, times = start(SHAPE), fresh_noise(SHAPE)(1), torch.tensor([0, 250, 999])
    found = scheduler_of(source("euler"), prediction_type=prediction).add_noise(clean, noise, times)
    if prediction == "epsilon":
        expected = diffusers.DDPMScheduler().add_noise(clean, noise, times)
    else:
        share = (times / 1000).reshape(-1, 1, 1, 1)
        expected = (1 - share) * clean + share * noise
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@torch.no_grad()
@OLD_HABITS[0]
def test_the_scheduler_that_the_file_names_does_the_same(diffusers, unet):
    card = source("euler")
    written = text("diffusers", card)
    assert 'EulerDiscreteScheduler.from_config(pipe.scheduler.config, timestep_spacing="linspace")' in written
    stock = diffusers.EulerDiscreteScheduler()
    stock.set_timesteps(sigmas=list(card.plan.sigmas))
    found, ours = (loop(each, unet, start(SHAPE)) for each in (stock, scheduler_of(card)))
    assert error(found, ours) < TOLERANCE
    for kind in KINDS:
        assert ("EulerDiscreteScheduler" in text("diffusers", source(kind))) == (kind == "euler"), kind


def test_a_wrong_use_is_told(diffusers):
    with pytest.raises(ValueError, match="prediction_type is one of"):
        scheduler_of(source("euler"), prediction_type="x0")
    scheduler = scheduler_of(source("euler"))
    scheduler.set_begin_index(0)
    with pytest.raises(ValueError, match="cannot begin in the middle"):
        scheduler.set_begin_index(2)
    x = start(SHAPE)
    for t in scheduler.timesteps:
        (x,) = scheduler.step(x, t, x, return_dict=False)
    with pytest.raises(ValueError, match="set_timesteps"):
        scheduler.step(x, 0, x)
