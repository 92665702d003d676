"""Where tensors are computed: the devices here, those without float64, and how each says that memory is short."""

from __future__ import annotations

import gc
import re

import torch
from torch import Tensor

from pipeline.registry import SpecError

AUTO, CPU = "auto", "cpu"
FORMS = "auto, cpu, cuda, cuda:N or mps"
# Metal has no float64. What has to be exact is brought to the CPU from there.
WITHOUT_FLOAT64 = ("mps",)
# What torch's allocators and libraries say where they do not raise `torch.OutOfMemoryError`: on the CPU, on MPS, and
# when cuBLAS or cuDNN wants a workspace.
SHORT_OF_MEMORY = re.compile(
    r"can't allocate memory|not enough memory|out of memory|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED"
)


def chosen(name: str, *, network: bool = True) -> str:
    """The device of that name; for "auto" CUDA, then MPS, then the CPU, where a closed form (no `network`) stays.

    Raises:
        SpecError: no such device here.
    """
    if name == AUTO:
        found = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return found if network else "cpu"
    kind, _, number = name.partition(":")
    if not re.fullmatch(r"cpu|mps|cuda(:(0|[1-9][0-9]{0,3}))?", name):
        raise SpecError("is no device", path="device", given=name, allowed=FORMS)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    here = ["cpu", *(["cuda"] if count else []), *(f"cuda:{i}" for i in range(count))]
    here += ["mps"] if torch.backends.mps.is_available() else []
    if kind not in here or (number and name not in here):
        raise SpecError("is not here", path="device", given=name, allowed=[AUTO, *here])
    return name


def has_float64(device: str | torch.device) -> bool:
    """Whether the device computes in float64."""
    return torch.device(device).type not in WITHOUT_FLOAT64


def in_float64(tensor: Tensor) -> Tensor:
    """The tensor in float64: where it lies, or on the CPU where its device has none."""
    return (tensor if has_float64(tensor.device) else tensor.cpu()).double()


def out_of_memory(error: BaseException) -> bool:
    """Whether this is memory that ran out, on whatever device, or was raised while that was being told."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, MemoryError | torch.OutOfMemoryError):
            return True
        if isinstance(seen, RuntimeError) and SHORT_OF_MEMORY.search(str(seen)):
            return True
        # A CUDA graph whose capture ran out of memory ends in an error about the capture.
        seen = seen.__cause__ or seen.__context__
    return False


def release(device: str | torch.device) -> None:
    """Give back what torch keeps for later, so that a smaller batch finds all that is free."""
    gc.collect()
    kind = torch.device(device).type
    if kind == "cuda":
        torch.cuda.empty_cache()
    elif kind == "mps":
        torch.mps.empty_cache()
