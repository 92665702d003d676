"""DINOv2 is computed from its weights' file alone: the published network, and no code or file fetched."""

import hashlib
import pickle
from unittest import mock

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch.nn import functional

from pipeline import benchmarks
from pipeline.benchmarks import FOLDER
from pipeline.metrics import dinov2
from pipeline.metrics.dinov2 import FILE, VARIABLE, Dinov2, transformer
from pipeline.metrics.distances import Reference, frechet_distance
from pipeline.metrics.features import FEATURES, Extractor
from pipeline.metrics.moments import Moments
from pipeline.metrics.reference_files import StoredReference, write
from pipeline.panel import Bench, Panel
from pipeline.registry import SpecError
from pipeline.scoring import portions
from pipeline.trial import TrialSpec, draw, evaluate, prepare
from tests.cli.console import done, refused
from tests.image_folders import colours, folder_of
from tests.test_inception import Runs

WIDTH, DEPTH, HEADS = 384, 2, 6  # the small network is 12 deep


def made(side=37, seed=0):
    """Random weights by the names of the published files."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    state = {
        "cls_token": normal(1, 1, WIDTH),
        "pos_embed": normal(1, 1 + side**2, WIDTH),
        "mask_token": normal(1, WIDTH),
        "patch_embed.proj.weight": normal(WIDTH, 3, 14, 14) / 14,
        "patch_embed.proj.bias": normal(WIDTH),
        "norm.weight": 1 + 0.1 * normal(WIDTH),
        "norm.bias": normal(WIDTH),
    }
    layers = {"attn.qkv": (3, 1), "attn.proj": (1, 1), "mlp.fc1": (4, 1), "mlp.fc2": (1, 4)}
    for i in range(DEPTH):
        for name in ("norm1", "norm2"):
            state |= {f"blocks.{i}.{name}.weight": 1 + 0.1 * normal(WIDTH), f"blocks.{i}.{name}.bias": normal(WIDTH)}
        for name, (out, into) in layers.items():
            state[f"blocks.{i}.{name}.weight"] = normal(out * WIDTH, into * WIDTH) / (into * WIDTH) ** 0.5
            state[f"blocks.{i}.{name}.bias"] = 0.1 * normal(out * WIDTH)
        for name in ("ls1", "ls2"):
            state[f"blocks.{i}.{name}.gamma"] = normal(WIDTH)
    return state


class Published(torch.nn.Module):
    """The network as the papers write it down: Dosovitskiy et al. (2021), with the LayerScale of Touvron et al."""

    def __init__(self, state):
        super().__init__()
        self.state = state

    def forward(self, x):
        state = self.state

        def linear(t, name):
            return functional.linear(t, state[f"{name}.weight"], state[f"{name}.bias"])

        def norm(t, name):
            return functional.layer_norm(t, (WIDTH,), state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)

        patches = functional.conv2d(x, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=14)
        t = torch.cat([state["cls_token"].expand(len(x), -1, -1), patches.flatten(2).mT], dim=1) + state["pos_embed"]
        for i in range(DEPTH):
            block = f"blocks.{i}"
            qkv = linear(norm(t, f"{block}.norm1"), f"{block}.attn.qkv").unflatten(-1, (3, HEADS, WIDTH // HEADS))
            q, k, v = qkv.permute(2, 0, 3, 1, 4)
            seen = ((q @ k.mT) / (WIDTH // HEADS) ** 0.5).softmax(-1) @ v
            attended = linear(seen.transpose(1, 2).flatten(2), f"{block}.attn.proj")
            t = t + state[f"{block}.ls1.gamma"] * attended
            wide = functional.gelu(linear(norm(t, f"{block}.norm2"), f"{block}.mlp.fc1"))
            t = t + state[f"{block}.ls2.gamma"] * linear(wide, f"{block}.mlp.fc2")
        return norm(t, "norm")[:, 0]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "small.pth"
    torch.save(made(side=16), path)
    return path


@pytest.fixture(autouse=True)
def no_weights_of_this_machine(monkeypatch, tmp_path_factory):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path_factory.mktemp("torch")))


@pytest.fixture(scope="module")
def images():
    return torch.from_numpy(colours(12, size=16)).permute(0, 3, 1, 2).contiguous()


def test_the_network_is_the_published_one():
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    state = made(side=16)
    ours = transformer(dict(state)).eval()
    with torch.no_grad():
        torch.testing.assert_close(ours(x), Published(state)(x), rtol=1e-4, atol=2e-5)


def cubic(distance):
    """The kernel of cubic convolution (Keys, 1981) with a = -0.75."""
    t = abs(distance)
    if t <= 1:
        return 1.25 * t**3 - 2.25 * t**2 + 1
    return -0.75 * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0.0


def test_positions_of_larger_images_are_read_where_dinov2_reads_them():
    """Its offset of 0.1 makes the scale 16.1 / 37: i of the new grid lies at (i + 1/2) 37 / 16.1 - 1/2 of the old."""
    ramp = torch.arange(37.0).expand(37, 37)
    embedding = torch.zeros(1, 1 + 37**2, WIDTH)
    embedding[0, 0] = 7.0
    embedding[0, 1:, 0], embedding[0, 1:, 1] = ramp.flatten(), ramp.T.flatten()
    read = dinov2._positions(embedding)[0]
    assert (read[0] == 7).all()
    places = [(i + 0.5) * 37 / 16.1 - 0.5 for i in range(16)]
    near = [range(int(place // 1) - 1, int(place // 1) + 3) for place in places]
    expected = [sum(min(max(k, 0), 36) * cubic(place - k) for k in ks) for place, ks in zip(places, near, strict=True)]
    columns = read[1:, 0].reshape(16, 16)
    torch.testing.assert_close(columns, torch.tensor(expected).expand(16, 16), rtol=0, atol=1e-4)
    torch.testing.assert_close(read[1:, 1].reshape(16, 16), columns.T)


def test_a_distance_with_it_is_torch_fidelitys(weights, images, tmp_path):
    import torch_fidelity

    other = (images.float() * 0.5 + 60).to(torch.uint8)
    parts = [folder_of(tmp_path / str(i), each.permute(0, 2, 3, 1).numpy()) for i, each in enumerate((images, other))]
    network = Published(torch.load(weights, weights_only=True))
    with mock.patch.object(torch.hub, "load", return_value=network) as hub:
        theirs = torch_fidelity.calculate_metrics(
            input1=str(parts[0]),
            input2=str(parts[1]),
            feature_extractor="dinov2-vit-s-14",
            fid=True,
            cuda=False,
            save_cpu_ram=True,
            cache=False,
            verbose=False,
        )["frechet_inception_distance"]
    hub.assert_called_once_with("facebookresearch/dinov2", "dinov2_vits14")
    extractor = Dinov2(str(weights))
    reference = Reference.of(Moments.of(extractor(other)))
    assert frechet_distance(Moments.of(extractor(images)), reference) == pytest.approx(theirs, rel=1e-5)


def test_nothing_is_fetched_and_one_line_says_what_to_fetch(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "load", lambda *_, **__: pytest.fail("code was fetched"))
    line = refused(tmp_path, "reference", "digits", "--features", "dinov2", "--out", tmp_path / "out.npz")
    assert f"fetch {FILE.url}" in line
    assert str(tmp_path / "hub" / "checkpoints" / FILE.name) in line
    assert VARIABLE in line


def test_it_is_an_extractor_of_grey_images_and_rgb(weights, images):
    extractor = FEATURES.build({"name": "dinov2", "weights": str(weights)})
    assert isinstance(extractor, Extractor)
    assert extractor.hash == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert extractor.dim((1, 8, 8)) == extractor.dim((3, 64, 64)) == WIDTH
    assert torch.equal(extractor(images[:2, :1]), extractor(images[:2, :1].repeat(1, 3, 1, 1)))
    with pytest.raises(SpecError, match="grey images or RGB"):
        extractor.dim((4, 8, 8))
    with pytest.raises(TypeError, match="quantise"):
        extractor(images.float())


def test_safetensors_are_the_same_and_it_travels_without_its_weights(weights, images, tmp_path):
    save_file(torch.load(weights, weights_only=True), tmp_path / "small.safetensors")
    extractor = Dinov2(str(tmp_path / "small.safetensors"))
    text = pickle.dumps(extractor)
    assert len(text) < 1000
    assert torch.equal(pickle.loads(text)(images[:2]), Dinov2(str(weights))(images[:2]))


@pytest.mark.parametrize(
    "how", ["hostile", "empty", "of another network", "lacks one", "one more", "giant", "registers"]
)
def test_a_wrong_file_is_one_line_and_runs_nothing(weights, tmp_path, how):
    path, mark = tmp_path / "bad.pth", tmp_path / "mark"
    state = torch.load(weights, weights_only=True)
    if how == "hostile":
        state["norm.bias"] = Runs(mark)
    elif how == "of another network":
        state = torch.nn.Linear(2, 3).state_dict()
    elif how == "lacks one":
        del state["blocks.1.attn.qkv.bias"]
    elif how == "one more":
        state["blocks.0.mlp.w12.weight"] = torch.zeros(1)
    elif how == "giant":
        state["cls_token"] = torch.zeros(1, 1, 1536)
    elif how == "registers":
        state["register_tokens"] = torch.zeros(1, 4, WIDTH)
    torch.save(state, path)
    if how == "empty":
        path.write_bytes(b"")
    with pytest.raises(SpecError, match="does not hold the weights of DINOv2") as told:
        Dinov2(str(path))
    assert "\n" not in str(told.value)
    assert str(path) in str(told.value)
    assert not mark.exists()


@pytest.fixture
def card(tmp_path):
    """The digits' card with 16 grey images for a reference."""
    folder_of(tmp_path / "few", colours(16, seed=1)[..., 0])
    content = yaml.safe_load((FOLDER / "digits-kde.yaml").read_text()) | {"reference": "./few"}
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(content))
    return tmp_path / "card.yaml"


