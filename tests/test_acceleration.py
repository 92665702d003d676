"""How a network is run: the same D to the precision that was asked for, and one line for what cannot be."""

from __future__ import annotations

import copy
import json
import pickle
import shutil

import pytest
import torch
from torch import nn

from pipeline import cuda_graphs
from pipeline.acceleration import Acceleration, Accelerator
from pipeline.benchmarks import load
from pipeline.cuda_graphs import CudaGraphs
from pipeline.models import MODELS
from pipeline.models.edm import EdmDenoiser
from pipeline.models.guided import GuidedDenoiser
from pipeline.noise import noise
from pipeline.plan import Plan
from pipeline.registry import SpecError, build_dataclass
from pipeline.sampler import trace
from pipeline.schedules import EDM
from pipeline.solvers import SOLVERS
from tests.networks import tiny

HALVES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def accelerated(denoise, **settings):
    return Accelerator(Acceleration(**settings))(denoise)


def heun(steps=4) -> Plan:
    return trace(SOLVERS.build({"name": "heun"}), EDM(steps).sigmas().tolist())


class Seen(nn.Module):
    """A convolution that remembers what it was given."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(3, 3, 3, padding=1)
        self.inputs, self.outputs = [], []

    def forward(self, x):
        self.inputs.append(x)
        answer = self.convolution(x)
        self.outputs.append(answer)
        return answer


class Around:
    """D = x + F(x), of a module that does not follow the dtype of x."""

    rows_per_image = 2

    def __init__(self, network, raw=None):
        self.network, self._raw = network, raw or network

    def raw(self, network):
        return network

    def through(self, raw):
        return Around(self.network, raw)

    def __call__(self, x, sigma):
        with torch.no_grad():
            return x + self._raw(x.float()).to(x.dtype)


# Settings --------------------------------------------------------------------------------------------------------


def test_nothing_asked_for_is_nothing_in_a_record_and_the_denoiser_itself():
    assert Acceleration().to_json() == {}
    denoise = EdmDenoiser(tiny.network())
    assert accelerated(denoise) is denoise
    assert accelerated(denoise, state="float64") is denoise


def test_settings_survive_json_and_only_what_changes_numbers_tells_studies_apart():
    asked = Acceleration("bfloat16", "float64", channels_last=True, compile=True, cuda_graphs=True)
    assert build_dataclass(Acceleration, json.loads(json.dumps(asked.to_json()))) == asked
    assert asked.changing == {"autocast": "bfloat16", "state": "float64", "channels_last": True, "compile": True}
    assert asked.portable == {"autocast": "bfloat16", "state": "float64"}
    assert Acceleration(cuda_graphs=True).changing == {}
    assert (asked.state_dtype, Acceleration().state_dtype) == (torch.float64, torch.float32)


@pytest.mark.parametrize(
    ("settings", "device", "says"),
    [
        ({"autocast": "bfloat16"}, "cpu", "autocast: kde is a closed form: no network to run so, given 'bfloat16'; "
                                          "allowed: none"),
        ({"channels_last": True}, "cpu", "channels_last: kde is a closed form"),
        ({"compile": True}, "cpu", "compile: kde is a closed form"),
        ({}, "mps", "device: kde is a closed form in float64, which mps does not have, given 'mps'; "
                    "allowed: cpu or cuda"),
    ],
)  # fmt: skip
def test_a_closed_form_has_no_network_to_run_otherwise(settings, device, says):
    with pytest.raises(SpecError) as told:
        Acceleration(**settings).check(load("digits-kde").model, device)
    assert str(told.value).startswith(says)


class Network:
    registry_name = "edm"
    accelerations = ("autocast", "channels_last", "compile", "cuda_graphs")


class Half(Network):
    dtype = "float16"


class Own:
    registry_name = "python"
    accelerations = ("autocast",)
    unaccelerated = "is the function's own to do"


@pytest.mark.parametrize(
    ("model", "settings", "device", "says"),
    [
        (Network(), {"cuda_graphs": True}, "cpu", "cuda_graphs: there are none on cpu, given True; allowed: false, or"),
        (Network(), {"state": "float64"}, "mps", "state: mps has no float64, given 'float64'; allowed: float32"),
        (Half(), {"autocast": "bfloat16"}, "cpu", "autocast: the network's weights are float16 already"),
        (Own(), {"compile": True}, "cpu", "compile: is the function's own to do, given True; allowed: false"),
    ],
)
def test_what_a_network_or_device_cannot_do_is_said_in_a_line(model, settings, device, says):
    with pytest.raises(SpecError) as told:
        Acceleration(**settings).check(model, device)
    assert str(told.value).startswith(says)
    assert "\n" not in str(told.value)


def test_what_they_can_do_is_let_be():
    Acceleration("float16", channels_last=True, compile=True, cuda_graphs=True).check(Network(), "cuda:1")
    Acceleration("bfloat16").check(Own(), "mps")
    Acceleration().check(Half(), "cpu")
    Acceleration(state="float64").check(load("digits-kde").model, "cpu")


# Half precision --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("autocast", ["bfloat16", "float16"])
def test_autocast_computes_the_network_alone_in_half(autocast):
    network = Seen()
    x = tiny.images(4)
    exact = Around(network)(x, 1.0)
    denoised = accelerated(Around(network), autocast=autocast)(x, 1.0)
    assert [t.dtype for t in network.inputs] == [torch.float32] * 2
    assert [t.dtype for t in network.outputs] == [torch.float32, HALVES[autocast]]
    assert denoised.dtype == torch.float64
    gap = (denoised - exact).abs().max()
    # Half a unit in the last place of products of size 1, summed over 27: far above float32's, far below a wrong one.
    assert 1e-6 < gap < 8 * torch.finfo(HALVES[autocast]).eps


@pytest.mark.parametrize("name", list(tiny.ALL))
@pytest.mark.parametrize("autocast", ["bfloat16", "float16"])
def test_a_checkpoints_network_is_as_near_as_its_precision(name, autocast):
    kind = "Precond" if name == "edm2" else "EDMPrecond"
    labels = [1, 2] if tiny.ALL[name].get("label_dim") else None
    denoise = EdmDenoiser(tiny.network(name, kind), labels)
    fast = accelerated(denoise, autocast=autocast)
    for sigma in (0.01, 1.0, 50.0):
        x = (1 + sigma) * tiny.images(2)
        exact, found = denoise(x, sigma), fast(x, sigma)
        assert found.dtype == torch.float64
        # D = c_skip x + c_out F: what half precision blurs is F alone, of size c_out = sigma / 2 / sqrt(sigma^2 + 1/4).
        gap = (found - exact).std() / (sigma * 0.5 / (sigma**2 + 0.25) ** 0.5)
        assert 0 < gap < 8 * torch.finfo(HALVES[autocast]).eps


def test_a_guide_is_run_as_what_it_guides_is():
    denoise, guide = EdmDenoiser(tiny.network()), EdmDenoiser(tiny.network("ddpmpp", "VPPrecond"))
    fast, x = accelerated(GuidedDenoiser(denoise, guide, 1.5), autocast="bfloat16"), tiny.images(3)
    main, away = (accelerated(each, autocast="bfloat16")(x, 1.0) for each in (denoise, guide))
    assert fast.rows_per_image == 2
    assert torch.equal(fast(x, 1.0), away + 1.5 * (main - away))
    assert not torch.equal(away, guide(x, 1.0))


@pytest.mark.parametrize("autocast", ["bfloat16", "float16"])
def test_the_networks_two_rows_of_an_image_are_run_so(autocast):
    denoise = MODELS.build({"name": "unet", "guidance": 1.25}).denoiser_for(range(8))
    fast, x = accelerated(denoise, autocast=autocast, channels_last=True), noise(range(8), (1, 8, 8))
    exact = denoise(x, 1.0)
    gap = (fast(x, 1.0) - exact).abs().max() / exact.abs().max()
    assert fast.rows_per_image == 2
    assert 0 < gap < 8 * torch.finfo(getattr(torch, autocast)).eps


def test_the_published_float16_is_not_added_to_what_is_asked_for(monkeypatch):
    denoise = EdmDenoiser(tiny.network(), half=True)
    assert denoise.half
    assert not accelerated(denoise, autocast="bfloat16").half
    assert denoise.half  # and it stays what it was


def test_a_plan_in_bfloat16_ends_near_the_same_images():
    denoise = EdmDenoiser(tiny.network())
    start = tiny.images(4).float()
    exact = heun().run(denoise, start)
    gap = heun().run(accelerated(denoise, autocast="bfloat16"), start) - exact
    assert 0 < gap.std() / exact.std() < 0.02


def test_float16_that_overflows_names_sigma_and_the_way_out():
    network = tiny.network()
    network.model.dec["8x8_aux_conv"].bias.fill_(1e5)
    x = tiny.images()
    assert accelerated(EdmDenoiser(network), autocast="bfloat16")(x, 1.0).isfinite().all()
    fast = accelerated(EdmDenoiser(network), autocast="float16")
    with pytest.raises(SpecError) as told:
        fast(x, 1.0)
    assert str(told.value) == ("autocast: float16 overflowed at sigma 1, given 'float16'; "
                               "allowed: bfloat16, whose range is float32's, or none")  # fmt: skip
    # What is not finite already is the sampler's to tell.
    assert not fast(x * torch.inf, 1.0).isfinite().all()


def test_a_function_of_ones_own_is_cast_as_a_whole():
    weight = torch.randn((192, 192), generator=torch.Generator().manual_seed(0)) / 192**0.5
    seen = []

    def own(x, sigma):
        product = x.flatten(1).float() @ weight
        seen.append(product.dtype)
        return product.reshape(x.shape)

    own.rows_per_image = 2
    fast = accelerated(own, autocast="bfloat16")
    x = tiny.images(2)
    assert fast(x, 1.0).dtype == torch.float64
    assert seen == [torch.bfloat16]
    assert fast.rows_per_image == 2
    assert not torch.is_autocast_enabled("cpu")


# Channels last, and what is kept -----------------------------------------------------------------------------------


def test_channels_last_reaches_the_convolutions_and_leaves_the_network_as_it_was():
    network = Seen()
    strides = network.convolution.weight.stride()
    denoise, x = Around(network), tiny.images(4)
    accelerator = Accelerator(Acceleration(channels_last=True))
    fast = accelerator(denoise)
    found = fast(x, 1.0)
    torch.testing.assert_close(found, denoise(x, 1.0), rtol=1e-6, atol=1e-6)
    assert found.is_contiguous()
    assert network.convolution.weight.stride() == strides
    (_, raw) = next(iter(accelerator._made.values()))
    inner = raw.args[0]
    assert inner is not network
    assert inner.convolution.weight.is_contiguous(memory_format=torch.channels_last)
    assert inner.inputs[-1].is_contiguous(memory_format=torch.channels_last)


def test_one_network_is_made_ready_once_and_another_anew():
    accelerator, network = Accelerator(Acceleration(channels_last=True)), Seen()
    first, second = accelerator(Around(network)), accelerator(Around(network))
    assert first._raw is second._raw
    assert accelerator(Around(Seen()))._raw is not first._raw
    assert first.rows_per_image == 2


def test_an_accelerator_travels_without_what_it_made():
    accelerator = Accelerator(Acceleration(channels_last=True))
    accelerator(Around(Seen()))
    other = pickle.loads(pickle.dumps(accelerator))
    assert other.settings == accelerator.settings
    assert not other._made


# Compiling -------------------------------------------------------------------------------------------------------


class Plain(nn.Module):
    """As little as has something to fuse: a network of the published sizes compiles for minutes on one processor."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return nn.functional.silu(self.convolution(x))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
