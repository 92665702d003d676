"""A file of prompts, and what a pipeline's own text encoders make of them, by the package transformers.

What each pipeline takes of its encoders is diffusers' own `encode_prompt`: Rombach et al., 2022, arXiv 2112.10752;
Podell et al., 2023, arXiv 2307.01952; Esser et al., 2024, arXiv 2403.03206; and Flux, which was published as code.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.models.diffusers import folder
from pipeline.registry import SpecError

READ_AT_ONCE = 16
LONGEST_FILE = 2**26
CLIP, PROJECTED, T5 = "CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel"
TOKENIZERS: dict[str, tuple[str, ...]] = {
    CLIP: ("CLIPTokenizer", "CLIPTokenizerFast"),
    PROJECTED: ("CLIPTokenizer", "CLIPTokenizerFast"),
    T5: ("T5Tokenizer", "T5TokenizerFast"),
}
# The encoders of each pipeline, in the order of their folders: text_encoder, text_encoder_2, text_encoder_3.
ENCODERS: dict[str, tuple[str, ...]] = {
    "FluxPipeline": (CLIP, T5),
    "StableDiffusionPipeline": (CLIP,),
    "StableDiffusion3Pipeline": (PROJECTED, PROJECTED, T5),
    "StableDiffusionXLPipeline": (CLIP, PROJECTED),
}
# What diffusers cuts prompts to for T5; for CLIP it is the tokenizer's own length.
T5_TOKENS = {"FluxPipeline": 512, "StableDiffusion3Pipeline": 256}


class Said(NamedTuple):
    """What an encoder says of P prompts: words (P, length, width), those of the layer before the last, pooled (P, w).

    T5 says its words alone.
    """

    last: Tensor
    penultimate: Tensor
    pooled: Tensor


def prompts_in(file: Path) -> tuple[str, ...]:
    """The prompts in a file of UTF-8, one a line; blank lines are none.

    Raises:
        SpecError: there is no such file, it is not UTF-8, or holds no prompt.
    """
    try:
        if file.stat().st_size > LONGEST_FILE:
            raise SpecError("is too long for a file of prompts", path="prompts", given=str(file))
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise SpecError(f"cannot be read ({error.strerror})", path="prompts", given=str(file)) from None
    except UnicodeDecodeError:
        raise SpecError("is not UTF-8", path="prompts", given=str(file)) from None
    found = tuple(line.strip() for line in lines if line.strip())
    if not found:
        raise SpecError("holds no prompt", path="prompts", given=str(file), allowed="one a line")
    return found


@dataclass(frozen=True)
class Texts:
    """Prompts, and the encoders in the folder of the pipeline `name` that read them.

    `negative` null is what the pipeline takes where it is given none: nothing said, or zeros (`zeros`, SDXL's).
    """

    at: Path
    name: str
    prompts: tuple[str, ...]
    negative: str | None
    zeros: bool

    @staticmethod
    def found(at: Path, index: Mapping[str, Any], file: Path, negative: str | None) -> Texts:
        """Prompts of a pipeline whose `model_index.json` is `index`, checked but not read.

        Raises:
            SpecError: it takes no prompts, its encoders are of another kind, or transformers is not installed.
        """
        name = str(index.get("_class_name"))
        if name not in ENCODERS:
            raise SpecError("are for a network of prompts", path="prompts", given=str(file), allowed="null")
        prompts = prompts_in(file)
        for number, encoder in enumerate(ENCODERS[name]):
            asked: tuple[tuple[str, tuple[str, ...]], ...] = (
                ("text_encoder", (encoder,)),
                ("tokenizer", TOKENIZERS[encoder]),
            )
            for part, allowed in asked:
                key = _part(part, number)
                if index.get(key) not in [["transformers", each] for each in allowed]:
                    raise SpecError(f"has another {key}", path="source", given=index.get(key), allowed=allowed)
        if importlib.util.find_spec("transformers") is None:
            instead = "pip install transformers, or `embeddings` that `sigmasearch embed` wrote where it is installed"
            raise SpecError("need the package transformers", path="prompts", given=str(file), allowed=instead)
        return Texts(at, name, prompts, negative, zeros=bool(index.get("force_zeros_for_empty_prompt")))

    @property
    def weights(self) -> list[Path]:
        """The files of the encoders' weights."""
        parts = [_part("text_encoder", number) for number in range(len(ENCODERS[self.name]))]
        return [file for part in parts for file in folder.weights(self.at / part, folder.TEXT_NAME)]

    @property
    def settings(self) -> list[Path]:
        """What else decides how prompts are read: the encoders' configurations, and the tokenizers' files."""
        parts = range(len(ENCODERS[self.name]))
        configs = [self.at / _part("text_encoder", number) / "config.json" for number in parts]
        tokens = [file for number in parts for file in sorted((self.at / _part("tokenizer", number)).glob("*.*"))]
        return [file for file in (*configs, *tokens) if file.is_file()]

    def embeddings(self, dtype: str, device: str) -> dict[str, Tensor]:
        """What a card's `embeddings` would hold, on the CPU: (P, ...) of the prompts, (1, ...) of the negative one."""
        return self._made(dtype, device)

    @functools.cached_property
    def _made(self) -> Callable[[str, str], dict[str, Tensor]]:
        return functools.cache(self._read)  # read once by a process, whatever the number of batches

    def _read(self, dtype: str, device: str) -> dict[str, Tensor]:
        # The negative prompt goes last, through the same encoders while they are held.
        texts = [*self.prompts, self.negative or ""]
        said = [self._said(number, texts, dtype, device) for number in range(len(ENCODERS[self.name]))]
        made = _joined(self.name, said)
        count = len(self.prompts)
        nothing = self.zeros and self.negative is None
        wanted = {key: value[:count].contiguous() for key, value in made.items()}
        others = {key: value[count:].contiguous() for key, value in made.items()}
        return wanted | {f"negative_{key}": value * (not nothing) for key, value in others.items()}

    def _said(self, number: int, texts: Sequence[str], dtype: str, device: str) -> Said:
        encoder, transformers = ENCODERS[self.name][number], importlib.import_module("transformers")
        index = folder.read(self.at / "model_index.json")
        try:
            at = self.at / _part("tokenizer", number)
            tokenizer = getattr(transformers, index[_part("tokenizer", number)][1]).from_pretrained(
                at, local_files_only=True
            )
            at = self.at / _part("text_encoder", number)
            model, held = getattr(transformers, encoder).from_pretrained(
                at, use_safetensors=True, local_files_only=True, output_loading_info=True
            )
        except Exception as error:  # a stranger's configuration, or weights of other shapes
            text = f"cannot be loaded ({type(error).__name__}: {' '.join(str(error).split())[:300]})"
            raise SpecError(text, path="source", given=str(at)) from None
        if held["missing_keys"]:
            raise SpecError("lacks weights", path="source", given=sorted(held["missing_keys"])[0], allowed="none")
        if getattr(model.config, "use_attention_mask", False):
            raise SpecError("is not understood", path=f"{_part('text_encoder', number)}.use_attention_mask", given=True,
                            allowed="false")  # fmt: skip
        model = model.to(device=device, dtype=getattr(torch, dtype)).eval()
        length = T5_TOKENS[self.name] if encoder == T5 else tokenizer.model_max_length
        parts = []
        with torch.no_grad():
            for start in range(0, len(texts), READ_AT_ONCE):
                tokens = tokenizer(list(texts[start : start + READ_AT_ONCE]), padding="max_length", max_length=length,
                                   truncation=True, return_tensors="pt").input_ids.to(device)  # fmt: skip
                answer = model(tokens, output_hidden_states=encoder != T5)
                last = answer.last_hidden_state.cpu()
                if encoder == T5:
                    parts.append(Said(last, last, last[:, 0]))
                    continue
                pooled = answer.text_embeds if encoder == PROJECTED else answer.pooler_output
                parts.append(Said(last, answer.hidden_states[-2].cpu(), pooled.cpu()))
        return Said(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _part(name: str, number: int) -> str:
    return name if number == 0 else f"{name}_{number + 1}"


def _joined(name: str, said: Sequence[Said]) -> dict[str, Tensor]:
    """What the pipeline's network is given of what its encoders say."""
    if name == "StableDiffusionPipeline":
        return {"prompt_embeds": said[0].last}
    if name == "FluxPipeline":
        return {"prompt_embeds": said[1].last, "pooled_prompt_embeds": said[0].pooled}
    words = torch.cat([each.penultimate for each in said[:2]], dim=-1)
    if name == "StableDiffusionXLPipeline":
        return {"prompt_embeds": words, "pooled_prompt_embeds": said[1].pooled}
    whole = said[2].last
    padded = functional.pad(words, (0, whole.shape[-1] - words.shape[-1]))
    return {
        "prompt_embeds": torch.cat([padded, whole], dim=1),
        "pooled_prompt_embeds": torch.cat([said[0].pooled, said[1].pooled], dim=-1),
    }
