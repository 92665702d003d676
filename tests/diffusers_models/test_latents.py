"""Pipelines of latents by class and by prompt: D against their own scheduler's step, guided and not."""

import json
import math

import pytest
import torch

from pipeline.denoiser import Meter
from pipeline.sampler import trace
from pipeline.solvers import Euler, Heun
from tests.diffusers_models.pipelines import (
    DECODER,
    DIT,
    LATENTS,
    OLD_HABITS,
    ONE_EVALUATION,
    TOLD_SIZES,
    WHOLE_RUN,
    component,
    embeddings,
    error,
    images,
    model,
    write,
)

SIGMAS = [80.0, 15.0, 4.1, 1.3, 0.5, 0.1, 0.0]


@pytest.fixture(scope="module")
def decoder():
    return component("AutoencoderKL", **DECODER, scaling_factor=0.3)


@pytest.fixture(scope="module")
def dit(tmp_path_factory, decoder):
    network = component("DiTTransformer2DModel", **DIT)
    scheduler = component("DDIMScheduler", clip_sample=False)
    folder = write(tmp_path_factory.mktemp("dit"), "DiTPipeline", transformer=network, vae=decoder, scheduler=scheduler)
    return folder, network


@pytest.fixture(scope="module")
def by_prompt(tmp_path_factory, decoder):
    """Stable Diffusion's two forms: folder, network, embeddings and their file, and what the network is called with."""

    def make(xl, prediction="epsilon"):
        folder = tmp_path_factory.mktemp("stable-diffusion")
        network = component("UNet2DConditionModel", **LATENTS, **(TOLD_SIZES if xl else {}))
        betas = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
        scheduler = component("DDIMScheduler", clip_sample=False, prediction_type=prediction, **betas)
        pipeline = "StableDiffusionXLPipeline" if xl else "StableDiffusionPipeline"
        write(folder, pipeline, unet=network, vae=decoder, scheduler=scheduler)
        held = embeddings(folder / "prompt.safetensors", pooled=xl)

        def answer(seen, time, sign):
            row = {"encoder_hidden_states": held[f"{sign}prompt_embeds"].expand(len(seen), -1, -1)}
            if xl:  # 8 latents of 2 pixels each way: made so, nothing cut, wanted so
                sizes = torch.tensor([[16.0, 16, 0, 0, 16, 16]]).expand(len(seen), -1)
                pooled = held[f"{sign}pooled_prompt_embeds"].expand(len(seen), -1)
                row["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": sizes}
            return network(seen, time, **row).sample

        return folder, scheduler, answer

    return make


def step_of(scheduler, time, answer, seen):
    scheduler.set_timesteps(1000)
    return scheduler.step(answer, time, seen).pred_original_sample


def at(scheduler, time):
    kept = float(scheduler.alphas_cumprod[time].double())
    return math.sqrt((1 - kept) / kept)


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_images_are_those_of_the_pipeline_of_dit(diffusers, dit, guidance):
    folder, _ = dit
    pipe = diffusers.DiTPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    states, step = [], pipe.scheduler.step
    pipe.scheduler.step = lambda *args, **options: states.append(step(*args, **options)) or states[-1]
    shown = pipe([7] * 3, guidance, torch.Generator().manual_seed(1), num_inference_steps=10, output_type="pt").images
    sigmas = [*(at(pipe.scheduler, time) for time in pipe.scheduler.timesteps), 0.0]
    ours = model(folder, label=7, guidance=guidance)
    assert ours.shape == (4, 4, 4)
    noise = images(ours.shape) * (math.sqrt(1 + sigmas[0] ** 2) / sigmas[0])
    latents = trace(Euler(), sigmas).run(ours.denoiser(), noise)
    assert error(latents, states[-1].prev_sample[:3]) < WHOLE_RUN
    torch.testing.assert_close((ours.decode(latents) / 2 + 0.5).clamp(0, 1), shown, rtol=0, atol=WHOLE_RUN)


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_a_class_is_guided_away_from_the_one_after_the_last(dit, guidance):
    folder, network = dit
    scheduler = component("DDIMScheduler", clip_sample=False)
    sigma, seen = at(scheduler, 300), images((4, 4, 4))
    by_class, by_none = (
        network(seen, timestep=torch.full((3,), 300), class_labels=torch.full((3,), label)).sample[:, :4]
        for label in (7, 1000)
    )
    assert error(by_class, by_none) > 0.01
    expected = step_of(scheduler, 300, by_none + guidance * (by_class - by_none), seen)
    found = model(folder, label=7, guidance=guidance).denoiser()(seen * math.sqrt(1 + sigma**2), sigma)
    assert error(found, expected) < ONE_EVALUATION * (1 + sigma)


