"""What images are drawn for, and what of it a network takes: everything else is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pipeline.registry import SpecError

Config = Mapping[str, Any]
# The tensors of embeddings, by diffusers' names.
NAMES = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
# Stands for what prompts are before their encoders have read them.
UNREAD = torch.empty(0, device="meta")
# What a network is called with beside its input and its time. A tensor is one for all images, (1, ...), or holds one
# for each of the conditions that images are drawn for, of which there is one number in a row.
Row = dict[str, Tensor]


@dataclass(frozen=True)
class Condition:
    """What images are drawn for: one class, or each of a class of its own where none is given; or prompts.

    `embeddings` are those of prompts, and of a negative one for each or for all, by diffusers' names.
    """

    label: int | None = None
    guidance: float = 1.0
    embeddings: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def guided(self) -> bool:
        """Whether an unconditional row goes with each."""
        return self.guidance != 1


def whole(config: Config, key: str, default: int = 0) -> int:
    """A size in the configuration; 0 is no default."""
    given = config.get(key, default)
    if isinstance(given, bool) or not isinstance(given, int) or not 0 < given <= 2**20:
        raise SpecError("is no size", path=key, given=given, allowed="a whole number above 0")
    return given


def square(config: Config, size: int | None) -> tuple[int, int, int]:
    """(C, H, W) of what the network sees, which is `sample_size` high and wide where no size is given."""
    channels, made = whole(config, "in_channels"), config.get("out_channels")
    if made not in (None, channels, 2 * channels):
        raise SpecError("is not of this form", path="out_channels", given=made, allowed=f"{channels} or twice that")
    if size is None and config.get("sample_size") is None:
        raise SpecError("is not said by the network", path="size", allowed="height and width that the network sees")
    side = whole(config, "sample_size") if size is None else size
    return channels, side, side


def plain(config: Config, **values: object) -> None:
    """Refuse a network with other values: it is called with more than is given here."""
    for key, value in values.items():
        if config.get(key) != value:
            raise SpecError("is not understood", path=key, given=config.get(key), allowed=str(value or "null"))


def one_of(config: Config, key: str, values: tuple[str, ...], default: str) -> None:
    """Refuse a value that is not among these."""
    if config.get(key, default) not in values:
        raise SpecError("is not understood", path=key, given=config[key], allowed=values)


def label(condition: Condition, classes: object) -> Tensor:
    """The class label, of so many classes; every one of them where none is given."""
    if not isinstance(classes, int):
        raise SpecError("is for a network of classes", path="label", given=condition.label, allowed="null")
    if condition.label is None:
        return torch.arange(classes)
    if not 0 <= condition.label < classes:
        raise SpecError("is no class", path="label", given=condition.label, allowed=f"0 to {classes - 1}")
    return torch.tensor([condition.label])


def no_label(condition: Condition) -> None:
    """Refuse a class label."""
    if condition.label is not None:
        raise SpecError("is for a network of classes", path="label", given=condition.label, allowed="null")


def no_guidance(condition: Condition) -> None:
    """Refuse guidance."""
    if condition.guided:
        raise SpecError("is for a network that was trained for it", path="guidance", given=condition.guidance,
                        allowed="1")  # fmt: skip


def no_embeddings(condition: Condition) -> None:
    """Refuse a prompt."""
    if condition.embeddings:
        raise SpecError("are for a network of prompts", path="embeddings", allowed="null")


def signs(condition: Condition) -> tuple[str, ...]:
    """What the names of the embeddings begin with, one for each row."""
    return ("", "negative_") if condition.guided else ("",)


def prompt(condition: Condition, sign: str, width: int) -> Tensor:
    """The embeddings of prompts' words (P, length, width)."""
    key = f"{sign}prompt_embeds"
    return _tensor(condition, key, 3, width, f"(prompts, length, {width})")


def pooled(condition: Condition, sign: str, width: int) -> Tensor:
    """The embeddings of prompts as wholes (P, width)."""
    return _tensor(condition, f"{sign}pooled_prompt_embeds", 2, width, f"(prompts, {width})")


def _tensor(condition: Condition, key: str, axes: int, width: int, allowed: str) -> Tensor:
    found = condition.embeddings.get(key)
    if found is None:
        raise SpecError(f"lacks {key}", path="embeddings", allowed=f"a tensor {allowed}")
    if found is UNREAD:
        return torch.empty((*([1] * (axes - 1)), width), device="meta")
    if found.ndim != axes or not len(found) or found.shape[-1] != width or not found.is_floating_point():
        raise SpecError(f"{key} has the wrong shape", path="embeddings", given=list(found.shape), allowed=allowed)
    return found
