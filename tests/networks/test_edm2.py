"""EDM2's network: its magnitudes in closed form, a second writing of it, and the sizes that its paper prints."""

import math

import pytest
import torch
from torch.nn import functional as F

from pipeline.networks import edm2_unet
from pipeline.networks.arguments import build
from pipeline.networks.edm2_unet import MPConv, MPFourier, UNet
from tests.networks import tiny
from tests.networks.reference_unet import Weights, resampled

# Karras et al., 2024, arXiv 2312.02696: millions of parameters for ImageNet-512, 64 x 64 latents of 4 channels.
SIZES = {"xs": (128, 125), "s": (192, 280), "m": (256, 498), "l": (320, 777), "xl": (384, 1119), "xxl": (448, 1523)}


@pytest.mark.parametrize("size", SIZES)
def test_the_presets_have_as_many_weights_as_the_paper_says(size):
    channels, millions = SIZES[size]
    network = build("Precond", {"img_resolution": 64, "img_channels": 4, "label_dim": 1000, "model_channels": channels})
    assert round(sum(parameter.numel() for parameter in network.parameters()) / 1e6) == millions
    assert network.use_fp16


def test_the_names_and_shapes_of_a_preset():
    shapes = tiny.sizes(build("Precond", {"img_resolution": 64, "img_channels": 3, "label_dim": 1000}))
    expected = {
        "unet.out_gain": (),
        "unet.emb_fourier.freqs": (192,),
        "unet.emb_fourier.phases": (192,),
        "unet.emb_noise.weight": (768, 192),
        "unet.emb_label.weight": (768, 1000),
        "unet.enc.64x64_conv.weight": (192, 4, 3, 3),
        "unet.enc.32x32_block0.emb_gain": (),
        "unet.enc.32x32_block0.conv_skip.weight": (384, 192, 1, 1),
        "unet.enc.32x32_block0.conv_res0.weight": (384, 384, 3, 3),
        "unet.enc.16x16_block2.attn_qkv.weight": (1728, 576, 1, 1),
        "unet.dec.8x8_in0.attn_proj.weight": (768, 768, 1, 1),
        "unet.dec.64x64_block3.conv_res0.weight": (192, 384, 3, 3),
        "unet.dec.64x64_block3.emb_linear.weight": (192, 768),
        "unet.out_conv.weight": (3, 192, 3, 3),
        "logvar_fourier.freqs": (128,),
        "logvar_linear.weight": (1, 128),
    }
    assert {name: shapes.get(name) for name in expected} == expected
    attending = {name.split(".")[2] for name in shapes if "attn_qkv" in name}
    assert attending == {*(f"{size}x{size}_block{i}" for size in (16, 8) for i in range(4)), "8x8_in0"}


