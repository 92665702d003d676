"""Training with EDM's loss: the loss itself, the average, and what a seed decides."""

import copy
import itertools
import math

import pytest
import torch
from torch import nn

from pipeline import training
from pipeline.networks.preconditioning import EDMPrecond
from pipeline.registry import SpecError
from pipeline.training import Average, Draws, Settings, initialise, loss_of, reproducible, train

SHORT = Settings(rows=160, batch=16, warm_up_rows=32)


def tiny(classes=3):
    return EDMPrecond(
        4, 1, classes, model_type="SongUNet", model_channels=16, channel_mult=[1], num_blocks=1, attn_resolutions=[],
        sigma_data=0.6,
    )  # fmt: skip


@pytest.fixture(scope="module")
def pictures():
    """Three classes, each a bright row."""
    labels = torch.arange(24) % 3
    images = torch.full((24, 1, 4, 4), -1.0)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[0, label] = 1.0
    return images, labels


class Answers(nn.Module):
    """A network whose F is always the same."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x, c_noise, labels=None):
        return self.answer.expand_as(x)


def answering(answer):
    network = tiny()
    network.model = Answers(answer)
    return network


def test_the_loss_is_that_of_f_against_what_it_should_have_said(pictures):
    """Karras et al., eq. 8: lambda (D - y)^2 = (F - (y - c_skip x) / c_out)^2, in float64 from the definitions."""
    images, labels = pictures
    answer = torch.randn(1, 4, 4, generator=torch.Generator().manual_seed(1))
    draws = Draws.of(Settings(), tuple(images.shape), torch.Generator().manual_seed(0))
    found = loss_of(answering(answer), images, labels, draws)
    sigma, data = draws.sigma.double().reshape(-1, 1, 1, 1), 0.6
    noisy = images.double() + sigma * draws.noise.double()
    skip, out = data**2 / (sigma**2 + data**2), sigma * data / (sigma**2 + data**2).sqrt()
    expected = (answer.double() - (images.double() - skip * noisy) / out).square().flatten(1).mean(1)
    torch.testing.assert_close(found.double(), expected, rtol=2e-4, atol=1e-6)


def test_sigmas_are_log_normal_and_some_labels_are_dropped():
    settings = Settings(p_mean=-0.7, p_std=0.9, label_dropout=0.25)
    draws = Draws.of(settings, (100_000, 1, 1, 1), torch.Generator().manual_seed(0))
    logs = draws.sigma.log()
    assert float(logs.mean()) == pytest.approx(-0.7, abs=0.015)
    assert float(logs.std()) == pytest.approx(0.9, abs=0.015)
    assert float(draws.told.double().mean()) == pytest.approx(0.75, abs=0.01)
    assert float(draws.noise.std()) == pytest.approx(1, abs=0.01)


def test_a_class_that_is_not_told_changes_nothing(pictures):
    images, labels = pictures
    network = tiny()
    initialise(network, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.05)
    draws = Draws.of(Settings(label_dropout=0.5), tuple(images.shape), torch.Generator().manual_seed(2))
    one, other = (loss_of(network, images, kinds, draws) for kinds in (labels, (labels + 1) % 3))
    assert 0 < int(draws.told.sum()) < 24
    assert torch.equal(one == other, ~draws.told)


def test_a_network_begins_by_answering_nothing(pictures):
    images, _ = pictures
    network = tiny()
    initialise(network, torch.Generator().manual_seed(0))
    raw = network.raw(images, torch.zeros(24), torch.zeros(24, 3)).detach()
    assert 0 < float(raw.abs().max()) < 1e-3
    for name, weight in network.state_dict().items():
        if name.endswith("block0.conv0.weight"):
            fan = 9 * (weight.shape[0] + weight.shape[1])
            assert float(weight.abs().max()) == pytest.approx(math.sqrt(6 / fan), rel=0.01)
            assert float(weight.square().mean()) == pytest.approx(2 / fan, rel=0.1)


def test_the_rate_climbs_and_falls_as_a_cosine_to_nothing():
    settings = Settings(rows=16_000, batch=16, warm_up_rows=1600, rate=1.0)
    rates = [settings.rate_at(step) for step in range(settings.steps)]
    assert rates[:3] == pytest.approx([0.01, 0.02, 0.03], rel=1e-3)
    assert max(rates) == rates[99] == pytest.approx(0.976, abs=1e-3)
    assert rates[500] == pytest.approx(0.5)
    assert rates[-1] < 1e-5
    assert all(before > after for before, after in itertools.pairwise(rates[99:]))


def test_the_average_is_half_way_after_its_half_life():
    network = tiny()
    average = Average(network, half_life=1000)
    start = copy.deepcopy(average.weights)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(1.0)
    for k in range(10):
        average.update(100, 1_000_000 + 100 * k)
    for name, _ in network.named_parameters():
        torch.testing.assert_close(average.weights[name], start[name] + 0.5, rtol=0, atol=1e-5)
        assert torch.equal(average.network().state_dict()[name], average.weights[name])


def test_the_average_forgets_its_start_while_little_is_shown():
    """After a batch of all rows so far the half-life is a twentieth of them: 2^-20 of the start is left."""
    network = tiny()
    average = Average(network, half_life=1000)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(1.0)
    average.update(16, 16)
    for name, weight in network.named_parameters():
        torch.testing.assert_close(average.weights[name], weight.detach(), rtol=0, atol=2e-6)


def trained(pictures, seed=0, settings=SHORT, tell=lambda batch, average: None):
    network = tiny()
    with reproducible(1, "cpu"):
        return train(network, *pictures, settings, seed=seed, tell=tell), network


def test_the_loss_falls_and_the_average_lags_behind(pictures):
    told = []
    settings = Settings(rows=1200, batch=24, warm_up_rows=120, rate=1e-2)
    average, network = trained(pictures, settings=settings, tell=lambda batch, average: told.append(batch))
    assert [batch.rows for batch in told] == list(range(24, 1201, 24))
    losses = [batch.loss for batch in told]
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
    assert any(not torch.equal(average.weights[name], weight) for name, weight in network.named_parameters())


def test_a_seed_decides_every_bit_and_no_global_generator_moves(pictures):
    torch.manual_seed(3)
    first, _ = trained(pictures)
    torch.manual_seed(4)
    network = tiny()
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    with reproducible(1, "cpu"):
        again = train(network, *pictures, SHORT)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()
    other, _ = trained(pictures, seed=1)
    assert all(torch.equal(weight, again.weights[name]) for name, weight in first.weights.items())
    assert any(not torch.equal(weight, other.weights[name]) for name, weight in first.weights.items())


def test_every_image_is_shown_once_before_any_is_shown_again(pictures, monkeypatch):
    shown = []

    def spied(network, images, labels, draws):
        shown.extend(labels.tolist())
        return loss_of(network, images, labels % 3, draws)

    monkeypatch.setattr(training, "loss_of", spied)
    train(tiny(), pictures[0], torch.arange(24), Settings(rows=48, batch=16))
    assert sorted(shown[:24]) == sorted(shown[24:]) == list(range(24))
    assert shown[:24] != shown[24:]


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"rows": 5}, "rows"),
        ({"batch": 0}, "batch"),
        ({"rate": 0.0}, "rate"),
        ({"label_dropout": 1.0}, "label_dropout"),
        ({"p_std": -1.0}, "p_std"),
        ({"ema_rows": 0}, "ema_rows"),
    ],
)
def test_a_setting_out_of_range_is_named(changed, key):
    with pytest.raises(SpecError) as caught:
        Settings(**changed)
    assert caught.value.path == key