def test_a_dit_under_the_name_of_the_class_before_its_own(dit, tmp_path):
    folder, _ = dit
    expected = model(folder, label=7).denoiser()(images((4, 4, 4)), 2.0)
    for file in folder.rglob("*"):
        if file.is_file():
            there = tmp_path / file.relative_to(folder)
            there.parent.mkdir(parents=True, exist_ok=True)
            there.write_bytes(file.read_bytes().replace(b'"DiTTransformer2DModel"', b'"Transformer2DModel"'))
    config = tmp_path / "transformer" / "config.json"
    config.write_text(
        json.dumps(json.loads(config.read_text()) | {"num_vector_embeds": None, "double_self_attention": False})
    )
    assert torch.equal(model(tmp_path, label=7).denoiser()(images((4, 4, 4)), 2.0), expected)


@pytest.mark.parametrize("guidance", [1.0, 7.5])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("xl", [False, True], ids=["sd", "sdxl"])
def test_a_prompt_is_guided_away_from_the_negative_one(by_prompt, xl, prediction, guidance):
    folder, scheduler, answer = by_prompt(xl, prediction)
    ours = model(folder, embeddings=str(folder / "prompt.safetensors"), guidance=guidance)
    assert ours.shape == (4, 8, 8)
    for time in (0, 300, 999):
        sigma, seen = at(scheduler, time), images(ours.shape, seed=time)
        wanted, none = answer(seen, time, ""), answer(seen, time, "negative_")
        assert error(wanted, none) > 1e-3
        expected = step_of(scheduler, time, none + guidance * (wanted - none), seen)
        found = ours.denoiser()(seen * math.sqrt(1 + sigma**2), sigma)
        assert error(found, expected) < guidance * ONE_EVALUATION * (1 + sigma), time


@pytest.mark.filterwarnings(OLD_HABITS)
@pytest.mark.parametrize("xl", [False, True], ids=["sd", "sdxl"])
def test_guided_samples_are_eulers_own(by_prompt, xl):
    folder, scheduler, answer = by_prompt(xl)
    ours = model(folder, embeddings=str(folder / "prompt.safetensors"), guidance=3.0)
    euler = component("EulerDiscreteScheduler", **{k: v for k, v in scheduler.config.items() if k.startswith("beta_")})
    euler.set_timesteps(sigmas=SIGMAS)
    euler.set_begin_index(0)  # two of the sigmas have one time, the last
    x = images(ours.shape) * SIGMAS[0]
    for time in euler.timesteps:
        seen = euler.scale_model_input(x, time)
        none = answer(seen, time, "negative_")
        x = euler.step(none + 3 * (answer(seen, time, "") - none), time, x).prev_sample
    found = trace(Euler(), SIGMAS).run(ours.denoiser(), images(ours.shape))
    assert error(found, x) < WHOLE_RUN


@pytest.mark.parametrize(("guidance", "rows"), [(1.0, 1), (3.0, 2)])
def test_guidance_doubles_the_rows(dit, guidance, rows):
    """Counted where they reach the network."""
    ours = model(dit[0], label=7, guidance=guidance)
    meter, reached = Meter(ours.denoiser()), []
    hook = ours.denoiser().network.register_forward_pre_hook(lambda _, args: reached.append(len(args[0])))
    plan = trace(Heun(), SIGMAS)
    plan.run(Meter(meter), images(ours.shape))
    hook.remove()
    assert len(plan) == len(reached) == meter.calls == 11
    assert meter.rows == sum(reached) == rows * 3 * len(plan)
    outer = Meter(meter)
    outer(images(ours.shape), 1.0)
    assert outer.rows == 3 * rows


@pytest.mark.parametrize("norms", [{}, {"latents_mean": [0.1, -0.2, 0.3, 0.0], "latents_std": [0.5, 1.0, 2.0, 0.7]}])
def test_latents_are_decoded_as_the_pipeline_decodes_them(tmp_path, dit, decoder, norms):
    """With mean and deviation as StableDiffusionXLPipeline reads them; shifted as StableDiffusion3Pipeline's are."""
    scaled = component("AutoencoderKL", **DECODER, scaling_factor=0.3, shift_factor=0.05, **norms)
    write(tmp_path, "DiTPipeline", transformer=dit[1], vae=scaled, scheduler=component("DDIMScheduler"))
    latents = images((4, 4, 4))
    mean, std = (torch.tensor(norms.get(key, [other])).reshape(1, -1, 1, 1) for key, other in
                 (("latents_mean", 0.0), ("latents_std", 1.0)))  # fmt: skip
    expected = scaled.decode(latents * std / 0.3 + mean + 0.05).sample
    assert expected.shape == (3, 3, 8, 8)
    found = model(tmp_path, label=1).decode(latents.double())
    assert error(found, expected) < ONE_EVALUATION
    assert model(tmp_path, label=1).image_shape == (3, 8, 8)


def test_another_decoder_is_another_model(tmp_path, dit):
    other = component("AutoencoderKL", seed=1, **DECODER, scaling_factor=0.3)
    write(
        tmp_path, "DiTPipeline", transformer=dit[1], vae=other, scheduler=component("DDIMScheduler", clip_sample=False)
    )
    assert model(tmp_path, label=1).hash != model(dit[0], label=1).hash