def measured(card, metric):
    """FD-DINOv2 of 12 images of a coarse plan, and those images."""
    held, panel = benchmarks.load(card), Panel.of([metric])
    panel.check(held, 12)
    spec = TrialSpec(str(card), {"name": "euler"}, {"name": "edm", "num_steps": 2}, images=12, shard_images=3)
    plan = prepare(spec, held).plan
    (portion,) = portions(panel, evaluate(plan, held, range(12), 3, panel=panel))
    return Bench(held).score(portion)["fd_dinov2"], held.images(
        draw(plan, held.denoiser(range(12)), held.shape, range(12))
    )


def test_fd_dinov2_of_a_trial_is_against_the_cards_images(weights, card):
    score, pixels = measured(card, {"name": "fd_dinov2", "weights": str(weights)})
    extractor = Dinov2(str(weights))
    reference = Reference.of(Moments.of(extractor(torch.from_numpy(colours(16, seed=1)[..., :1]).movedim(3, 1))))
    expected = frechet_distance(Moments.of(extractor(pixels)), reference)
    assert score.value == pytest.approx(expected, rel=1e-6)
    assert (score.error_kind, score.images, score.reference_images) == ("se", 12, 16)
    assert score.error > 0
    assert score.extractor == extractor.hash
    assert score.reference == reference.hash


