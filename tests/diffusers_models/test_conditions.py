"""Each image's own condition: its class drawn from its seed, its prompt the one of its place in the file."""

import pytest
import torch

from pipeline.benchmarks import Card
from pipeline.models.classes import drawn_classes
from pipeline.registry import SpecError
from tests.diffusers_models.pipelines import (
    DECODER,
    DIT,
    LATENTS,
    PIXELS,
    SD3,
    TOLD_SIZES,
    component,
    embeddings,
    error,
    images,
    model,
    write,
)

# A batch of one is convolved by other code than a larger one.
SPLIT = 2e-5
SEEDS = range(3, 10)
CARD = Card(
    name="m", version=1, title="t", description="d", model={}, features="identity", quantise=False, reference="data",
    sigma_min=0.002, sigma_max=80.0, sigma_source="s", published={},
)  # fmt: skip
PIPELINES = {
    "sd": ("StableDiffusionPipeline", "UNet2DConditionModel", LATENTS, "DDIMScheduler"),
    "sdxl": ("StableDiffusionXLPipeline", "UNet2DConditionModel", LATENTS | TOLD_SIZES, "DDIMScheduler"),
    "sd3": ("StableDiffusion3Pipeline", "SD3Transformer2DModel", SD3, "FlowMatchEulerDiscreteScheduler"),
}


def pipeline_of(folder, pipeline, name, config, scheduler="DDIMScheduler"):
    part = "unet" if name.startswith("UNet") else "transformer"
    vae = {} if name == "UNet2DModel" else {"vae": component("AutoencoderKL", **DECODER)}
    return write(folder, pipeline, **{part: component(name, **config)}, scheduler=component(scheduler), **vae)


@pytest.fixture(scope="module")
def by_class(tmp_path_factory):
    dit = pipeline_of(tmp_path_factory.mktemp("dit"), "DiTPipeline", "DiTTransformer2DModel", DIT)
    unet = pipeline_of(tmp_path_factory.mktemp("unet"), "DDPMPipeline", "UNet2DModel", PIXELS | {"num_class_embeds": 4})
    return {"dit": (dit, 1000), "unet": (unet, 4)}


@pytest.mark.parametrize(("name", "guidance"), [("dit", 1.0), ("dit", 3.0), ("unet", 1.0)])
def test_without_a_label_each_seed_has_the_class_that_is_drawn_from_it(by_class, name, guidance):
    folder, classes = by_class[name]
    ours = model(folder, guidance=guidance)
    x = images(ours.shape, count=len(SEEDS))
    together = ours.denoiser_for(SEEDS)(x, 2.0)
    labels = drawn_classes(SEEDS, classes)
    assert len(set(labels)) > 1
    for place, label in enumerate(labels):
        alone = model(folder, label=label, guidance=guidance).denoiser()(x[place : place + 1], 2.0)
        assert error(together[place : place + 1], alone) < SPLIT * guidance
    # However the batch is split, and whatever the order.
    parts = [ours.denoiser_for(SEEDS[at])(x[at], 2.0) for at in (slice(0, 3), slice(3, 7))]
    assert error(torch.cat(parts), together) < SPLIT * guidance
    assert ours.denoiser_for(SEEDS).rows_per_image == ours.rows_per_image == (2 if guidance > 1 else 1)


def test_a_class_that_is_named_is_every_images(by_class):
    folder, _ = by_class["dit"]
    ours = model(folder, label=7)
    assert ours.denoiser_for(SEEDS) is ours.denoiser()
    assert len({ours.hash, model(folder).hash, model(folder, label=8).hash}) == 3
    with pytest.raises(SpecError, match="label: is another for each image: name one"):
        model(folder).denoiser()


@pytest.fixture(scope="module", params=PIPELINES)
def by_prompt(request, tmp_path_factory):
    """A pipeline, and embeddings of three prompts with one negative one: in a file, and each in one of its own."""
    folder = pipeline_of(tmp_path_factory.mktemp(request.param), *PIPELINES[request.param])
    pooled = request.param != "sd"
    made = torch.Generator().manual_seed(3)
    held = {"prompt_embeds": torch.randn(3, 5, 12, generator=made)}
    if pooled:
        held["pooled_prompt_embeds"] = torch.randn(3, 10, generator=made)
    embeddings(folder / "all.safetensors", pooled, **held)
    for place in range(3):
        own = {key: value[place : place + 1].contiguous() for key, value in held.items()}
        embeddings(folder / f"{place}.safetensors", pooled, **own)
    return folder


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_the_image_of_seed_s_is_of_prompt_s_mod_their_number(by_prompt, guidance):
    ours = model(by_prompt, embeddings=str(by_prompt / "all.safetensors"), guidance=guidance)
    x = images(ours.shape, count=len(SEEDS))
    together = ours.denoiser_for(SEEDS)(x, 2.0)
    alone = [model(by_prompt, embeddings=str(by_prompt / f"{p}.safetensors"), guidance=guidance) for p in range(3)]
    for place, seed in enumerate(SEEDS):
        found = alone[seed % 3].denoiser()(x[place : place + 1], 2.0)
        assert error(together[place : place + 1], found) < SPLIT * guidance
    assert error(alone[0].denoiser()(x, 2.0), alone[1].denoiser()(x, 2.0)) > 1e-3
    with pytest.raises(SpecError, match="embeddings: is another for each image"):
        ours.denoiser()


def test_a_batch_of_other_images_is_a_mistake_of_the_caller(by_class):
    ours = model(by_class["unet"][0])
    with pytest.raises(ValueError, match="7 conditions for 3 images"):
        ours.denoiser_for(SEEDS)(images(ours.shape), 2.0)


def test_no_images_have_a_denoiser_too(by_class):
    """A closed form is placed for no calibration images at all."""
    ours = model(by_class["unet"][0])
    assert ours.denoiser_for(range(2**40, 2**40)).rows_per_image == 1
