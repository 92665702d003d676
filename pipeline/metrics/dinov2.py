"""The features that FD-DINOv2 is defined with: class tokens of DINOv2, weights from a file.

torch-fidelity 0.4's extractor fetches code and weights by torch.hub and runs them, and takes no file. Its way from
pixels to the network is used; the network is torchvision's transformer, which computes the same.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.metrics.features import FEATURES
from pipeline.metrics.file_extractor import FileExtractor
from pipeline.metrics.weight_files import WeightsFile

VARIABLE = "SIGMASEARCH_DINOV2_WEIGHTS"
FILE = WeightsFile(
    "dinov2",
    "DINOv2",
    VARIABLE,
    "dinov2_vitl14_pretrain.pth",
    "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
)
PATCH, SIDE = 14, 224  # pixels of a patch, and of the side that torch-fidelity enlarges images to
OFFSET = 0.1  # of the grid that positions are read at: DINOv2's interpolate_offset
EPSILON = 1e-6
# By the width of the weights: heads (Oquab et al., 2023, arXiv 2304.07193, table 17) and torch-fidelity's name. The
# giant's layers are of another kind (SwiGLU), which torchvision has not.
SIZES = {384: (6, "dinov2-vit-s-14"), 768: (12, "dinov2-vit-b-14"), 1024: (16, "dinov2-vit-l-14")}


@FEATURES.register("dinov2")
@dataclass(frozen=True)
class Dinov2(FileExtractor):
    """Class tokens of uint8 images, grey ones as RGB: 384, 768 or 1024 features, by which weights are given.

    `weights` is a .pth of Meta's or a .safetensors of the same names; Stein et al. (2023, arXiv 2306.04675) use the
    large network. Where none is given, that of SIGMASEARCH_DINOV2_WEIGHTS is taken, then that in torch's own store.
    Nothing is fetched. A worker elsewhere finds the file by the same rules.

    Raises:
        SpecError: no such file, or no weights of these networks in it.
    """

    def weights_file(self) -> WeightsFile:
        """Meta's own, of the large network."""
        return FILE

    def network(self, device: str) -> Any:
        """torch-fidelity's extractor around the network on `device`."""
        return _network(self.hash, device, self.file)

    def width(self) -> int:
        """384, 768 or 1024."""
        return int(self.network("cpu").model.hidden_dim)


@functools.cache
def _network(sha256: str, device: str, file: Path) -> Any:
    """torch-fidelity's extractor around the network on `device`, read once a process."""
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase
    from torch_fidelity.feature_extractor_dinov2 import FeatureExtractorDinoV2

    class Extractor(FeatureExtractorDinoV2):  # type: ignore[misc]  # torch-fidelity ships no types
        """Its resizing and its normalisation, with a network that is not fetched."""

        def __init__(self, name: str, model: torch.nn.Module) -> None:
            FeatureExtractorBase.__init__(self, name, ["dinov2"])
            self.feature_extractor_internal_dtype = torch.float32
            self.model = model
            self.requires_grad_(False)
            self.eval()

    held = FILE.read(file, sha256)
    try:
        model = transformer(held)
    except Exception as error:  # torch names tensors that are missing or of other shapes
        raise FILE.mistaken(file, error) from None
    return Extractor(SIZES[model.hidden_dim][1], model).to(device)


def transformer(state: dict[str, Tensor]) -> Any:
    """The transformer of torchvision with DINOv2's weights: images (B, 3, 224, 224), normalised -> (B, d).

    LayerScale goes into the layer before it, and positions are read at the grid of 16 x 16 patches as DINOv2 does.

    Raises:
        ValueError: the weights of another network.
    """
    from torchvision.models.vision_transformer import VisionTransformer

    state = {name: tensor.float() for name, tensor in state.items() if name != "mask_token"}
    missing = {"cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.mlp.fc1.weight"} - set(state)
    if missing:
        raise ValueError(f"no {min(missing)}")
    width, depth = state["cls_token"].shape[-1], len({name.split(".")[1] for name in state if name[:7] == "blocks."})
    if width not in SIZES or "register_tokens" in state:
        raise ValueError(f"not DINOv2's small, base or large without registers: width {width}")
    with torch.random.fork_rng(devices=[]):  # it draws weights before it is given any
        model = VisionTransformer(
            SIDE, PATCH, depth, SIZES[width][0], width, 4 * width,
            norm_layer=functools.partial(torch.nn.LayerNorm, eps=EPSILON),
        )  # fmt: skip
    model.heads = torch.nn.Identity()
    renamed = {
        "class_token": state.pop("cls_token"),
        "encoder.pos_embedding": _positions(state.pop("pos_embed")),
        "conv_proj.weight": state.pop("patch_embed.proj.weight"),
        "conv_proj.bias": state.pop("patch_embed.proj.bias"),
        "encoder.ln.weight": state.pop("norm.weight"),
        "encoder.ln.bias": state.pop("norm.bias"),
    }
    for i in range(depth):
        ours, theirs = f"encoder.layers.encoder_layer_{i}", f"blocks.{i}"
        scales = {"attn.proj": state.pop(f"{theirs}.ls1.gamma"), "mlp.fc2": state.pop(f"{theirs}.ls2.gamma")}
        for layer, name in _LAYERS.items():
            scale = scales.get(layer, torch.ones(()))
            weight, bias = (state.pop(f"{theirs}.{layer}.{kind}") for kind in ("weight", "bias"))
            joint = "_" if name.endswith("in_proj") else "."
            renamed[f"{ours}.{name}{joint}weight"] = weight * (scale[:, None] if scale.ndim else scale)
            renamed[f"{ours}.{name}{joint}bias"] = bias * scale
    if state:
        raise ValueError(f"{min(state)} is not known")
    model.load_state_dict(renamed)
    return model


_LAYERS = {
    "norm1": "ln_1",
    "attn.qkv": "self_attention.in_proj",
    "attn.proj": "self_attention.out_proj",
    "norm2": "ln_2",
    "mlp.fc1": "mlp.0",
    "mlp.fc2": "mlp.3",
}


def _positions(embedding: Tensor) -> Tensor:
    """Position embeddings (1, 1 + n^2, d) of another resolution at the grid of 16 x 16 patches."""
    grid, count = SIDE // PATCH, embedding.shape[1] - 1
    side = int(count**0.5)
    if count == grid**2:
        return embedding
    if side**2 != count:
        raise ValueError(f"{count} positions are no square")
    patches = embedding[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    scale = (grid + OFFSET) / side
    read = torch.nn.functional.interpolate(patches, scale_factor=(scale, scale), mode="bicubic")
    return torch.cat([embedding[:, :1], read.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)