def test_or_against_a_file_of_its_own(weights, card, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(weights))
    out = card.with_name("dino.npz")
    done("reference", card.with_name("few"), "--features", "dinov2", "--out", out)
    plain, _ = measured(card, "fd_dinov2")
    score, _ = measured(card, {"name": "fd_dinov2", "reference": str(out)})
    assert score.value == pytest.approx(plain.value, rel=1e-9)
    assert (score.reference, score.reference_images) == (plain.reference, 16)


def test_a_reference_of_other_features_is_refused_at_the_start(weights, card):
    rows = torch.randn(20, WIDTH, generator=torch.Generator().manual_seed(0))
    made = Moments.of(rows)
    write(card.with_name("r.npz"), made, StoredReference(Reference.of(made), "inception", "f" * 64, (1, 8, 8)))
    for reference, told in ((card.with_name("r.npz"), "features of another extractor"), ("gone.npz", "cannot be read")):
        metric = {"name": "fd_dinov2", "weights": str(weights), "reference": str(reference)}
        with pytest.raises(SpecError, match=told) as caught:
            Panel.of([metric]).check(benchmarks.load(card), 12)
        assert caught.value.path == "[0].reference"
    with pytest.raises(SpecError, match="fd_dinov2 takes pixels, and gmm has none"):
        Panel.of([{"name": "fd_dinov2", "weights": str(weights)}]).check(benchmarks.load("gmm"), 12)
