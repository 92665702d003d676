"""Stands for the package transformers: tokenizers and text encoders with its surface and almost nothing inside.

Run as a script, it has diffusers' own pipelines read prompts with them: FOLDER of the pipelines, JSON of the asked.
"""

import importlib
import importlib.abc
import importlib.machinery
import json
import sys
import types
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

PIPELINES = {
    "StableDiffusionPipeline": "stable_diffusion.pipeline_stable_diffusion",
    "StableDiffusionXLPipeline": "stable_diffusion_xl.pipeline_stable_diffusion_xl",
    "StableDiffusion3Pipeline": "stable_diffusion_3.pipeline_stable_diffusion_3",
    "FluxPipeline": "flux.pipeline_flux",
}
LETTERS = 40


class Tokenizer:
    """A letter is a token. CLIP's has its own length, which is written in its folder."""

    @classmethod
    def from_pretrained(cls, folder, *, local_files_only):
        assert local_files_only
        made = cls()
        made.model_max_length = json.loads((Path(folder) / "tokenizer_config.json").read_text())["model_max_length"]
        return made

    def __call__(self, texts, padding, max_length=None, truncation=False, return_tensors="pt", **options):
        rows = [[1 + ord(letter) % (LETTERS - 1) for letter in text] for text in texts]
        length = max_length if padding == "max_length" else max(map(len, rows))
        ids = torch.tensor([(row[:length] if truncation else row) + [0] * (length - len(row)) for row in rows])
        return types.SimpleNamespace(input_ids=ids)

    added_tokens_encoder = ()

    def tokenize(self, text):
        return list(text)

    def batch_decode(self, ids):
        return [str(row) for row in ids.tolist()]


class Answer:
    """By name, and by place as transformers orders it."""

    def __init__(self, **values):
        self.__dict__.update(values)
        self.places = list(values.values())

    def __getitem__(self, place):
        return self.places[place]


class Encoder(torch.nn.Module):
    """Three layers, the last of which tells the order of the words; every one is decided by the weights in its file."""

    def __init__(self, held):
        super().__init__()
        self.weights = torch.nn.ParameterDict({name: torch.nn.Parameter(value) for name, value in held.items()})
        self.config = types.SimpleNamespace()

    @classmethod
    def from_pretrained(cls, folder, *, use_safetensors, local_files_only, output_loading_info=False):
        assert use_safetensors
        assert local_files_only
        held = load_file(Path(folder) / "model.safetensors")
        made = cls(held)
        missing = [name for name in ("table", "own", "projection") if name not in held]
        return (made, {"missing_keys": missing}) if output_loading_info else made

    @property
    def dtype(self):
        return self.weights["table"].dtype

    def forward(self, ids, attention_mask=None, output_hidden_states=False):
        first = self.weights["table"][ids]
        second = first @ self.weights["own"]
        last = torch.tanh(second + second.cumsum(1) / 10)
        return self.answer(last, (first, second, last) if output_hidden_states else None)


class CLIPTextModel(Encoder):
    def answer(self, last, hidden):
        return Answer(last_hidden_state=last, pooler_output=last[:, -1] * 2, hidden_states=hidden)


class CLIPTextModelWithProjection(Encoder):
    def answer(self, last, hidden):
        pooled = last[:, -1] @ self.weights["projection"]
        return Answer(text_embeds=pooled, last_hidden_state=last, hidden_states=hidden)


class T5EncoderModel(Encoder):
    def answer(self, last, hidden):
        assert hidden is None
        return Answer(last_hidden_state=last)


NAMES = dict.fromkeys(("CLIPTokenizer", "CLIPTokenizerFast", "T5Tokenizer", "T5TokenizerFast"), Tokenizer)
NAMES |= {cls.__name__: cls for cls in (CLIPTextModel, CLIPTextModelWithProjection, T5EncoderModel)}


class Module(types.ModuleType):
    """What diffusers imports beside these is never called."""

    __path__ = ()
    __version__ = "4.57.0"

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        setattr(self, name, NAMES.get(name) or type(name, (), {}))
        return getattr(self, name)


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds transformers, and tokenizers that it is made with, where neither is installed."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in ("transformers", "tokenizers"):
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        return Module(spec.name)

    def exec_module(self, module):
        pass


def encoder(folder, number, name, width, out, tokens):
    """One encoder with random weights and its tokenizer; what model_index.json says of them."""
    made = torch.Generator().manual_seed(number)
    last = "" if number == 0 else f"_{number + 1}"
    shapes = {"table": (LETTERS, width), "own": (width, width), "projection": (width, out)}
    for part in ("text_encoder", "tokenizer"):
        (folder / f"{part}{last}").mkdir()
    (folder / f"text_encoder{last}" / "config.json").write_text("{}")
    (folder / f"tokenizer{last}" / "tokenizer_config.json").write_text(json.dumps({"model_max_length": tokens}))
    save_file({key: torch.randn(shape, generator=made) for key, shape in shapes.items()},
              folder / f"text_encoder{last}" / "model.safetensors")  # fmt: skip
    tokenizer = "T5TokenizerFast" if name.startswith("T5") else "CLIPTokenizer"
    return {f"text_encoder{last}": ["transformers", name], f"tokenizer{last}": ["transformers", tokenizer]}


def read_by_diffusers(folder, prompts, negative):
    """What the pipeline's own `encode_prompt` gives, by diffusers' names."""
    index = json.loads((folder / "model_index.json").read_text())
    name = index["_class_name"]
    cls = getattr(importlib.import_module(f"diffusers.pipelines.{PIPELINES[name]}"), name)
    pipe = object.__new__(cls)
    parts = {
        part: NAMES[given[1]].from_pretrained(
            folder / part, local_files_only=True, **({"use_safetensors": True} if part.startswith("text") else {})
        )
        for part, given in index.items()
        if part.startswith(("text_encoder", "tokenizer"))
    }
    parts["tokenizer_max_length"] = parts["tokenizer"].model_max_length
    zeros = index.get("force_zeros_for_empty_prompt")
    pipe.__dict__.update(parts, _internal_dict=types.SimpleNamespace(force_zeros_for_empty_prompt=zeros))
    prompts = list(prompts)
    others = None if negative is None else [negative] * len(prompts)
    with torch.no_grad():
        if name == "FluxPipeline":
            made = pipe.encode_prompt(prompts, prompts, device="cpu")[:2]
            return dict(zip(("prompt_embeds", "pooled_prompt_embeds"), made, strict=True))
        if name == "StableDiffusionPipeline":
            made = pipe.encode_prompt(prompts, "cpu", 1, True, others)
        elif name == "StableDiffusionXLPipeline":
            made = pipe.encode_prompt(prompts, None, "cpu", 1, True, others)
        else:
            made = pipe.encode_prompt(prompts, None, None, "cpu", 1, True, others)
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    return dict(zip(names, made, strict=False))


def main(root, asked):
    importlib.import_module("diffusers")
    sys.meta_path.insert(0, Finder())
    checks = importlib.import_module("diffusers.utils.import_utils")
    checks._transformers_available, checks._transformers_version = True, Module.__version__
    for place, (name, prompts, negative) in enumerate(json.loads(asked)):
        made = read_by_diffusers(Path(root) / name, prompts, negative)
        save_file({key: value.clone().contiguous() for key, value in made.items()}, Path(root) / f"{place}.safetensors")


if __name__ == "__main__":
    main(*sys.argv[1:])
