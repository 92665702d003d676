"""A file of prompts: what the encoders make of it is what diffusers' pipelines make, over stand-ins of transformers."""

import importlib
import importlib.util
import json
import pickle
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.models.diffusers.prompt_file import Texts, prompts_in
from pipeline.registry import SpecError
from tests.cli.console import done, refused
from tests.diffusers_models import fake_transformers
from tests.diffusers_models.pipelines import (
    DECODER,
    DIT,
    FLUX,
    LATENTS,
    SD3,
    TOLD_SIZES,
    component,
    error,
    images,
    model,
    write,
)

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is not None, reason="the real transformers is installed"
)
PROMPTS = ["a lighthouse at dusk", "Zürich, watercolour", "a prompt of more letters than there are tokens for it here"]
CLIP, PROJECTED, T5 = "CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel"
FLOW = "FlowMatchEulerDiscreteScheduler"
# Network, its configuration, scheduler, encoders with their widths; words of width 12, pooled of width 10.
PIPELINES = {
    "StableDiffusionPipeline": ("UNet2DConditionModel", LATENTS, "DDIMScheduler", [(CLIP, 12, 1)]),
    "StableDiffusionXLPipeline": (
        "UNet2DConditionModel", LATENTS | TOLD_SIZES, "DDIMScheduler", [(CLIP, 5, 1), (PROJECTED, 7, 10)],
    ),
    "StableDiffusion3Pipeline": (
        "SD3Transformer2DModel", SD3, FLOW, [(PROJECTED, 4, 4), (PROJECTED, 5, 6), (T5, 12, 1)],
    ),
    "FluxPipeline": ("FluxTransformer2DModel", FLUX, FLOW, [(CLIP, 10, 1), (T5, 12, 1)]),
}  # fmt: skip
ASKED = [(name, PROMPTS, negative) for name in PIPELINES for negative in (None, "blurry")]


