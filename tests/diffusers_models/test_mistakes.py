"""What is wrong with a pipeline, or with what is asked of it, is told in one line; nothing in it is run."""

import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline import benchmarks
from pipeline.registry import SpecError
from tests.diffusers_models.pipelines import (
    DECODER,
    FLUX,
    LATENTS,
    PIXELS,
    SD3,
    TOLD_SIZES,
    component,
    embeddings,
    images,
    model,
    write,
)

WEIGHTS = "diffusion_pytorch_model"


@pytest.fixture
def saved(tmp_path):
    return write(
        tmp_path / "ddpm", "DDPMPipeline", unet=component("UNet2DModel", **PIXELS), scheduler=component("DDPMScheduler")
    )


def told(folder, **fields):
    """The line, at the latest when a denoiser is asked for."""
    with pytest.raises(SpecError) as raised:
        model(folder, **fields).denoiser()
    assert "\n" not in str(raised.value)
    return str(raised.value)


def change(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


FILES = [
    ("model_index.json", {"_class_name": "StableCascadePipeline"}, "source: is of a kind that is not understood"),
    ("model_index.json", {"_class_name": ["DDPMPipeline"]}, "source: is of a kind that is not understood"),
    ("model_index.json", {"unet": ["transformers", "UNet2DModel"]}, "source: has another unet"),
    ("model_index.json", {"unet": ["diffusers", "UNet1DModel"]}, "source: has another unet"),
    ("scheduler/scheduler_config.json", {"_class_name": "LCMScheduler"}, "scheduler._class_name: is not understood"),
    ("scheduler/scheduler_config.json", {"timestep_type": "continuous"}, "scheduler.timestep_type: is not understood"),
    ("scheduler/scheduler_config.json", {"_class_name": "os.system"}, "scheduler._class_name: is not understood"),
    ("scheduler/scheduler_config.json", {"prediction_type": "x"}, "scheduler.prediction_type: is not understood"),
    ("scheduler/scheduler_config.json", {"beta_schedule": "x"}, "scheduler.beta_schedule: gives no noise levels"),
    ("scheduler/scheduler_config.json", {"beta_end": "x"}, "scheduler.beta_schedule: gives no noise levels"),
    ("scheduler/scheduler_config.json", {"trained_betas": [0.1, -0.2, 0.3]}, "noise levels that do not increase"),
    ("scheduler/scheduler_config.json", {"trained_betas": [2.0, 2.0]}, "noise levels that do not increase"),
    ("scheduler/scheduler_config.json", {"num_train_timesteps": 10**9}, "scheduler.num_train_timesteps: is out of"),
    ("scheduler/scheduler_config.json", {"num_train_timesteps": "9"}, "scheduler.num_train_timesteps: is out of"),
    ("scheduler/scheduler_config.json", {"_class_name": "ScoreSdeVeScheduler"}, "does not go with its noise levels"),
    ("unet/config.json", {"time_embedding_type": "fourier"}, "does not go with its noise levels"),
    ("unet/config.json", {"time_embedding_type": "learned"}, "unet.time_embedding_type: is not understood"),
    ("unet/config.json", {"class_embed_type": "timestep"}, "unet.class_embed_type: is not understood"),
    ("unet/config.json", {"sample_size": None}, "size: is not said by the network"),
    ("unet/config.json", {"sample_size": [8, 16]}, "unet.sample_size: is no size"),
    ("unet/config.json", {"in_channels": -1}, "unet.in_channels: is no size"),
    ("unet/config.json", {"out_channels": 3}, "unet.out_channels: is not of this form"),
    ("unet/config.json", {"quantization_config": {"quant_method": "gguf"}}, "quantization_config: is not understood"),
    ("unet/config.json", {"down_block_types": 7}, "cannot be loaded"),
    ("unet/config.json", {"block_out_channels": [32, 32]}, "source: 2 unexpected keys in its weights"),
    (
        "unet/config.json",
        {"in_channels": 3, "out_channels": 3},
        "has another shape than the network, given [16, 1, 3, 3]",
    ),
    ("unet/config.json", {"act_fn": "os.system"}, "cannot be loaded"),
]


@pytest.mark.parametrize(("file", "values", "says"), FILES)
def test_a_configuration_that_is_not_understood(saved, file, values, says):
    change(saved / file, **values)
    assert says in told(saved)


@pytest.mark.parametrize("file", ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"])
@pytest.mark.parametrize(
    ("text", "says"), [(None, "lacks"), ("{", "is not JSON"), ("[" * 10**5, "is not JSON"), ("[]", "is not a mapping")]
)
def test_a_file_that_is_no_configuration(saved, file, text, says):
    (saved / file).unlink()
    if text is not None:
        (saved / file).write_text(text)
    assert says in told(saved)


class Evil:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return open, (str(self.file), "w")


def test_pickled_weights_are_refused_and_not_read(saved, tmp_path):
    (saved / "unet" / f"{WEIGHTS}.safetensors").unlink()
    (saved / "unet" / f"{WEIGHTS}.bin").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    assert "has pickled weights alone, which are not read" in told(saved)
    assert not (tmp_path / "ran").exists()
    (saved / "unet" / f"{WEIGHTS}.safetensors").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    assert "is damaged, or no file of safetensors" in told(saved)
    assert not (tmp_path / "ran").exists()


def test_damaged_weights(saved):
    file = saved / "unet" / f"{WEIGHTS}.safetensors"
    whole = file.read_bytes()
    for text in (whole[: len(whole) // 2], whole[:40], b""):
        file.write_bytes(text)
        with pytest.raises(SpecError, match="is damaged"):
            model(saved)  # seen before anything is loaded
    file.unlink()
    assert f"lacks {WEIGHTS}.safetensors" in told(saved)


def test_weights_that_are_not_the_networks(saved):
    file = saved / "unet" / f"{WEIGHTS}.safetensors"
    held = load_file(file)
    save_file({key: value for key, value in held.items() if key != "conv_in.bias"}, file)
    assert "1 missing keys in its weights, given 'conv_in.bias'" in told(saved)
    save_file(held | {"conv_in.more": torch.zeros(1)}, file)
    assert "1 unexpected keys in its weights, given 'conv_in.more'" in told(saved)
    save_file(held | {"conv_in.bias": torch.zeros(7)}, file)
    assert "source: conv_in.bias has another shape than the network, given [7]; allowed: [16]" in told(saved)


@pytest.mark.parametrize("name", ["../stolen.safetensors", "/etc/passwd", "there/x.safetensors"])
def test_an_index_names_files_beside_it_alone(saved, name):
    (saved / "unet" / f"{WEIGHTS}.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"conv_in.bias": name}})
    )
    assert "names no files beside it" in told(saved)


def test_weights_in_several_files(saved):
    whole = model(saved)
    expected, digest = whole.denoiser()(images((1, 8, 8)), 1.0), whole.hash
    network = whole.denoiser().network
    for file in (saved / "unet").iterdir():
        file.unlink()
    network.save_pretrained(saved / "unet", max_shard_size="50KB")
    assert len(list((saved / "unet").glob("*.safetensors"))) > 1
    assert torch.equal(model(saved).denoiser()(images((1, 8, 8)), 1.0), expected)
    assert model(saved).hash != digest, "of the bytes"
    next((saved / "unet").glob(f"{WEIGHTS}-00001-*")).unlink()
    assert "lacks" in told(saved)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"source": "/nowhere/at/all"}, "source: there is no such folder"),
        ({"source": ""}, "source: lacks model_index.json"),
        ({"label": 3}, "label: is for a network of classes"),
        ({"guidance": 2.0}, "guidance: is for a network that was trained for it"),
        ({"guidance": 0.5}, "guidance: is out of range"),
        ({"guidance": float("nan")}, "guidance: is out of range"),
        ({"size": 0}, "size: is out of range"),
        ({"size": 9}, "size: does not fit the network"),
    ],
)
def test_what_an_unconditional_network_cannot(saved, tmp_path, monkeypatch, fields, says):
    monkeypatch.chdir(tmp_path)
    asked = {"source": saved} | fields
    assert says in told(asked.pop("source"), **asked)


