"""The published checkpoints by their constructor arguments: names, shapes and totals of everything they hold.

The totals are counted a second time here, layer by layer. One is printed in public: the README of a fork of NVlabs/edm
called edm-sqa shows the log of train.py for AFHQv2 with --arch=ddpmpp --cres=1,2,2,2. It ends in 61805571 parameters
and 48 numbers of buffers; 541952 are in each of dec.64x64_block1 to 4, 3459 in dec.64x64_aux_conv, 1152 in map_augment.
"""

import pytest

from pipeline.networks.arguments import build
from tests.networks import tiny


def conv(into, out, kernel):
    return kernel**2 * into * out + out


def linear(into, out):
    return into * out + out


def block(into, out, emb, *, song, attention=False, resamples=False):
    count = 2 * into + conv(into, out, 3) + linear(emb, out if song else 2 * out) + 2 * out + conv(out, out, 3)
    if into != out or (resamples and song):
        count += conv(into, out, 1)
    return count + (2 * out + conv(out, 3 * out, 1) + conv(out, out, 1) if attention else 0)


def counted(c):
    """Parameters of a published network with 3 channels of images."""
    song = c["model_type"] == "SongUNet"
    base, residual = c["model_channels"], c.get("encoder_type") == "residual"
    noise, emb = base * c.get("channel_mult_noise", 1), 4 * base
    attended, depth = ({16}, 4) if song else ({32, 16, 8}, 3)
    total = linear(noise, emb) + linear(emb, emb)
    if c["label_dim"]:
        total += linear(c["label_dim"], noise) if song else c["label_dim"] * emb
    total += c.get("augment_dim", 0) * noise
    width, image, skips = 0, 3, []
    for level, mult in enumerate(c["channel_mult"]):
        size, out = c["img_resolution"] >> level, base * mult
        if level == 0:
            width = base if song else out
            total += conv(3, width, 3)
        else:
            total += block(width, width, emb, song=song, resamples=True)
            if residual:
                total += conv(image, width, 3)
                image = width
        skips.append(width)
        for _ in range(depth):
            total += block(width, out, emb, song=song, attention=size in attended)
            width = out
            skips.append(width)
    for level, mult in reversed(list(enumerate(c["channel_mult"]))):
        size, out = c["img_resolution"] >> level, base * mult
        if level == len(c["channel_mult"]) - 1:
            total += block(width, width, emb, song=song, attention=True) + block(width, width, emb, song=song)
        else:
            total += block(width, width, emb, song=song, resamples=True)
        for index in range(depth + 1):
            attention = size in attended and (index == depth or not song)
            total += block(width + skips.pop(), out, emb, song=song, attention=attention)
            width = out
    return total + 2 * width + conv(width, 3, 3)


TOTALS = {
    "cifar10-uncond-vp": 55_733_891,
    "cifar10-uncond-ve": 56_397_827,
    "cifar10-cond-vp": 55_735_299,
    "cifar10-cond-ve": 56_400_643,
    "ffhq-vp": 61_805_571,
    "ffhq-ve": 62_761_091,
    "afhqv2-vp": 61_805_571,
    "afhqv2-ve": 62_761_091,
    "imagenet-cond-adm": 295_899_267,
}


@pytest.fixture(scope="module")
def built():
    return {name: build("EDMPrecond", arguments) for name, arguments in tiny.PUBLISHED.items()}


@pytest.mark.parametrize("name", tiny.PUBLISHED)
def test_the_total_is_what_the_layers_add_up_to(name, built):
    found = sum(parameter.numel() for parameter in built[name].parameters())
    assert found == counted(tiny.PUBLISHED[name]) == TOTALS[name]


def test_the_network_of_a_public_training_log_is_ours_layer_by_layer(built):
    model = built["afhqv2-vp"].model
    sizes = {name: sum(p.numel() for p in layer.parameters()) for name, layer in model.dec.items()}
    assert [sizes[f"64x64_block{i}"] for i in range(1, 5)] == [541_952] * 4
    assert (sizes["64x64_aux_norm"], sizes["64x64_aux_conv"]) == (256, 3_459)
    assert model.map_augment.weight.numel() == 1_152
    assert sum(p.numel() for p in model.parameters()) == 61_805_571
    assert sum(b.numel() for b in model.buffers()) == 48