def test_a_compiled_network_is_the_same_to_rounding_whatever_the_batch(monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")
    denoise = Around(Plain())
    fast = accelerated(denoise, compile=True)
    for count in (2, 3, 4):
        x = tiny.images(count)
        torch.testing.assert_close(fast(x, 0.7), denoise(x, 0.7), rtol=1e-5, atol=1e-5)


def test_a_compiler_that_fails_is_one_line(monkeypatch):
    failure = type("InvalidCxxCompiler", (RuntimeError,), {"__module__": "torch._inductor.exc"})

    def compiled(raw):
        def call(*given):
            raise failure("No working C++ compiler found\nin torch._inductor.config.cpp.cxx")

        return call

    monkeypatch.setattr(torch, "compile", compiled)
    with pytest.raises(SpecError, match=r"^compile: cannot be done here \(No working C\+\+ compiler found in") as told:
        accelerated(Around(Seen()), compile=True)(tiny.images(), 1.0)
    assert "\n" not in str(told.value)


def test_an_error_of_the_network_itself_is_no_mistake_of_who_compiles(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda raw: raw)
    with pytest.raises(RuntimeError, match="expected input"):
        accelerated(Around(Seen()), compile=True)(tiny.images()[:, :2], 1.0)


# CUDA graphs, by a fake of what they use -------------------------------------------------------------------------


class FakeGraph:
    """Replays what was run while it was captured, on the same tensors."""

    current = None

    def __init__(self):
        self.launches, self.replayed = [], 0

    def replay(self):
        self.replayed += 1
        for launch in self.launches:
            launch()


@pytest.fixture
def fake_cuda(monkeypatch):
    made = []

    class Context:
        def __init__(self, graph=None, pool=None):
            self.graph = graph
            if graph is not None:
                assert pool == "pool"
                made.append(graph)

        def __enter__(self):
            FakeGraph.current = self.graph

        def __exit__(self, *error):
            FakeGraph.current = None

    class Stream:
        def wait_stream(self, other):
            pass

    surface = {"Stream": Stream, "current_stream": Stream, "stream": lambda stream: Context(), "CUDAGraph": FakeGraph}
    for name, value in (surface | {"graph": Context, "graph_pool_handle": lambda: "pool"}).items():
        monkeypatch.setattr(torch.cuda, name, value)
    return made


def doubled(calls):
    """2 x + y, in the way of a kernel: it writes to the memory that it was launched with."""

    def function(x, more):
        calls.append(x.shape)
        output = torch.empty_like(x)

        def launch():
            output.copy_(2 * x + more["y"])

        launch()
        if FakeGraph.current is not None:
            FakeGraph.current.launches.append(launch)
        return output

    return function


def test_a_graph_is_captured_once_a_shape_and_replayed_on_what_is_given(fake_cuda):
    calls = []
    fast = CudaGraphs(doubled(calls))
    kept = []
    for i in range(3):
        x, y = torch.full((4, 2), float(i)), torch.full((4, 2), 10.0 * i)
        kept.append(fast(x, {"y": y}))
    # The caller's own: a later replay does not write over an earlier answer.
    assert [answer.unique().tolist() for answer in kept] == [[0.0], [12.0], [24.0]]
    assert len(fake_cuda) == 1
    assert len(calls) == cuda_graphs.WARM_UP + 1
    assert fast(torch.ones(3, 2), {"y": torch.ones(3, 2)}).unique().tolist() == [3.0]
    assert len(fake_cuda) == 2
    assert fast(torch.ones(4, 2), {"y": torch.ones(4, 2)}).unique().tolist() == [3.0]
    assert len(fake_cuda) == 2


def test_a_graph_leaves_what_it_is_given_alone(fake_cuda):
    fast = CudaGraphs(doubled([]))
    x, y = torch.ones(2), torch.ones(2)
    fast(x, {"y": y})
    fast(torch.zeros(2), {"y": torch.zeros(2)})
    assert (x == 1).all()
    assert (y == 1).all()


def test_only_so_many_shapes_are_kept(fake_cuda):
    fast = CudaGraphs(doubled([]))
    for size in range(1, cuda_graphs.MOST + 3):
        fast(torch.ones(size), {"y": torch.ones(size)})
    assert len(fast._graphs) == cuda_graphs.MOST
    fast(torch.ones(1), {"y": torch.ones(1)})  # the oldest is captured again
    assert len(fake_cuda) == cuda_graphs.MOST + 3


def test_labels_that_are_none_and_dtypes_tell_graphs_apart(fake_cuda):
    def function(x, labels):
        return x + (0 if labels is None else labels)

    fast = CudaGraphs(function)
    for x in (torch.ones(2), torch.ones(2, dtype=torch.float64)):
        for labels in (None, torch.ones(2)):
            fast(x, labels)
    assert len(fake_cuda) == 4


def test_an_accelerator_puts_the_graph_around_all_the_rest(fake_cuda):
    denoise = Around(Seen())
    fast = accelerated(copy.copy(denoise), cuda_graphs=True, channels_last=True)
    assert isinstance(fast._raw, CudaGraphs)
    assert fast(tiny.images(), 1.0).shape == (2, 3, 8, 8)
    assert len(fake_cuda) == 1
