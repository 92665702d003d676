"""Constructor arguments: those of the published checkpoints, and small ones of each kind."""

import math

import numpy as np
import torch
from torch import nn

from pipeline.networks.checkpoint import Checkpoint
from pipeline.networks.preconditioning import PRECONDITIONERS

# train.py of NVlabs/edm, --arch=ddpmpp, ncsnpp and adm, with the options of its README's table of trained models.
DDPMPP = {
    "model_type": "SongUNet",
    "embedding_type": "positional",
    "encoder_type": "standard",
    "decoder_type": "standard",
    "channel_mult_noise": 1,
    "resample_filter": [1, 1],
    "model_channels": 128,
    "channel_mult": [2, 2, 2],
    "augment_dim": 9,
}
NCSNPP = DDPMPP | {
    "embedding_type": "fourier",
    "encoder_type": "residual",
    "channel_mult_noise": 2,
    "resample_filter": [1, 3, 3, 1],
}
ADM = {"model_type": "DhariwalUNet", "model_channels": 192, "channel_mult": [1, 2, 3, 4]}


def _published(size, labels, architecture, **changes):
    return {"img_resolution": size, "img_channels": 3, "label_dim": labels, **architecture, **changes}


WIDE = {"channel_mult": [1, 2, 2, 2]}
PUBLISHED = {
    "cifar10-uncond-vp": _published(32, 0, DDPMPP),
    "cifar10-uncond-ve": _published(32, 0, NCSNPP),
    "cifar10-cond-vp": _published(32, 10, DDPMPP),
    "cifar10-cond-ve": _published(32, 10, NCSNPP),
    "ffhq-vp": _published(64, 0, DDPMPP, dropout=0.05, **WIDE),
    "ffhq-ve": _published(64, 0, NCSNPP, dropout=0.05, **WIDE),
    "afhqv2-vp": _published(64, 0, DDPMPP, dropout=0.25, **WIDE),
    "afhqv2-ve": _published(64, 0, NCSNPP, dropout=0.25, **WIDE),
    "imagenet-cond-adm": _published(64, 1000, ADM, use_fp16=True, dropout=0.10),
}
SMALL = {"img_resolution": 8, "img_channels": 3, "model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1}
TINY = {
    "ddpmpp": {**DDPMPP, **SMALL, "attn_resolutions": [4]},
    "ncsnpp": {**NCSNPP, **SMALL, "attn_resolutions": [4], "label_dim": 5},
    "skip": {**NCSNPP, **SMALL, "encoder_type": "skip", "decoder_type": "skip", "attn_resolutions": [8]},
    # 16 x 8 channels at the second level: two heads of 64.
    "adm": {
        **ADM,
        **SMALL,
        "model_channels": 16,
        "channel_mult": [2, 8],
        "channel_mult_emb": 1,
        "attn_resolutions": [4],
        "label_dim": 5,
        "augment_dim": 9,
    },
}
# EDM2's: 32 channels at the second level, two heads of 16.
EDM2 = {**SMALL, "model_channels": 16, "channels_per_head": 16, "attn_resolutions": [4], "label_dim": 5}
ALL = TINY | {"edm2": EDM2}


def network(name="ddpmpp", kind="EDMPrecond", seed=0):
    """A small network whose every tensor is random: a weight that is never used cannot hide."""
    torch.manual_seed(seed)
    made = PRECONDITIONERS[kind](**ALL[name]).eval().requires_grad_(False)
    for parameter in made.parameters():
        spread = 1 / math.sqrt(parameter[0].numel()) if parameter.dim() > 1 else 0.5
        parameter.copy_(torch.randn(parameter.shape) * spread)
    return made


def checkpoint(name="ddpmpp", kind="EDMPrecond", seed=0):
    """The checkpoint of `network`."""
    return Checkpoint(kind, dict(ALL[name]), network(name, kind, seed).state_dict())


def images(count=2, size=8, seed=1):
    """Some float64 images of a sampler's state."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((count, 3, size, size)))


def sizes(module: nn.Module):
    """Names and shapes of everything a checkpoint holds."""
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