def test_the_names_and_shapes_of_ddpmpp(built):
    shapes = tiny.sizes(built["cifar10-cond-vp"])
    assert len(shapes) == 427
    expected = {
        "model.map_label.weight": (128, 10),
        "model.map_label.bias": (128,),
        "model.map_augment.weight": (128, 9),
        "model.map_layer0.weight": (512, 128),
        "model.map_layer1.bias": (512,),
        "model.enc.32x32_conv.weight": (128, 3, 3, 3),
        "model.enc.32x32_block0.affine.weight": (256, 512),
        "model.enc.32x32_block0.skip.weight": (256, 128, 1, 1),
        "model.enc.16x16_down.conv0.resample_filter": (1, 1, 2, 2),
        "model.enc.16x16_down.skip.resample_filter": (1, 1, 2, 2),
        "model.enc.16x16_down.skip.weight": (256, 256, 1, 1),
        "model.enc.16x16_block3.qkv.weight": (768, 256, 1, 1),
        "model.enc.16x16_block3.norm2.bias": (256,),
        "model.dec.8x8_in0.proj.weight": (256, 256, 1, 1),
        "model.dec.8x8_in1.conv1.weight": (256, 256, 3, 3),
        "model.dec.16x16_block4.qkv.bias": (768,),
        "model.dec.32x32_up.conv0.resample_filter": (1, 1, 2, 2),
        "model.dec.32x32_block4.conv0.weight": (256, 384, 3, 3),
        "model.dec.32x32_aux_norm.weight": (256,),
        "model.dec.32x32_aux_conv.weight": (3, 256, 3, 3),
    }
    assert {name: shapes.get(name) for name in expected} == expected
    # Attention at 16 x 16, in each block of the encoder, in the last of the decoder, and in the middle.
    attending = {name.split(".")[2] for name in shapes if ".qkv." in name}
    assert attending == {*(f"16x16_block{i}" for i in range(5)), "8x8_in0"}
    assert "model.dec.16x16_block3.qkv.weight" not in shapes
    assert "model.map_label.weight" not in tiny.sizes(built["cifar10-uncond-vp"])


def test_the_names_and_shapes_of_ncsnpp(built):
    shapes = tiny.sizes(built["ffhq-ve"])
    expected = {
        "model.map_noise.freqs": (128,),
        "model.map_layer0.weight": (512, 256),
        "model.map_augment.weight": (256, 9),
        "model.enc.32x32_aux_residual.weight": (128, 3, 3, 3),
        "model.enc.16x16_aux_residual.weight": (256, 128, 3, 3),
        "model.enc.8x8_aux_residual.resample_filter": (1, 1, 4, 4),
        "model.dec.64x64_up.skip.resample_filter": (1, 1, 4, 4),
        "model.dec.64x64_aux_conv.bias": (3,),
    }
    assert {name: shapes.get(name) for name in expected} == expected
    assert not [name for name in shapes if "aux_down" in name or "aux_skip" in name or "aux_up" in name]


def test_the_names_and_shapes_of_adm(built):
    shapes = tiny.sizes(built["imagenet-cond-adm"])
    expected = {
        "model.map_label.weight": (768, 1000),
        "model.map_layer0.weight": (768, 192),
        "model.enc.64x64_conv.weight": (192, 3, 3, 3),
        "model.enc.32x32_block0.affine.weight": (768, 768),
        "model.enc.8x8_down.skip.resample_filter": (1, 1, 2, 2),
        "model.enc.8x8_block2.qkv.weight": (2304, 768, 1, 1),
        "model.dec.8x8_block0.conv0.weight": (768, 1536, 3, 3),
        "model.dec.64x64_block3.skip.weight": (192, 384, 1, 1),
        "model.out_norm.weight": (192,),
        "model.out_conv.weight": (3, 192, 3, 3),
    }
    assert {name: shapes.get(name) for name in expected} == expected
    absent = ("model.map_label.bias", "model.map_augment.weight", "model.enc.8x8_down.skip.weight")
    assert not set(absent) & shapes.keys()
    assert built["imagenet-cond-adm"].use_fp16
    heads = {name: layer.heads for name, layer in built["imagenet-cond-adm"].model.dec.items()}
    assert (heads["8x8_in0"], heads["8x8_in1"], heads["16x16_block1"], heads["64x64_block0"]) == (12, 0, 9, 0)


def test_published_networks_take_no_memory_until_their_weights_come(built):
    assert all(tensor.is_meta for network in built.values() for tensor in network.state_dict().values())


def test_the_improved_ddpm_baseline_has_two_outputs_a_channel_and_its_steps():
    network = build("iDDPMPrecond", tiny.PUBLISHED["imagenet-cond-adm"])
    shapes = tiny.sizes(network)
    assert (shapes["model.out_conv.weight"], shapes["u"]) == ((6, 192, 3, 3), (1001,))
    assert sum(p.numel() for p in network.parameters()) == 295_899_267 + conv(192, 3, 3)