def pipeline_of(folder, name):
    network, config, scheduler, encoders = PIPELINES[name]
    part = "unet" if network.startswith("UNet") else "transformer"
    folder.mkdir()
    parts = {part: component(network, **config), "vae": component("AutoencoderKL", **DECODER)}
    write(folder, name, **parts, scheduler=component(scheduler))
    index = json.loads((folder / "model_index.json").read_text())
    for number, (encoder, width, out) in enumerate(encoders):
        index |= fake_transformers.encoder(folder, number, encoder, width, out, tokens=20)
    index |= {"force_zeros_for_empty_prompt": True} if name == "StableDiffusionXLPipeline" else {}
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "prompts.txt").write_text("\n".join(PROMPTS) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    made = tmp_path_factory.mktemp("prompts")
    for name in PIPELINES:
        pipeline_of(made / name, name)
    return made


@pytest.fixture
def transformers(monkeypatch):
    module = fake_transformers.Module("transformers")
    module.__spec__ = importlib.machinery.ModuleSpec("transformers", None)
    monkeypatch.setitem(sys.modules, "transformers", module)


def texts_of(folder, negative=None):
    index = json.loads((folder / "model_index.json").read_text())
    return Texts.found(folder, index, folder / "prompts.txt", negative)


@pytest.mark.slow
def test_embeddings_are_those_of_diffusers_own_pipelines(root, transformers):
    """In a process of its own: diffusers looks for transformers when it is imported."""
    subprocess.run([sys.executable, fake_transformers.__file__, root, json.dumps(ASKED)], check=True, timeout=200)
    for place, (name, prompts, negative) in enumerate(ASKED):
        expected = load_file(root / f"{place}.safetensors")
        found = texts_of(root / name, negative).embeddings("float32", "cpu")
        assert found.keys() >= expected.keys()
        for key, value in expected.items():
            assert len(value) == len(prompts)
            torch.testing.assert_close(found[key].expand_as(value), value, rtol=1e-5, atol=1e-6, msg=f"{name} {key}")


@pytest.mark.parametrize(("name", "guidance"), [(name, 1.0) for name in PIPELINES] +
                         [(name, 4.0) for name in PIPELINES if name != "FluxPipeline"])  # fmt: skip
def test_prompts_are_their_embeddings(root, tmp_path, transformers, name, guidance):
    folder = root / name
    save_file(texts_of(folder, "blurry").embeddings("float32", "cpu"), tmp_path / "e.safetensors")
    fields = {"guidance": guidance, "size": 8 if name == "FluxPipeline" else None}
    by_file = model(folder, embeddings=str(tmp_path / "e.safetensors"), **fields)
    ours = model(folder, prompts=str(folder / "prompts.txt"), negative_prompt="blurry", **fields)
    assert ours.rows_per_image == by_file.rows_per_image == (2 if guidance > 1 else 1)
    x, seeds = images(ours.shape, count=4), range(5, 9)
    expected = by_file.denoiser_for(seeds)(x, 2.0)
    assert torch.equal(ours.denoiser_for(seeds)(x, 2.0), expected)
    assert error(ours.denoiser_for(range(4))(x, 2.0), expected) > 1e-3
    there = pickle.loads(pickle.dumps(ours))
    assert there.hash == ours.hash != by_file.hash


def test_nothing_is_read_before_it_is_needed(root, transformers, monkeypatch):
    monkeypatch.setattr(fake_transformers.Encoder, "from_pretrained", pytest.fail)
    ours = model(root / "StableDiffusionXLPipeline", prompts=str(root / "StableDiffusionXLPipeline" / "prompts.txt"))
    assert (ours.shape, ours.rows_per_image, len(ours.hash)) == ((4, 8, 8), 1, 64)


def test_prompts_are_read_once(root, transformers, monkeypatch):
    folder, read = root / "StableDiffusionPipeline", []
    forward = fake_transformers.Encoder.forward

    def counted(self, ids, **options):
        read.append(len(ids))
        return forward(self, ids, **options)

    monkeypatch.setattr(fake_transformers.Encoder, "forward", counted)
    monkeypatch.setattr("pipeline.models.diffusers.prompt_file.READ_AT_ONCE", 3)
    ours = model(folder, prompts=str(folder / "prompts.txt"))
    for seeds in (range(2), range(2, 4)):
        ours.denoiser_for(seeds)(images(ours.shape, count=2), 1.0)
    assert read == [3, 1]  # three prompts and the negative one


def test_the_hash_is_of_all_that_decides_what_is_read(root, tmp_path, transformers):
    folder = pipeline_of(tmp_path / "sd", "StableDiffusionPipeline")

    def digest(**fields):
        return model(folder, **{"prompts": str(folder / "prompts.txt")} | fields).hash

    (tmp_path / "other.txt").write_text("a lighthouse", encoding="utf-8")
    hashes = [digest(), digest(negative_prompt=""), digest(prompts=str(tmp_path / "other.txt"))]
    (folder / "tokenizer" / "vocab.json").write_text("{}")
    hashes.append(digest())
    held = load_file(folder / "text_encoder" / "model.safetensors")
    save_file(held | {"own": held["own"] + 1}, folder / "text_encoder" / "model.safetensors")
    hashes.append(digest())
    assert len(set(hashes)) == len(hashes)


def test_blank_lines_are_no_prompts(tmp_path):
    (tmp_path / "p.txt").write_bytes("\ufeff one \r\n\r\n  \n zwei Wörter\x0b\n".encode())
    assert prompts_in(tmp_path / "p.txt") == ("one", "zwei Wörter")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "prompts: cannot be read (No such file or directory), given '{file}'"),
        (b"", "prompts: holds no prompt, given '{file}'; allowed: one a line"),
        (b" \n\n", "prompts: holds no prompt"),
        ("fünf".encode("latin-1"), "prompts: is not UTF-8"),
    ],
)
def test_a_file_that_holds_no_prompts(root, tmp_path, transformers, content, says):
    file = tmp_path / "p.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SpecError) as told:
        model(root / "StableDiffusionPipeline", prompts=str(file))
    assert str(told.value).startswith(says.format(file=file))


def test_without_the_package_a_line_says_what_else(root):
    folder = root / "StableDiffusionPipeline"
    with pytest.raises(SpecError) as told:
        model(folder, prompts=str(folder / "prompts.txt"))
    assert str(told.value).startswith("prompts: need the package transformers, given")
    assert str(told.value).endswith(
        "pip install transformers, or `embeddings` that `sigmasearch embed` wrote where it is installed"
    )