def test_magnitudes_are_preserved():
    a, b = torch.randn(2, 4, 50_000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a, b = a.transpose(0, 1)[None], b.transpose(0, 1)[None]
    for share in (0.0, 0.3, 0.5, 1.0):
        assert edm2_unet.mixed(a, b, share).square().mean() == pytest.approx(1, abs=0.02)
        both = edm2_unet.joined(a, b[:, :10_000], share)
        assert both.shape[1] == 60_000
        assert both.square().mean() == pytest.approx(1, abs=0.02)
    assert edm2_unet.silu(a).square().mean() == pytest.approx(1, abs=0.02)
    assert MPFourier(50_000)(torch.tensor([0.7])).square().mean() == pytest.approx(1, abs=0.02)
    scaled = edm2_unet.normalized(37 * a, [1])
    # In float16 the length is 80000, which is none; the root mean square is.
    assert edm2_unet.normalized(torch.full((1, 4), 40_000.0).half(), [1]).tolist() == [[1.0] * 4]
    assert scaled.square().mean(1).sqrt() == pytest.approx(torch.ones(1, 4, 2).double(), abs=1e-4)


@pytest.mark.parametrize("kernel", [(), (3, 3)])
def test_a_layers_weights_have_unit_length_whatever_is_stored(kernel):
    layer = MPConv(6, 4, kernel).requires_grad_(False)
    x = torch.randn(5, 6, *(7 if kernel else 0 for _ in kernel))
    weight = layer.weight / layer.weight.flatten(1).norm(dim=1).reshape(4, 1, *(1 for _ in kernel))
    expected = F.conv2d(x, weight, padding="same") if kernel else x @ weight.T
    assert torch.allclose(layer(x), expected, rtol=1e-3, atol=1e-4)
    before = layer(x)
    layer.weight.mul_(torch.tensor([0.5, 2.0, 3.0, 9.0]).reshape(4, 1, *(1 for _ in kernel)))
    assert torch.allclose(layer(x), before, rtol=1e-3, atol=1e-4)
    assert torch.allclose(layer(x, torch.tensor(2.5)), 2.5 * layer(x), rtol=1e-6, atol=1e-6)


def rms(x, dim):
    return x / (1e-4 + x.square().mean(dim, keepdim=True).sqrt())


def layer(w, x, gain=1.0):
    weight = w.get("weight")
    flat = weight.flatten(1)
    weight = (gain * flat / (1e-4 + flat.square().mean(1, keepdim=True).sqrt()) / flat.shape[1] ** 0.5).reshape(
        weight.shape
    )
    return F.conv2d(x, weight, padding="same") if weight.dim() == 4 else F.linear(x, weight)


def blended(a, b, share):
    return ((1 - share) * a + share * b) / ((1 - share) ** 2 + share**2) ** 0.5


def block(w, x, emb, *, encodes, taps, clip, **direction):
    x = resampled(x, taps, **direction)
    if encodes:
        x = rms(layer(w["conv_skip"], x) if "conv_skip" in w else x, 1)
    gain = 1 + layer(w["emb_linear"], emb, w.get("emb_gain"))[:, :, None, None]
    inner = layer(w["conv_res1"], F.silu(layer(w["conv_res0"], F.silu(x) / 0.596) * gain) / 0.596)
    x = blended(layer(w["conv_skip"], x) if "conv_skip" in w and not encodes else x, inner, 0.3)
    if "attn_qkv" in w:
        size, heads = x.shape[-1], x.shape[1] // 16
        parts = layer(w["attn_qkv"], x).reshape(len(x), heads, 16, 3, size * size)
        query, key, value = (rms(parts[:, :, :, i], 2).transpose(-1, -2) for i in range(3))
        seen = F.scaled_dot_product_attention(query, key, value).transpose(-1, -2).reshape(x.shape)
        x = blended(x, layer(w["attn_proj"], seen), 0.3)
    return x.clamp(-clip, clip)


def reference(state, c, x, noise, labels):
    """F(x; c_noise) once more, in float64."""
    w, how = Weights(state), {"taps": c["resample_filter"], "clip": c["clip_act"]}
    waves = noise[:, None] * w["emb_fourier"].get("freqs") + w["emb_fourier"].get("phases")
    emb = layer(w["emb_noise"], 2**0.5 * torch.cos(waves))
    emb = F.silu(blended(emb, layer(w["emb_label"], 5**0.5 * labels), 0.5)) / 0.596
    x, kept = layer(w["enc"]["8x8_conv"], F.pad(x, (0, 0, 0, 0, 0, 1), value=1.0)), []
    for name in ("8x8_conv", "8x8_block0", "4x4_down", "4x4_block0"):
        if name != "8x8_conv":
            x = block(w["enc"][name], x, emb, encodes=True, **how, down="down" in name)
        kept.append(x)
    for name in ("4x4_in0", "4x4_in1", "4x4_block0", "4x4_block1", "8x8_up", "8x8_block0", "8x8_block1"):
        if "block" in name:
            skip = kept.pop()
            total = x.shape[1] + skip.shape[1]
            x = torch.cat([x * (total / 2 / x.shape[1]) ** 0.5, skip * (total / 2 / skip.shape[1]) ** 0.5], 1)
        x = block(w["dec"][name], x, emb, encodes=False, **how, up="up" in name)
    return layer(w["out_conv"], x, w.get("out_gain"))


@pytest.mark.parametrize(("taps", "clip"), [([1, 1], 256), ([1, 3, 3, 1], 1.5)])
def test_the_network_is_what_its_paper_describes(taps, clip):
    arguments = tiny.EDM2 | {"resample_filter": taps, "clip_act": clip}
    torch.manual_seed(0)
    network = UNet(**arguments).requires_grad_(False)
    for parameter in network.parameters():
        parameter.copy_(torch.randn(parameter.shape) + (1 if parameter.dim() == 0 else 0))
    inputs = tiny.images(3), torch.tensor([0.3, -1.2, 0.9]).double(), torch.randn(3, 5).double()
    expected = reference(network.state_dict(), arguments, *inputs)
    found = network(*inputs)
    assert found.dtype == torch.float64
    assert (found - expected).abs().max() < 2e-5 * expected.abs().max()
    # Each tensor counts.
    inputs = [each[:1] for each in inputs]
    for key, tensor in network.state_dict().items():
        kept = tensor.clone()
        tensor.add_(torch.linspace(0.5, 1.5, tensor.numel()).reshape(tensor.shape))
        assert not torch.allclose(network(*inputs), found[:1], rtol=1e-4, atol=0), key
        tensor.copy_(kept)


def test_its_preconditioner_is_edms_around_it():
    network, x = tiny.network("edm2", "Precond"), tiny.images().float()
    labels = torch.eye(5)[[1, 4]]
    for sigma in (0.002, 0.4, 80.0):
        raw = network.unet(x / math.hypot(sigma, 0.5), torch.tensor([math.log(sigma) / 4]), labels)
        skip, out = 0.25 / (sigma**2 + 0.25), 0.5 * sigma / math.hypot(sigma, 0.5)
        assert torch.allclose(network(x, torch.tensor(sigma), labels), skip * x + out * raw, rtol=1e-4, atol=1e-4)
    half = network(x, torch.tensor(0.4), labels, torch.float16)
    assert half.dtype == torch.float32
    assert 1e-6 < (half - network(x, torch.tensor(0.4), labels)).abs().max() < 0.1
