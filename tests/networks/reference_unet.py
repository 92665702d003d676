"""The U-Nets once more, from their papers and in other words: resampling by matrices, attention by torch's own.

Everything is float64 and reads the weights by name from a state dict.
"""

import math

import torch
from torch.nn import functional as F


class Weights:
    """A state dict below a prefix."""

    def __init__(self, held, prefix=""):
        self.held, self.prefix = held, prefix

    def __getitem__(self, name):
        return Weights(self.held, f"{self.prefix}{name}.")

    def __contains__(self, name):
        return any(key.startswith(f"{self.prefix}{name}.") for key in self.held)

    def get(self, name):
        found = self.held.get(f"{self.prefix}{name}")
        return None if found is None else found.double()


def resampled(x, taps, *, up=False, down=False):
    """Zero-padded, and separable: rows and columns are multiplied by one matrix each."""
    if not up and not down:
        return x
    size, pad = x.shape[-1], (len(taps) - 1) // 2
    matrix = torch.zeros((2 * size, size) if up else (size // 2, size), dtype=torch.float64)
    for out in range(matrix.shape[0]):
        for into in range(size):
            tap = out + pad - 2 * into if up else into - 2 * out + pad
            if 0 <= tap < len(taps):
                matrix[out, into] = (2 if up else 1) * taps[tap] / sum(taps)
    return matrix @ x @ matrix.T


def convolved(w, x):
    weight = w.get("weight")
    return F.conv2d(x, weight, w.get("bias"), padding="same") if weight is not None else x


def halved_after(w, x, taps):
    """A convolution, then the filter, which sees what the convolution makes of the zeros around the image too."""
    pad = (len(taps) - 1) // 2
    wide = F.conv2d(x, w.get("weight"), padding=1 + pad)
    weights = torch.tensor(taps, dtype=torch.float64) / sum(taps)
    count = x.shape[-1] // 2
    rows = sum(weight * wide[..., k : k + 2 * count : 2, :] for k, weight in enumerate(weights))
    return (
        sum(weight * rows[..., k : k + 2 * count : 2] for k, weight in enumerate(weights))
        + w.get("bias")[:, None, None]
    )


def linear(w, x):
    return F.linear(x, w.get("weight"), w.get("bias"))


def normed(w, x, eps):
    groups = min(32, x.shape[1] // 4)
    parts = x.reshape(len(x), groups, -1)
    mean, variance = parts.mean(-1, keepdim=True), parts.var(-1, unbiased=False, keepdim=True)
    scaled = ((parts - mean) / torch.sqrt(variance + eps)).reshape(x.shape)
    return scaled * w.get("weight")[:, None, None] + w.get("bias")[:, None, None]


def attended(w, x, heads, eps):
    batch, channels, height, width = x.shape
    mixed = convolved(w["qkv"], normed(w["norm2"], x, eps)).reshape(batch, heads, channels // heads, 3, height * width)
    query, key, value = (mixed[:, :, :, i].transpose(-1, -2) for i in range(3))
    joined = F.scaled_dot_product_attention(query, key, value).transpose(-1, -2)
    return x + convolved(w["proj"], joined.reshape(x.shape))


def block(w, x, emb, *, song, taps=(1, 1), up=False, down=False):
    eps, scale = (1e-6, math.sqrt(0.5)) if song else (1e-5, 1.0)
    inner = convolved(w["conv0"], resampled(F.silu(normed(w["norm0"], x, eps)), taps, up=up, down=down))
    given = linear(w["affine"], emb)[:, :, None, None]
    if song:
        inner = normed(w["norm1"], inner + given, eps)
    else:
        gain, shift = given.split(inner.shape[1], dim=1)
        inner = normed(w["norm1"], inner, eps) * (1 + gain) + shift
    inner = convolved(w["conv1"], F.silu(inner))
    x = (inner + convolved(w["skip"], resampled(x, taps, up=up, down=down))) * scale
    if "qkv" in w:
        x = attended(w, x, 1 if song else x.shape[1] // 64, eps) * scale
    return x


def embedded(w, c, noise, labels, augment):
    if c["model_type"] == "DhariwalUNet":
        count = c["model_channels"] // 2
        angles = noise[:, None] * torch.tensor([10000 ** (-i / count) for i in range(count)], dtype=torch.float64)
        emb = torch.cat([torch.cos(angles), torch.sin(angles)], 1)
        emb = emb + (linear(w["map_augment"], augment) if augment is not None else 0)
        emb = linear(w["map_layer1"], F.silu(linear(w["map_layer0"], emb)))
        return F.silu(emb + (linear(w["map_label"], labels) if labels is not None else 0))
    count = c["model_channels"] * c["channel_mult_noise"] // 2
    if c["embedding_type"] == "positional":
        rates = torch.tensor([10000 ** (-i / (count - 1)) for i in range(count)], dtype=torch.float64)
    else:
        rates = 2 * math.pi * w["map_noise"].get("freqs")
    angles = noise[:, None] * rates
    emb = torch.cat([torch.sin(angles), torch.cos(angles)], 1)
    if labels is not None:
        emb = emb + linear(w["map_label"], math.sqrt(labels.shape[1]) * labels)
    emb = emb + (linear(w["map_augment"], augment) if augment is not None else 0)
    return F.silu(linear(w["map_layer1"], F.silu(linear(w["map_layer0"], emb))))


def unet(state, c, x, noise, labels=None, augment=None):
    """F(x; c_noise) for the constructor arguments `c`."""
    w = Weights(state)
    song, taps = c["model_type"] == "SongUNet", c.get("resample_filter", (1, 1))
    emb = embedded(w, c, noise, labels, augment)
    sizes = [c["img_resolution"] // 2**level for level in range(len(c["channel_mult"]))]
    names = [f"{size}x{size}" for size in sizes]
    image, kept = x, []
    for level, name in enumerate(names):
        enc = w["enc"]
        if level == 0:
            x = convolved(enc[f"{name}_conv"], x)
        else:
            x = block(enc[f"{name}_down"], x, emb, song=song, taps=taps, down=True)
        if f"{name}_aux_skip" in enc:
            image = resampled(image, taps, down=True)
            x = x + convolved(enc[f"{name}_aux_skip"], image)
        if f"{name}_aux_residual" in enc:
            x = image = (x + halved_after(enc[f"{name}_aux_residual"], image, taps)) / math.sqrt(2)
        kept.append(x)
        for index in range(c["num_blocks"]):
            x = block(enc[f"{name}_block{index}"], x, emb, song=song)
            kept.append(x)
    out = None
    for level, name in reversed(list(enumerate(names))):
        dec = w["dec"]
        if level == len(names) - 1:
            x = block(dec[f"{name}_in1"], block(dec[f"{name}_in0"], x, emb, song=song), emb, song=song)
        else:
            x = block(dec[f"{name}_up"], x, emb, song=song, taps=taps, up=True)
        for index in range(c["num_blocks"] + 1):
            x = block(dec[f"{name}_block{index}"], torch.cat([x, kept.pop()], 1), emb, song=song)
        if f"{name}_aux_conv" in dec:
            part = convolved(dec[f"{name}_aux_conv"], F.silu(normed(dec[f"{name}_aux_norm"], x, 1e-6)))
            out = part if out is None else part + resampled(out, taps, up=True)
    return out if song else convolved(w["out_conv"], F.silu(normed(w["out_norm"], x, 1e-5)))
