"""Pipelines of tiny networks with random weights, in folders as diffusers writes them; and what is read from them."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from pipeline.models.diffusers import DiffusersModel

# Their own schedulers hand tensors to numpy in ways that numpy 2 deprecates.
OLD_HABITS = "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
# One evaluation in single precision, twice: rounding of an input of size 1, over a network of a few layers.
ONE_EVALUATION = 2e-5
# The same over some ten steps, each of which goes back through the network.
WHOLE_RUN = 2e-5

PIXELS = {
    "sample_size": 8, "in_channels": 1, "out_channels": 1, "layers_per_block": 1, "block_out_channels": (16, 32),
    "norm_num_groups": 4, "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}  # fmt: skip
DIT = {
    "sample_size": 4, "patch_size": 2, "in_channels": 4, "out_channels": 8, "num_layers": 2, "attention_head_dim": 8,
    "num_attention_heads": 2, "num_embeds_ada_norm": 1000,
}  # fmt: skip
LATENTS = {
    "sample_size": 8, "in_channels": 4, "out_channels": 4, "layers_per_block": 1, "block_out_channels": (16, 32),
    "norm_num_groups": 4, "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "cross_attention_dim": 12, "attention_head_dim": 4,
}  # fmt: skip
TOLD_SIZES = {
    "addition_embed_type": "text_time", "addition_time_embed_dim": 6, "projection_class_embeddings_input_dim": 36 + 10,
}  # fmt: skip
SD3 = {
    "sample_size": 8, "patch_size": 2, "in_channels": 4, "out_channels": 4, "num_layers": 2, "attention_head_dim": 8,
    "num_attention_heads": 2, "joint_attention_dim": 12, "caption_projection_dim": 16, "pooled_projection_dim": 10,
    "pos_embed_max_size": 8,
}  # fmt: skip
FLUX = {
    "patch_size": 1, "in_channels": 16, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16,
    "num_attention_heads": 2, "joint_attention_dim": 12, "pooled_projection_dim": 10, "axes_dims_rope": (4, 4, 8),
}  # fmt: skip
DECODER = {
    "in_channels": 3, "out_channels": 3, "latent_channels": 4, "block_out_channels": (8, 16), "norm_num_groups": 4,
    "down_block_types": ("DownEncoderBlock2D", "DownEncoderBlock2D"), "layers_per_block": 1,
    "up_block_types": ("UpDecoderBlock2D", "UpDecoderBlock2D"), "sample_size": 16,
}  # fmt: skip


def component(name: str, seed: int = 0, **config: Any) -> Any:
    """A network, or a scheduler, of diffusers. Random weights, in biases and norms too, so that all of them count."""
    cls = getattr(importlib.import_module("diffusers"), name)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = cls(**config)
        if isinstance(made, torch.nn.Module):
            with torch.no_grad():
                for parameter in made.parameters():
                    parameter.add_(0.1 * torch.randn(parameter.shape))
            made.eval().requires_grad_(False)
    return made


def write(folder: Path, pipeline: str, **components: Any) -> Path:
    """A pipeline's folder. Some of diffusers' own classes want a text encoder, and so cannot write it here."""
    index: dict[str, Any] = {"_class_name": pipeline, "_diffusers_version": "0.35.0"}
    for name, each in components.items():
        each.save_pretrained(folder / name)
        index[name] = ["diffusers", type(each).__name__]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def embeddings(file: Path, pooled: bool, length: int = 5, **replaced: torch.Tensor) -> dict[str, torch.Tensor]:
    """A prompt's embeddings and a negative one's, written and given back."""
    made = torch.Generator().manual_seed(5)
    shapes = {"prompt_embeds": (1, length, 12), "negative_prompt_embeds": (1, length, 12)}
    if pooled:
        shapes |= {"pooled_prompt_embeds": (1, 10), "negative_pooled_prompt_embeds": (1, 10)}
    tensors = {key: torch.randn(shape, generator=made) for key, shape in shapes.items()} | replaced
    save_file(tensors, file)
    return tensors


def model(folder: Path, **fields: Any) -> DiffusersModel:
    return DiffusersModel(str(folder), **fields)


def images(shape: tuple[int, ...], seed: int = 1, count: int = 3) -> torch.Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest, over the largest value."""
    assert found.shape == expected.shape
    assert torch.isfinite(expected).all()
    return float((found - expected).abs().max() / expected.abs().max())
