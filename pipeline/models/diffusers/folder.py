"""The files of a diffusers pipeline: where they lie, and that they are what they should be. Nothing in them is run."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from pipeline.registry import SpecError

NAME = "diffusion_pytorch_model"
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
LONGEST_JSON = 2**24
HUB_ID = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"
# All of a pipeline but its text encoders, and weights in one precision and one format alone.
FETCHED = ["model_index.json", "*config.json", f"*{NAME}.safetensors", f"*{NAME}-*-of-*.safetensors",
           f"*{NAME}.safetensors.index.json"]  # fmt: skip
FETCHED_NOT = ["safety_checker*", "feature_extractor*", "image_encoder*"]
TEXT_PARTS = ["text_encoder*", "tokenizer*"]
TEXT_NAME = "model"
FETCHED_TEXTS = [f"text_encoder*/{TEXT_NAME}.safetensors", f"text_encoder*/{TEXT_NAME}-*-of-*.safetensors",
                 f"text_encoder*/{TEXT_NAME}.safetensors.index.json", "tokenizer*/*.json", "tokenizer*/*.txt",
                 "tokenizer*/*.model"]  # fmt: skip


def locate(source: str, revision: str | None, *, texts: bool = False) -> Path:
    """The pipeline's folder: `source` itself, or the hub's by that id, from its cache if it is there.

    `texts`: with its text encoders and tokenizers.

    Raises:
        SpecError: it is not here and cannot be fetched; says what to fetch, and where to.
    """
    folder = Path(os.path.expanduser(source))
    if folder.is_dir():
        return folder
    if not re.fullmatch(HUB_ID, source):
        allowed = "a folder that holds model_index.json, or an id of the hub, owner/name"
        raise SpecError("there is no such folder", path="source", given=source, allowed=allowed)
    hub = importlib.import_module("huggingface_hub")
    patterns = [*FETCHED, *(FETCHED_TEXTS if texts else [])]
    left = [*FETCHED_NOT, *([] if texts else TEXT_PARTS)]
    wanted: dict[str, Any] = {"revision": revision, "allow_patterns": patterns, "ignore_patterns": left}
    with contextlib.suppress(Exception):  # not in the cache: of many kinds, by release
        held = Path(hub.snapshot_download(source, local_files_only=True, **wanted))
        if _complete(held, texts):
            return held
    try:
        return Path(hub.snapshot_download(source, **wanted))
    except Exception as error:  # no net, no such id, no leave: of many kinds, by release
        said = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]}"
        at = f" --revision {revision}" if revision else ""
        own = source.partition("/")[2]
        files = f"model_index.json, *config.json, *{NAME}*.safetensors" + (
            ", text_encoder*, tokenizer*" if texts else ""
        )
        raise SpecError(
            f"is no folder here, nor whole in the hub's cache, nor to be fetched ({said})",
            path="source", given=source,
            allowed=f"`hf download {source}{at} --local-dir {own}` where there is a net, and that folder, brought "
            f"here, as the source; of its files these are read: {files}",
        ) from None  # fmt: skip


def _complete(folder: Path, texts: bool) -> bool:
    """Whether a download came to its end: the hub's package does not say so of its cache."""
    try:
        index = read(folder / "model_index.json")
        read(part(folder, "scheduler") / "scheduler_config.json")
        for name in index.keys() & {"unet", "transformer", "vae"}:
            read(part(folder, name) / "config.json")
            weights(part(folder, name))
        for name in [key for key in index if texts and key.startswith("text_encoder") and any(index[key])]:
            weights(folder / name, TEXT_NAME)
    except SpecError:
        return False
    return True


def part(folder: Path, name: str) -> Path:
    """The folder of a component. Old pipelines keep their only network beside model_index.json."""
    return folder / name if (folder / name).is_dir() else folder


def read(file: Path) -> dict[str, Any]:
    """A mapping from a JSON file.

    Raises:
        SpecError: there is none, or it is not one.
    """
    try:
        if file.stat().st_size > LONGEST_JSON:
            raise SpecError("is too long for a configuration", path="source", given=str(file))
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError:
        raise SpecError(f"lacks {file.name}", path="source", given=str(file.parent)) from None
    except (ValueError, RecursionError) as error:
        text = f"is not JSON ({' '.join(str(error).split())})"
        raise SpecError(text, path="source", given=str(file)) from None
    if not isinstance(content, dict):
        raise SpecError("is not a mapping", path="source", given=str(file))
    return content


def weights(folder: Path, name: str = NAME) -> list[Path]:
    """The files of a component's weights, of safetensors alone, their headers read. `name` is what they are called.

    Raises:
        SpecError: there are none, only pickled ones, or one is damaged.
    """
    index = folder / f"{name}.safetensors.index.json"
    files = [folder / f"{name}.safetensors"]
    if index.is_file():
        held = read(index).get("weight_map")
        names = sorted(set(map(str, held.values()))) if isinstance(held, dict) else []
        if not names or any(Path(each).name != each for each in names):
            raise SpecError("names no files beside it", path="source", given=str(index))
        files = [folder / each for each in names]
    elif not files[0].is_file() and folder.is_dir() and any(file.suffix in PICKLED for file in folder.iterdir()):
        raise SpecError("has pickled weights alone, which are not read", path="source", given=str(folder),
                        allowed=f"{name}.safetensors, which save_pretrained writes")  # fmt: skip
    for file in files:
        header(file)
    return files


def header(file: Path) -> dict[str, tuple[int, ...]]:
    """The names and shapes of the tensors in a file of safetensors.

    Raises:
        SpecError: there is no such file, or it is damaged.
    """
    try:
        with safe_open(file, framework="pt") as opened:
            return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118  # no mapping
    except OSError:
        raise SpecError(f"lacks {file.name}", path="source", given=str(file.parent)) from None
    except SafetensorError as error:
        text = f"is damaged, or no file of safetensors ({' '.join(str(error).split())})"
        raise SpecError(text, path="source", given=str(file)) from None


def sums(files: list[Path]) -> list[str]:
    """SHA-256 of each file, 64 hex digits."""
    found = []
    for file in files:
        with file.open("rb") as opened:
            found.append(hashlib.file_digest(opened, "sha256").hexdigest())
    return found


def checksum(folder: Path, files: list[Path], each: list[str]) -> str:
    """The one file's own SHA-256; of several, that of what `sha256sum` prints of them, in the order of their paths."""
    if len(files) == 1:
        return each[0]
    lines = sorted((file.relative_to(folder).as_posix(), known) for file, known in zip(files, each, strict=True))
    return hashlib.sha256("".join(f"{known}  {path}\n" for path, known in lines).encode()).hexdigest()


def digest(told: object, each: list[str]) -> str:
    """SHA-256 of plain JSON values and of the `sums` of files."""
    total = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    for known in each:
        total.update(bytes.fromhex(known))
    return total.hexdigest()
