"""A pipeline as a model among the others: what names it, what travels, and what it costs."""

import hashlib
import pickle
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import torch

from pipeline.benchmarks import Benchmark, Card, from_card
from pipeline.metrics.features import FEATURES, quantise
from pipeline.models import MODELS, Model
from pipeline.portrait import PICTURES, Sitting
from pipeline.registry import SpecError, to_spec
from pipeline.trial import TrialSpec, draw, evaluate, prepare
from tests.diffusers_models.pipelines import (
    DECODER,
    DIT,
    PIXELS,
    SD3,
    component,
    embeddings,
    error,
    images,
    model,
    write,
)
from tests.diffusers_models.test_mistakes import change

CARD = Card(
    name="dit", version=1, title="t", description="d", model={}, features="identity", quantise=False, reference="data",
    sigma_min=0.002, sigma_max=80.0, sigma_source="s", published={},
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    network, vae = component("DiTTransformer2DModel", **DIT), component("AutoencoderKL", **DECODER)
    scheduler = component("DDIMScheduler", prediction_type="v_prediction")
    made = tmp_path_factory.mktemp("dit")
    return write(made, "DiTPipeline", transformer=network, vae=vae, scheduler=scheduler)


@pytest.fixture
def benchmark_of(folder):
    def make(**fields):
        return Benchmark(CARD, model(folder, **fields), FEATURES.build({"name": "identity"}))

    return make


def test_it_is_a_model_and_its_card_builds_it(folder):
    ours = model(folder, label=5, guidance=2.0)
    assert isinstance(ours, Model)
    assert MODELS.build(to_spec(ours)) == ours
    assert MODELS.get("diffusers") is type(ours)
    with pytest.raises(NotImplementedError):
        ours.draw(1, 0)


def test_it_travels_by_name(folder):
    ours = model(folder, label=5)
    expected, digest = ours.denoiser()(images(ours.shape), 2.0), ours.hash
    text = pickle.dumps(ours)
    assert len(text) < 400
    there = pickle.loads(text)
    assert (there, there.hash) == (ours, digest)
    assert torch.equal(there.denoiser()(images(ours.shape), 2.0), expected)


def test_it_is_loaded_once_a_device(folder):
    ours = model(folder, label=5)
    assert ours.denoiser() is ours.denoiser("cpu")
    assert model(folder, label=5).denoiser() is not ours.denoiser()


def test_the_hash_is_of_all_that_decides_the_images(folder, tmp_path):
    base = model(folder, label=5).hash
    assert model(folder, label=5).hash == base
    hashes = [base]
    for fields in ({"label": 6}, {"label": 5, "guidance": 2.0}, {"label": 5, "dtype": "bfloat16"}):
        hashes.append(model(folder, **fields).hash)
    for part, config in (
        ("transformer/config.json", {"dropout": 0.5}),
        ("scheduler/scheduler_config.json", {"beta_end": 0.03}),
        ("scheduler/scheduler_config.json", {"prediction_type": "epsilon"}),
        ("scheduler/scheduler_config.json", {"_class_name": "FlowMatchEulerDiscreteScheduler"}),
        ("vae/config.json", {"scaling_factor": 0.5}),
    ):
        copy = shutil.copytree(folder, tmp_path / str(len(hashes)))
        change(copy / part, **config)
        hashes.append(model(copy, label=5).hash)
    for part in ("transformer", "vae"):
        copy = shutil.copytree(folder, tmp_path / str(len(hashes)))
        other = (component("DiTTransformer2DModel", 1, **DIT), component("AutoencoderKL", 1, **DECODER))
        other[part == "vae"].save_pretrained(copy / part)
        hashes.append(model(copy, label=5).hash)
    assert len(set(hashes)) == len(hashes)
    for part, config in (
        ("transformer/config.json", {"_diffusers_version": "9.9"}),
        ("scheduler/scheduler_config.json", {"timestep_spacing": "trailing", "clip_sample_range": 3.0}),
    ):
        copy = shutil.copytree(folder, tmp_path / f"same{part[0]}")
        change(copy / part, **config)
        assert model(copy, label=5).hash == base, "what is the sampler's, or says who wrote it"


def test_the_hash_is_of_what_the_embeddings_are_not_of_their_place(tmp_path):
    unet = component("SD3Transformer2DModel", **SD3)
    vae, scheduler = component("AutoencoderKL", **DECODER), component("FlowMatchEulerDiscreteScheduler")
    write(tmp_path, "StableDiffusion3Pipeline", transformer=unet, vae=vae, scheduler=scheduler)
    for name, replaced in (("a", {}), ("b", {}), ("c", {"prompt_embeds": torch.ones(1, 5, 12)})):
        embeddings(tmp_path / name, pooled=True, **replaced)
    first, same, other = (model(tmp_path, embeddings=str(tmp_path / name)).hash for name in "abc")
    assert first == same != other


@pytest.mark.parametrize(("guidance", "rows"), [(1.0, 1), (4.0, 2)])
def test_the_rows_of_guidance_are_in_what_a_trial_costs(benchmark_of, guidance, rows):
    benchmark = benchmark_of(label=5, guidance=guidance)
    spec = TrialSpec("dit", {"name": "heun"}, {"name": "edm", "num_steps": 4}, images=8, shard_images=4)
    prepared = prepare(spec, benchmark)
    assert (len(prepared.plan), prepared.setup_rows) == (7, 0)
    shards = evaluate(prepared.plan, benchmark, range(8), shard_images=4)
    assert [shard.rows for shard in shards] == [rows * 7 * 4] * 2
    learned = replace(spec, solver={"name": "switch", "tau_k": 0.1, "calibration_images": 4})
    prepared = prepare(learned, benchmark)
    assert prepared.setup_rows == rows * prepare(learned, benchmark_of(label=5)).setup_rows > 0
    assert prepared.setup_nfe == prepared.setup_rows / 4


def test_a_portrait_shows_what_latents_are_decoded_to(folder):
    pixels = {"quantise": True, "model": {}}
    shown = Benchmark(CARD.model_copy(update=pixels), model(folder, label=5), FEATURES.build({"name": "identity"}))
    sitting, seeds = Sitting(), range(20)
    plan = prepare(TrialSpec("dit", {"name": "euler"}, {"name": "edm", "num_steps": 3}), shown).plan
    evaluate(plan, shown, seeds, sitting=sitting)
    latents = draw(plan, shown.model.denoiser(), shown.shape, seeds)[:PICTURES]
    found = sitting.portrait.pixels
    assert found.shape == (PICTURES, 8, 8, 3)
    assert np.array_equal(found, quantise(shown.model.decode(latents)).movedim(1, -1).numpy())
    assert torch.equal(shown.images(latents), quantise(shown.model.decode(latents)))


def test_the_reference_of_a_network_of_latents_is_of_images(folder, tmp_path):
    for at in range(3):
        PIL.Image.new("RGB", (8, 8), (80 * at, 10, 200)).save(tmp_path / f"{at}.png")
    content = CARD.model_dump() | {"quantise": True, "reference": str(tmp_path)}
    content["model"] = {"name": "diffusers", "source": str(folder), "label": 5}
    held = from_card(content)
    assert (held.shape, held.model.image_shape, held.reference.mean.shape) == ((4, 4, 4), (3, 8, 8), (192,))


@pytest.mark.parametrize("label", [5, None])
def test_an_image_is_of_its_seed_alone(benchmark_of, label):
    benchmark = benchmark_of(label=label, guidance=2.0)
    spec = TrialSpec("dit", {"name": "unipc"}, {"name": "edm", "num_steps": 5}, images=8, shard_images=4)
    plan = prepare(spec, benchmark).plan
    whole, *halves = (
        draw(plan, benchmark.denoiser(seeds), benchmark.shape, seeds) for seeds in (range(8), range(5), range(5, 8))
    )
    assert error(torch.cat(halves), whole) < 1e-4


def test_without_the_package_it_says_which(folder, monkeypatch):
    monkeypatch.setattr("pipeline.models.diffusers.importlib.util.find_spec", lambda name: None)
    with pytest.raises(SpecError, match="needs the package diffusers"):
        model(folder, label=5)


def test_weights_may_be_pinned(folder, tmp_path):
    """By the one file's hash, or by that of what `sha256sum` prints of several."""
    unet, scheduler = component("UNet2DModel", **PIXELS), component("DDPMScheduler")
    one = write(tmp_path, "DDPMPipeline", unet=unet, scheduler=scheduler)
    digest = hashlib.sha256((one / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()).hexdigest()
    assert model(one, sha256=digest.upper()).hash == model(one).hash
    parts = [f"{part}/diffusion_pytorch_model.safetensors" for part in ("transformer", "vae")]
    printed = subprocess.run(["sha256sum", *parts], cwd=folder, capture_output=True, check=True).stdout
    several = hashlib.sha256(printed).hexdigest()
    assert model(folder, label=5, sha256=several).hash == model(folder, label=5).hash
    with pytest.raises(SpecError, match=f"sha256: are other weights than the card names, given '{several}'"):
        model(folder, label=5, sha256=digest)
