"""Networks and references that are not what a card says: each command refuses them in one line, and writes nothing."""

import json
import shutil

import numpy as np
import PIL.Image
import pytest
import torch
import yaml

from pipeline.metrics.features import Identity
from pipeline.models.edm import EdmDenoiser
from pipeline.networks.checkpoint import Checkpoint, write_checkpoint
from pipeline.yaml_file import read
from tests.cli.console import TINY, done, refused
from tests.networks import persistent_pickle, tiny
from tests.stored_moments import moments, our_file

CARD = {
    "name": "m", "version": 1, "title": "t", "description": "d", "features": "identity", "quantise": True,
    "reference": "pixels.npz", "sigma_min": 0.002, "sigma_max": 80.0, "sigma_source": "s", "published": {},
}  # fmt: skip
MODELS = {
    "edm": {"name": "edm", "path": "network.pkl", "label": 1},
    "guided": {"name": "edm", "path": "network.pkl", "label": 1, "guide": "guide.safetensors", "guidance": 2.0},
    "diffusers": {"name": "diffusers", "source": "ddpm"},
}
PLAN = ("--solver", "heun", "--schedule", "edm", "--set", "schedule.num_steps=2")


def reference(file, side):
    our_file(file, moments(3 * side * side), "identity", Identity().hash, (3, side, side))


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A card of each model, with its files beside it, a plan's card and a study on it; all in order."""
    made = tmp_path_factory.mktemp("good")
    for kind, model in MODELS.items():
        folder = made / kind
        folder.mkdir()
        if kind == "diffusers":
            pytest.importorskip("diffusers", reason="diffusers is not installed; make does it")
            from tests.diffusers_models import pipelines

            config = pipelines.PIXELS | {"in_channels": 3, "out_channels": 3}
            unet, scheduler = pipelines.component("UNet2DModel", **config), pipelines.component("DDPMScheduler")
            pipelines.write(folder / "ddpm", "DDPMPipeline", unet=unet, scheduler=scheduler)
        else:
            pickled = persistent_pickle.dumps(tiny.network("ncsnpp"), dict(tiny.TINY["ncsnpp"]), folder / "ran")
            (folder / "network.pkl").write_bytes(pickled)
            write_checkpoint(tiny.checkpoint("ncsnpp", seed=1), folder / "guide.safetensors")
        reference(folder / "pixels.npz", 8)
        card = folder / "card.yaml"
        card.write_text(yaml.safe_dump(CARD | {"model": model}))
        done("plan", card, *PLAN, "--out", folder / "plan.json")
        study = read(TINY) | {"benchmark": str(card), "images": 40, "shard_images": 20, "published": []}
        (folder / "study.yaml").write_text(yaml.safe_dump(study))
    return made


@pytest.fixture
def folder_of(good, tmp_path):
    """A copy of one, whose plan and study lead to the copy."""

    def copied(kind):
        folder = shutil.copytree(good / kind, tmp_path / "copy")
        for name in ("plan.json", "study.yaml"):
            text = (folder / name).read_text().replace(str(good / kind), str(folder))
            (folder / name).write_text(text)
        return folder

    return copied


def cut(name, keep=0.9):
    return lambda f: (f / name).write_bytes((f / name).read_bytes()[: int((f / name).stat().st_size * keep)])


def gone(name):
    return lambda f: (f / name).unlink()


def foreign(f):
    (f / "network.pkl").write_bytes(b"cos\nsystem\n(X\x09\x00\x00\x00touch ran\x85R.")


def other_arguments(f):
    arguments = tiny.TINY["ncsnpp"] | {"channel_mult": [1, 1]}
    (f / "network.pkl").write_bytes(persistent_pickle.dumps(tiny.network("ncsnpp"), arguments, f / "ran"))


def fewer(f, name="network.pkl"):
    """A pickle of a network that has lost a tensor."""
    made = tiny.network("ncsnpp")
    del made.model.enc["8x8_conv"].bias
    (f / name).write_bytes(persistent_pickle.dumps(made, dict(tiny.TINY["ncsnpp"]), f / "ran"))


def model(**values):
    def change(f):
        card = read(f / "card.yaml")
        (f / "card.yaml").write_text(yaml.safe_dump(card | {"model": card["model"] | values}))

    return change


def card(**values):
    return lambda f: (f / "card.yaml").write_text(yaml.safe_dump(read(f / "card.yaml") | values))


def pictures(f):
    (f / "pictures").mkdir()
    for at in range(3):
        PIL.Image.fromarray(np.full((16, 16, 3), 40 * at, np.uint8)).save(f / "pictures" / f"{at}.png")
    card(reference="pictures/")(f)


def half_a_guide(f):
    held = tiny.checkpoint("ncsnpp")
    write_checkpoint(Checkpoint(held.kind, held.arguments, dict(list(held.tensors.items())[:3])),
                     f / "guide.safetensors")  # fmt: skip


WEIGHTS = "ddpm/unet/diffusion_pytorch_model.safetensors"


def lost(f):
    from safetensors.torch import load_file, save_file

    held = load_file(f / WEIGHTS)
    save_file({key: value for key, value in held.items() if key != "conv_in.bias"}, f / WEIGHTS)


