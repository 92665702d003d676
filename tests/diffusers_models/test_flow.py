"""Transformers of a rectified flow, in the forms of SD3 and of Flux: D and samples against FlowMatchEuler."""

import pytest
import torch
import torch.nn.functional as F

from pipeline.sampler import trace
from pipeline.solvers import Euler
from tests.diffusers_models.pipelines import (
    DECODER,
    FLUX,
    ONE_EVALUATION,
    SD3,
    WHOLE_RUN,
    component,
    embeddings,
    error,
    images,
    model,
    write,
)

# bfloat16 keeps 8 bits, in Flux of the time and of the guidance too, which is what the network was trained with.
HALF = 0.5
# Times of the flow, 1 - which is noise alone - left out: sigma is infinite there.
TIMES = [0.99, 0.93, 0.8, 0.55, 0.3, 0.08]
SHAPE = (4, 8, 8)
FORMS = {"sd3": (SD3, 1.0), "sd3-guided": (SD3, 4.0), "flux": (FLUX, 1.0), "flux-taught": (FLUX, 3.5)}


def sigma_at(time):
    return time / (1 - time)


@pytest.fixture(scope="module", params=FORMS)
def flow(request, tmp_path_factory):
    """The model, and what its pipeline's loop makes of a latent at a time in steps of training."""
    config, guidance = FORMS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    flux = config is FLUX
    if flux:
        network = component("FluxTransformer2DModel", **config, guidance_embeds="taught" in request.param)
    else:
        network = component("SD3Transformer2DModel", **config)
    vae = component("AutoencoderKL", **DECODER, scaling_factor=1.5, shift_factor=0.06)
    scheduler = component("FlowMatchEulerDiscreteScheduler", shift=3.0)
    pipeline = "FluxPipeline" if flux else "StableDiffusion3Pipeline"
    write(folder, pipeline, transformer=network, vae=vae, scheduler=scheduler)
    held = embeddings(folder / "prompt.safetensors", pooled=True)
    ours = model(folder, embeddings=str(folder / "prompt.safetensors"), guidance=guidance, size=8 if flux else None)

    def called(sign, count):
        return {
            "encoder_hidden_states": held[f"{sign}prompt_embeds"].expand(count, -1, -1),
            "pooled_projections": held[f"{sign}pooled_prompt_embeds"].expand(count, -1),
        }

    def sd3(latent, time):
        times = time.expand(len(latent))
        answers = [network(latent, timestep=times, **called(sign, len(latent))).sample for sign in ("negative_", "")]
        return answers[1] if guidance == 1 else answers[0] + guidance * (answers[1] - answers[0])

    def packed(latent, time):
        patches = F.pixel_unshuffle(latent, 2).flatten(2).transpose(1, 2)
        places = torch.tensor([[0.0, row, column] for row in range(4) for column in range(4)])
        told = torch.full((len(latent),), guidance) if network.config.guidance_embeds else None
        answer = network(
            hidden_states=patches, timestep=time.expand(len(latent)) / 1000, guidance=told, img_ids=places,
            txt_ids=torch.zeros(5, 3), **called("", len(latent)),
        ).sample  # fmt: skip
        return F.pixel_shuffle(answer.transpose(1, 2).unflatten(2, (4, 4)), 2)

    return ours, packed if flux else sd3


@pytest.fixture
def scheduler():
    made = component("FlowMatchEulerDiscreteScheduler")
    made.set_timesteps(sigmas=TIMES)
    assert made.sigmas.tolist() == pytest.approx([*TIMES, 0])
    return made


def test_d_is_where_one_step_to_the_end_would_lead(flow, scheduler):
    ours, answer = flow
    assert ours.shape == SHAPE
    for time in TIMES:
        scheduler.set_timesteps(sigmas=[time])
        latent = images(SHAPE)
        expected = scheduler.step(answer(latent, scheduler.timesteps[0]), scheduler.timesteps[0], latent).prev_sample
        found = ours.denoiser()(latent / (1 - time), sigma_at(time))
        assert error(found, expected) < ONE_EVALUATION


def test_samples_are_those_of_its_own_loop(flow, scheduler):
    ours, answer = flow
    latent = images(SHAPE) * TIMES[0]
    for time in scheduler.timesteps:
        latent = scheduler.step(answer(latent, time), time, latent).prev_sample
    sigmas = [*map(sigma_at, TIMES), 0.0]
    found = trace(Euler(), sigmas).run(ours.denoiser(), images(SHAPE))
    assert error(found, latent) < WHOLE_RUN


def test_only_rows_that_reach_the_network_count(flow):
    ours, _ = flow
    guided = ours._form.network.startswith("SD3") and ours.guidance > 1
    assert ours.denoiser().rows_per_image == (2 if guided else 1)


def test_half_precision_is_near(flow):
    ours, _ = flow
    fields = {"embeddings": ours.embeddings, "guidance": ours.guidance, "size": ours.size}
    half = model(ours._folder, dtype="bfloat16", **fields)
    assert {each.dtype for each in half.denoiser().network.parameters()} == {torch.bfloat16}
    x = images(SHAPE) * 3
    found = half.denoiser()(x, 3.0)
    assert found.dtype == torch.float32
    assert 0 < error(found, ours.denoiser()(x, 3.0)) < HALF