def test_a_cards_source_is_a_folder_beside_it_or_an_id(saved, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    held = {"name": "m", "version": 1, "title": "t", "description": "d", "features": "identity", "quantise": False}
    held |= {"reference": "exact", "published": {}, "sigma_min": 0.1, "sigma_max": 9.0, "sigma_source": "s"}
    for source in ("ddpm", "./ddpm", str(tmp_path / "ddpm")):
        with pytest.raises(SpecError, match="the model has no exact moments"):  # it was found and built
            benchmarks.from_card(held | {"model": {"name": "diffusers", "source": source}}, tmp_path)
    for source in ("./none", "nobody/none"):
        with pytest.raises(SpecError) as raised:
            benchmarks.from_card(held | {"model": {"name": "diffusers", "source": source}}, tmp_path)
        assert raised.value.path == "model.source"
        assert (str(tmp_path) in str(raised.value)) == (source == "./none")


@pytest.mark.parametrize(
    ("label", "says"),
    [(None, "label: is another for each image: name one"), (-1, "label: is no class"), (4, "label: is no class")],
)
def test_a_label_is_one_of_the_classes(tmp_path, label, says):
    unet = component("UNet2DModel", **PIXELS | {"num_class_embeds": 4})
    write(tmp_path, "DDPMPipeline", unet=unet, scheduler=component("DDPMScheduler"))
    assert says in told(tmp_path, label=label)


@pytest.fixture(scope="module")
def by_prompt(tmp_path_factory):
    folder = tmp_path_factory.mktemp("xl")
    network, vae = component("UNet2DConditionModel", **LATENTS, **TOLD_SIZES), component("AutoencoderKL", **DECODER)
    write(folder, "StableDiffusionXLPipeline", unet=network, vae=vae, scheduler=component("DDIMScheduler"))
    embeddings(folder / "good.safetensors", pooled=True)
    return folder


@pytest.mark.parametrize(
    ("replaced", "says"),
    [
        ({"prompt_embeds": torch.zeros(1, 5, 11)}, "prompt_embeds has the wrong shape"),
        ({"prompt_embeds": torch.zeros(5, 12)}, "prompt_embeds has the wrong shape"),
        ({"prompt_embeds": torch.zeros(0, 5, 12)}, "prompt_embeds has the wrong shape"),
        (
            {"prompt_embeds": torch.zeros(3, 5, 12), "pooled_prompt_embeds": torch.zeros(2, 10)},
            "embeddings: are not of one number of prompts, given [2, 3]",
        ),
        ({"prompt_embeds": torch.zeros(1, 5, 12, dtype=torch.int64)}, "prompt_embeds has the wrong shape"),
        ({"negative_prompt_embeds": torch.zeros(1, 7, 12)}, "are not as long as the negative ones"),
        ({"negative_pooled_prompt_embeds": torch.zeros(1, 11)}, "negative_pooled_prompt_embeds has the wrong shape"),
    ],
)
def test_embeddings_of_another_network(by_prompt, tmp_path, replaced, says):
    embeddings(tmp_path / "p.safetensors", pooled=True, **replaced)
    assert says in told(by_prompt, embeddings=str(tmp_path / "p.safetensors"), guidance=2.0)


def test_embeddings_that_are_not_there(by_prompt, tmp_path):
    assert "embeddings: lacks prompt_embeds" in told(by_prompt)
    assert "embeddings: lacks p.safetensors" in told(by_prompt, embeddings=str(tmp_path / "p.safetensors"))
    (tmp_path / "p.safetensors").write_text("a cat")
    assert "embeddings: is damaged" in told(by_prompt, embeddings=str(tmp_path / "p.safetensors"))
    held = embeddings(tmp_path / "p.safetensors", pooled=True)
    save_file({"prompt_embeds": held["prompt_embeds"], "pooled_prompt_embeds": held["pooled_prompt_embeds"]},
              tmp_path / "p.safetensors")  # fmt: skip
    model(by_prompt, embeddings=str(tmp_path / "p.safetensors"))
    assert "lacks negative_prompt_embeds" in told(by_prompt, embeddings=str(tmp_path / "p.safetensors"), guidance=2.0)


def test_what_networks_of_prompts_cannot(by_prompt, tmp_path):
    held = {"embeddings": str(by_prompt / "good.safetensors")}
    assert "label: is for a network of classes" in told(by_prompt, label=1, **held)
    change(by_prompt / "vae" / "config.json", scaling_factor="x")
    assert "vae: has no right scaling of latents" in told(by_prompt, **held)
    change(by_prompt / "vae" / "config.json", scaling_factor=0.2, latents_mean=[1.0, 2.0], latents_std=[1.0, 1.0])
    assert "vae: has no right scaling of latents" in told(by_prompt, **held)
    change(by_prompt / "vae" / "config.json", latents_mean=None)
    change(by_prompt / "unet" / "config.json", time_cond_proj_dim=256)
    assert "unet.time_cond_proj_dim: is not understood" in told(by_prompt, **held)
    change(by_prompt / "unet" / "config.json", time_cond_proj_dim=None)
    change(by_prompt / "scheduler" / "scheduler_config.json", _class_name="ScoreSdeVeScheduler")
    assert "does not go with its noise levels" in told(by_prompt, **held)
    change(by_prompt / "scheduler" / "scheduler_config.json", _class_name="DDIMScheduler")
    change(by_prompt / "model_index.json", _class_name="StableDiffusionPipeline")
    assert "unet.addition_embed_type: is not understood, given 'text_time'; allowed: null" in told(by_prompt, **held)
    flow = {"vae": component("AutoencoderKL", **DECODER), "scheduler": component("FlowMatchEulerDiscreteScheduler")}
    write(tmp_path, "FluxPipeline", transformer=component("FluxTransformer2DModel", **FLUX), **flow)
    assert "size: is not said by the network" in told(tmp_path, **held)
    assert "size: is not said by the network" in told(tmp_path, size=7, **held)
    assert "guidance: is for a network" in told(tmp_path, size=8, guidance=3.0, **held)
    write(tmp_path, "StableDiffusion3Pipeline", transformer=component("SD3Transformer2DModel", **SD3), **flow)
    assert "size: does not fit the network" in told(tmp_path, size=18, **held)
    assert "size: does not fit the network" in told(tmp_path, size=7, **held)
    change(tmp_path / "scheduler" / "scheduler_config.json", invert_sigmas=True)
    assert "scheduler.invert_sigmas: is not understood" in told(tmp_path, **held)


def test_a_card_says_where_in_it(saved):
    card = {
        "name": "mine", "version": 1, "title": "t", "description": "d", "features": "identity", "quantise": False,
        "model": {"name": "diffusers", "source": str(saved), "label": 3}, "reference": "data", "sigma_min": 0.01,
        "sigma_max": 10.0, "sigma_source": "s", "published": {},
    }  # fmt: skip
    with pytest.raises(SpecError, match=r"model\.label: is for a network of classes"):
        benchmarks.from_card(card)