def harm_index(folder, **values):
    file = folder / "model_index.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda f: harm_index(f, text_encoder=[None, None]), "source: has another text_encoder, given [None, None]"),
        (lambda f: harm_index(f, text_encoder=["os", "system"]), "source: has another text_encoder, given ['os', 'sys"),
        (lambda f: harm_index(f, tokenizer=["transformers", "Auto"]), "source: has another tokenizer"),
        (lambda f: (f / "text_encoder" / "model.safetensors").unlink(), "source: lacks model.safetensors"),
        (lambda f: (f / "text_encoder" / "model.safetensors").write_bytes(b"no"), "source: is damaged"),
        (lambda f: (f / "text_encoder" / "model.safetensors").rename(f / "text_encoder" / "model.bin"),
         "source: has pickled weights alone"),
        (lambda f: (f / "tokenizer" / "tokenizer_config.json").unlink(), "source: cannot be loaded"),
        (lambda f: save_file({"table": torch.ones(40, 12)}, f / "text_encoder" / "model.safetensors"),
         "source: lacks weights, given 'own'"),
    ],
)  # fmt: skip
def test_encoders_that_are_not_what_they_should_be(tmp_path, transformers, harm, says):
    folder = pipeline_of(tmp_path / "sd", "StableDiffusionPipeline")
    harm(folder)
    with pytest.raises(SpecError) as told:
        model(folder, prompts=str(folder / "prompts.txt")).denoiser_for(range(2))
    assert str(told.value).startswith(says)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", PIPELINES)
def test_the_command_writes_what_a_card_reads(root, tmp_path, transformers, name):
    folder, out = root / name, tmp_path / "new" / "e.safetensors"
    argv = ("embed", folder, folder / "prompts.txt", "--out", out, "--negative-prompt", "blurry")
    told = json.loads(done(*argv, "--json").out)
    assert (told["prompts"], told["tensors"]["prompt_embeds"][0]) == (3, 3)
    fields = {"guidance": 1.0 if name == "FluxPipeline" else 3.0, "size": 8 if name == "FluxPipeline" else None}
    ours = model(folder, prompts=str(folder / "prompts.txt"), negative_prompt="blurry", **fields)
    x, by_file = images(ours.shape), model(folder, embeddings=str(out), **fields)
    assert torch.equal(by_file.denoiser_for(range(3))(x, 1.0), ours.denoiser_for(range(3))(x, 1.0))
    first = out.read_bytes()
    assert done(*argv).out.startswith(f"{out}: 3 prompts\n  prompt_embeds [3, ")
    assert out.read_bytes() == first


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("nowhere", "p.txt"), "source: there is no such folder"),
        (("sd", "none.txt"), "prompts: cannot be read"),
        (("sd", "p.txt", "--out", "sd"), "--out: is a folder"),
        (("sd", "p.txt", "--out", "p.txt/e.safetensors"), "--out: cannot be written"),
    ],
)
def test_the_command_writes_all_or_nothing(tmp_path, transformers, monkeypatch, argv, says):
    monkeypatch.chdir(tmp_path)
    pipeline_of(tmp_path / "sd", "StableDiffusionPipeline")
    (tmp_path / "p.txt").write_text("one\n")
    assert says in refused(tmp_path, "embed", *argv)


def test_the_command_without_the_package(root, tmp_path):
    folder = root / "StableDiffusionPipeline"
    assert "prompts: need the package transformers" in refused(tmp_path, "embed", folder, folder / "prompts.txt")


def test_what_prompts_do_not_go_with(root, tmp_path, transformers):
    folder = root / "StableDiffusionPipeline"
    prompts = str(folder / "prompts.txt")
    for fields, says in (
        ({"prompts": prompts, "embeddings": prompts}, "prompts: are given twice"),
        ({"negative_prompt": "x"}, "negative_prompt: is out of range, given 'x'; allowed: null without `prompts`"),
        ({"prompts": prompts, "label": 1}, "label: is for a network of classes"),
    ):
        with pytest.raises(SpecError) as told:
            model(folder, **fields)
        assert str(told.value).startswith(says)
    dit = write(tmp_path, "DiTPipeline", transformer=component("DiTTransformer2DModel", **DIT),
                vae=component("AutoencoderKL", **DECODER), scheduler=component("DDIMScheduler"))  # fmt: skip
    with pytest.raises(SpecError, match="prompts: are for a network of prompts"):
        model(dit, prompts=prompts)
