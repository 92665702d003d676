"""A network's launches, captured once for each shape and replayed: for one that launches longer than it computes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

WARM_UP = 3  # PyTorch's own number, torch.cuda.make_graphed_callables: lazy initialisation and autotuning are over then
MOST = 8  # shapes that are kept; each holds its intermediate tensors


@dataclass(frozen=True)
class _Graph:
    graph: Any
    inputs: list[Tensor]
    output: Tensor


class CudaGraphs:
    """`function` of tensors, and of mappings of them, by CUDA graphs: the same kernels, launched by one call.

    It must be a function of its tensors alone, none of whose values it reads on the host. The answer is the caller's.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self._function = function
        self._graphs: OrderedDict[Any, _Graph] = OrderedDict()
        self._pool: Any = None

    def __call__(self, *given: Any) -> Tensor:
        tensors = list(_tensors(given))
        key = _shape(given)
        held = self._graphs.get(key)
        if held is None:
            held = self._graphs[key] = self._captured(given)
            while len(self._graphs) > MOST:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(key)
        for own, tensor in zip(held.inputs, tensors, strict=True):
            own.copy_(tensor)
        held.graph.replay()
        return held.output.clone()

    def _captured(self, given: tuple[Any, ...]) -> _Graph:
        own = _copied(given)
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's own, untyped
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), torch.no_grad():
            for _ in range(WARM_UP):
                self._function(*own)
        torch.cuda.current_stream().wait_stream(stream)
        if self._pool is None:
            # One for all shapes: whatever outlives a replay, inputs and output, is held outside or never given back.
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool), torch.no_grad():
            output = self._function(*own)
        return _Graph(graph, list(_tensors(own)), output)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for key in sorted(value):
            yield from _tensors(value[key])
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return tuple(_copied(item) for item in value) if isinstance(value, tuple | list) else value


def _shape(value: Any) -> Any:
    """What a graph is for: shapes and dtypes of tensors, and whatever is none."""
    if isinstance(value, Tensor):
        return tuple(value.shape), value.dtype, value.device
    if isinstance(value, dict):
        return tuple((key, _shape(value[key])) for key in sorted(value))
    return tuple(_shape(item) for item in value) if isinstance(value, tuple | list) else value