def wider(f):
    file = f / "ddpm" / "unet" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"in_channels": 1, "out_channels": 1}))


HARMS = [
    ("edm", cut("network.pkl"), "model.path: {f}/network.pkl: is not a whole pickle of a network"),
    ("edm", foreign, "model.path: {f}/network.pkl: names something that no network is stored with; nothing of it was "
                     "run, given 'os.system'"),
    ("edm", other_arguments, "model.path: {f}/network.pkl: "),
    ("edm", fewer, "model.path: {f}/network.pkl: the network has a tensor that the checkpoint lacks, given "
                   "'model.enc.8x8_conv.bias'"),
    ("edm", gone("network.pkl"), "model.path: {f}/network.pkl: there is no such file; fetch the checkpoint and put it"),
    ("edm", model(label=5), "model.label: is out of range, given 5; allowed: 0 to 4"),
    ("edm", model(sha256="0" * 64), "model.sha256: is another file than the card names"),
    ("edm", lambda f: reference(f / "pixels.npz", 16), "reference: is of images of another shape, given [3, 16, 16]"),
    ("edm", pictures, "reference: holds images of another shape, given [3, 16, 16]; allowed: [3, 8, 8]"),
    ("edm", cut("pixels.npz"), "reference: is no .npz that can be read"),
    ("guided", gone("guide.safetensors"), "model.guide: {f}/guide.safetensors: there is no such file; fetch"),
    ("guided", cut("guide.safetensors"), "model.guide: {f}/guide.safetensors: is not the file that guide.json"),
    ("guided", half_a_guide, "model.guide: {f}/guide.safetensors: the network has a tensor that the checkpoint lacks"),
    ("guided", model(guidance=0.0), "model.guidance: is out of range"),
    ("diffusers", cut(WEIGHTS), "model.source: is damaged, or no file of safetensors"),
    ("diffusers", lambda f: (f / WEIGHTS).rename(f / WEIGHTS.replace("safetensors", "bin")),
     "model.source: has pickled weights alone, which are not read"),
    ("diffusers", gone(WEIGHTS), "model.source: lacks diffusion_pytorch_model.safetensors"),
    ("diffusers", lost, "model.source: 1 missing keys in its weights, given 'conv_in.bias'"),
    ("diffusers", wider, "model.source: conv_in.weight has another shape than the network, given [16, 3, 3, 3]"),
    ("diffusers", model(label=5), "model.label: is for a network of classes"),
    ("diffusers", model(source="nobody/nothing"), "model.source: is no folder here, nor whole in the hub's cache"),
    ("diffusers", model(source="./nothing"), "model.source: there is no such folder"),
    ("diffusers", model(sha256="0" * 64), "model.sha256: are other weights than the card names"),
    ("diffusers", lambda f: reference(f / "pixels.npz", 16), "reference: is of images of another shape"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "harm", "says"), HARMS)
def test_what_is_wrong_with_a_model_is_one_line_of_each_command(folder_of, monkeypatch, kind, harm, says):
    if kind == "diffusers":  # its package has read the environment by now
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder = folder_of(kind)
    harm(folder)
    line = f"{folder / 'card.yaml'}: {says.format(f=folder)}"
    for argv in (
        ("plan", folder / "card.yaml", *PLAN, "--out", folder / "other.json"),
        ("evaluate", folder / "plan.json", "--images", 8),
        ("search", folder / "study.yaml", "--workers", 0, "--run-dir", folder / "run"),
    ):
        assert line in refused(folder, *argv), argv[0]


@pytest.mark.parametrize("harm", [cut("network.pkl"), foreign, other_arguments, fewer, gone("network.pkl")])
def test_nothing_is_converted_of_a_checkpoint_that_is_wrong(folder_of, harm):
    folder = folder_of("edm")
    harm(folder)
    assert f"error: {folder / 'network.pkl'}: " in refused(folder, "convert", folder / "network.pkl")


def test_float16_that_overflows_is_a_mistake_of_the_card(folder_of, monkeypatch):
    """On a CUDA device; here the network is run in float16 by force."""
    monkeypatch.setattr(EdmDenoiser, "__call__", lambda self, x, sigma: self.denoise(x, sigma, torch.float16))
    folder = folder_of("edm")
    made = tiny.network("ncsnpp")
    made.model.dec["8x8_aux_conv"].bias.fill_(1e5)
    (folder / "network.pkl").write_bytes(persistent_pickle.dumps(made, dict(tiny.TINY["ncsnpp"]), folder / "ran"))
    learned = ("--solver", "euler", "--schedule", "sdm", "--set", "schedule.num_steps=3")
    told = refused(folder, "plan", folder / "card.yaml", *learned, "--out", folder / "other.json")
    assert "fp16: float16 overflowed at sigma 80, given True; allowed: false" in told
    done("plan", folder / "card.yaml", *PLAN, "--out", folder / "plan.json")
    told = refused(folder, "evaluate", folder / "plan.json", "--images", 8)
    assert "fp16: float16 overflowed at sigma 80, given True; allowed: false" in told
