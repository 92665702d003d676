"""Unconditional pipelines of pixels: D against their own scheduler's step, and samples against their own loop."""

import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.models import MODELS
from pipeline.sampler import trace
from pipeline.solvers import Euler
from tests.diffusers_models.pipelines import (
    OLD_HABITS,
    ONE_EVALUATION,
    PIXELS,
    WHOLE_RUN,
    component,
    error,
    images,
    model,
    write,
)

SHAPE = (1, 8, 8)
BETAS = {
    "linear": {},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "scaled": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "terminal": {"rescale_betas_zero_snr": True},
    "short": {"num_train_timesteps": 100, "beta_end": 0.2},
}
UNCLIPPED = {"clip_sample": False}


@pytest.fixture(scope="module")
def unet():
    return component("UNet2DModel", **PIXELS)


@pytest.fixture
def saved(tmp_path, unet):
    def write_with(scheduler, pipeline="DDPMPipeline", network=None):
        return write(tmp_path / type(scheduler).__name__, pipeline, unet=network or unet, scheduler=scheduler)

    return write_with


def sigma_of(scheduler, time):
    kept = scheduler.alphas_cumprod[time].double()
    return float(((1 - kept) / kept).sqrt())


def pixels_of(scheduler, unet, time, seen, **options):
    """What the scheduler's own step takes for the clean image."""
    answer = unet(seen, time, **options).sample
    return scheduler.step(answer, time, seen).pred_original_sample


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("betas", BETAS.values(), ids=BETAS.keys())
@pytest.mark.parametrize("name", ["DDPMScheduler", "DDIMScheduler"])
def test_d_is_the_clean_image_of_its_own_step_at_each_trained_time(saved, unet, name, betas, prediction):
    scheduler = component(name, prediction_type=prediction, **UNCLIPPED, **betas)
    last = scheduler.config.num_train_timesteps - 1
    scheduler.set_timesteps(last + 1)
    denoise = model(saved(scheduler)).denoiser()
    for time in (0, 1, last // 2, last - 1):
        sigma = sigma_of(scheduler, time)
        seen = images(SHAPE, seed=time)
        expected = pixels_of(scheduler, unet, time, seen)
        found = denoise(seen * math.sqrt(1 + sigma**2), sigma)
        assert (found - expected).abs().max() < ONE_EVALUATION * (1 + sigma) * seen.abs().max(), (time, sigma)


@pytest.mark.filterwarnings(OLD_HABITS)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("betas", ["linear", "scaled"])
def test_between_trained_times_it_is_eulers_own(saved, unet, betas, prediction):
    """EulerDiscreteScheduler takes any sigmas, and finds their times."""
    scheduler = component("EulerDiscreteScheduler", prediction_type=prediction, **BETAS[betas])
    sigmas = [13.0, 7.7, 3.1, 1.0, 0.31, 0.07, 0.0]
    scheduler.set_timesteps(sigmas=sigmas)
    assert not (scheduler.timesteps == scheduler.timesteps.round()).all()
    denoise = model(saved(scheduler)).denoiser()
    for sigma, time in zip(sigmas, scheduler.timesteps, strict=False):
        x = images(SHAPE) * math.sqrt(1 + sigma**2)
        answer = unet(scheduler.scale_model_input(x, time), time).sample
        expected = scheduler.step(answer, time, x).pred_original_sample
        assert (denoise(x, sigma) - expected).abs().max() < ONE_EVALUATION * (1 + sigma) * images(SHAPE).abs().max()


@pytest.mark.filterwarnings(OLD_HABITS)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_samples_are_eulers_own(saved, unet, prediction):
    scheduler = component("EulerDiscreteScheduler", prediction_type=prediction)
    sigmas = [80.0, 21.0, 6.3, 2.2, 0.9, 0.33, 0.08, 0.0]
    scheduler.set_timesteps(sigmas=sigmas)
    x = images(SHAPE) * sigmas[0]
    for time in scheduler.timesteps:
        answer = unet(scheduler.scale_model_input(x, time), time).sample
        x = scheduler.step(answer, time, x).prev_sample
    found = trace(Euler(), sigmas).run(model(saved(scheduler)).denoiser(), images(SHAPE))
    assert error(found, x) < WHOLE_RUN


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_images_are_those_of_the_pipeline_with_ddim(diffusers, saved, unet, prediction):
    """DDIM without noise is Euler in these coordinates (Karras et al., 2022, arXiv 2206.00364, appendix C.3)."""
    scheduler = component("DDIMScheduler", prediction_type=prediction, **UNCLIPPED)
    folder = saved(scheduler, "DDIMPipeline")
    pipe = diffusers.DDIMPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    states, step = [], pipe.scheduler.step
    pipe.scheduler.step = lambda *args, **options: states.append(step(*args, **options)) or states[-1]
    pipe(3, torch.Generator().manual_seed(1), num_inference_steps=10, output_type="pt")
    sigmas = [*(sigma_of(scheduler, time) for time in pipe.scheduler.timesteps), 0.0]
    # The pipeline begins with unit-normal noise as what the network sees; a plan with noise times the first sigma.
    noise = images(SHAPE) * (math.sqrt(1 + sigmas[0] ** 2) / sigmas[0])
    found = trace(Euler(), sigmas).run(model(folder).denoiser(), noise)
    assert error(found, states[-1].prev_sample) < WHOLE_RUN


def test_a_model_of_the_score_is_of_images_from_0_to_1(saved):
    scheduler = component("ScoreSdeVeScheduler", num_train_timesteps=50)
    unet = component("UNet2DModel", **PIXELS | {"time_embedding_type": "fourier"})
    denoise = model(saved(scheduler, "ScoreSdeVePipeline", unet)).denoiser()
    scheduler.set_timesteps(50)
    scheduler.set_sigmas(50)
    for place in (0, 10, 30, 48):
        time = scheduler.timesteps[place]
        at = int(time * 49)
        sigma, below = (float(scheduler.discrete_sigmas[i]) for i in (at, at - 1))
        x = 0.5 + images(SHAPE) * sigma
        score = unet(x, torch.full((3,), sigma)).sample
        mean = scheduler.step_pred(score, time, x).prev_sample_mean
        # The mean goes (sigma² - below²) scores towards the data; D goes all sigma² of them.
        clean = x + (mean - x) * (sigma**2 / (sigma**2 - below**2))
        found = denoise(2 * x - 1, 2 * sigma)
        assert (found - (2 * clean - 1)).abs().max() < 10 * ONE_EVALUATION * (1 + sigma), sigma


def test_a_label_is_every_images(saved):
    unet = component("UNet2DModel", **PIXELS | {"num_class_embeds": 4})
    scheduler = component("DDIMScheduler", **UNCLIPPED)
    scheduler.set_timesteps(1000)
    folder = saved(scheduler, network=unet)
    sigma, seen = sigma_of(scheduler, 400), images(SHAPE)
    answers = []
    for label in (0, 3):
        expected = pixels_of(scheduler, unet, 400, seen, class_labels=torch.tensor([label] * 3))
        answers.append(model(folder, label=label).denoiser()(seen * math.sqrt(1 + sigma**2), sigma))
        assert error(answers[-1], expected) < ONE_EVALUATION * (1 + sigma)
    assert error(*answers) > 0.01


def test_a_learned_variance_is_left_out(saved):
    unet = component("UNet2DModel", **PIXELS | {"out_channels": 2})
    scheduler = component("DDPMScheduler", variance_type="learned_range", **UNCLIPPED)
    sigma, seen = sigma_of(scheduler, 400), images(SHAPE)
    expected = pixels_of(scheduler, unet, 400, seen)
    found = model(saved(scheduler, network=unet)).denoiser()(seen * math.sqrt(1 + sigma**2), sigma)
    assert error(found, expected) < ONE_EVALUATION * (1 + sigma)


def test_beyond_the_trained_sigmas_the_network_is_told_the_nearest_time(saved, unet):
    scheduler = component("DDIMScheduler")
    folder = saved(scheduler)
    for time, sigma in ((999, 500.0), (0, 0.002)):
        assert not sigma_of(scheduler, 0) < sigma < sigma_of(scheduler, 999)
        x = images(SHAPE) * sigma
        expected = x - sigma * unet(x / math.sqrt(1 + sigma**2), time).sample
        assert error(model(folder).denoiser()(x, sigma), expected) < ONE_EVALUATION


def test_the_answer_is_in_the_dtype_of_x_and_without_gradients(saved, unet):
    folder = saved(component("DDPMScheduler", prediction_type="sample"))
    exact = model(folder).denoiser()(images(SHAPE), 1.0)
    for dtype, weights, tolerance in (
        (torch.float64, "float32", 1e-5), (torch.float32, "bfloat16", 0.05), (torch.float32, "float16", 0.01),
    ):  # fmt: skip
        denoise = model(folder, dtype=weights).denoiser()
        assert {str(each.dtype) for each in denoise.network.parameters()} == {f"torch.{weights}"}
        found = denoise(images(SHAPE).to(dtype).requires_grad_(), 1.0)
        assert (found.dtype, found.requires_grad) == (dtype, False)
        assert error(found.float(), exact) < tolerance
    assert not model(folder).denoiser().network.training


def test_a_batch_may_be_split(saved):
    denoise = model(saved(component("DDPMScheduler"))).denoiser()
    x = images(SHAPE, count=5) * 3
    torch.testing.assert_close(torch.cat([denoise(x[:2], 3.0), denoise(x[2:], 3.0)]), denoise(x, 3.0))


def test_an_old_pipeline_has_its_network_beside_the_index(saved, unet):
    folder = saved(component("DDPMScheduler"))
    before = model(folder).hash
    expected = model(folder).denoiser()(images(SHAPE), 1.0)
    for sub in ("unet", "scheduler"):
        for file in (folder / sub).iterdir():
            file.rename(folder / file.name)
        (folder / sub).rmdir()
    again = model(folder)
    assert again.hash == before
    assert torch.equal(again.denoiser()(images(SHAPE), 1.0), expected)


def test_attention_under_its_old_names(saved):
    """As in the first published networks; `group_norm` has kept its own."""
    folder = saved(component("DDPMScheduler"))
    expected = model(folder).denoiser()(images(SHAPE), 1.0)
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    names = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    held = load_file(file)
    for name, old in names.items():
        assert any(name in key for key in held)
        held = {key.replace(name, old): value for key, value in held.items()}
    save_file(held, file)
    assert torch.equal(model(folder).denoiser()(images(SHAPE), 1.0), expected)


def test_another_size_than_the_networks_own(saved, unet):
    folder = saved(component("DDPMScheduler", prediction_type="sample"))
    built = MODELS.build({"name": "diffusers", "source": str(folder), "size": 12})
    assert built.shape == built.image_shape == (1, 12, 12)
    assert torch.equal(built.decode(images((1, 12, 12))), images((1, 12, 12)))
    x = images((1, 12, 12))
    sigma = sigma_of(component("DDPMScheduler"), 300)
    expected = unet(x / math.sqrt(1 + sigma**2), 300).sample
    torch.testing.assert_close(built.denoiser()(x, sigma), expected)
