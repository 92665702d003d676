"""The command that reads prompts with a pipeline's text encoders, where transformers is installed: embed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from pipeline.registry import SpecError
from pipeline.terminal import AsJson, writing

# Heavy imports are made inside the command, as in `pipeline.cli`.
app = typer.Typer()


@app.command()
def embed(
    source: Annotated[str, typer.Argument(help="A diffusers pipeline's folder, or its id on the hub.")],
    prompts: Annotated[Path, typer.Argument(help="A file of prompts, UTF-8, one a line.")],
    out: Annotated[Path, typer.Option(help="The safetensors file to write.")] = Path("embeddings.safetensors"),
    negative_prompt: Annotated[
        str | None, typer.Option(help="What guidance leads away from; the pipeline's own default without it.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Of the hub's id: a branch, a tag or a commit.")] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"], typer.Option(help="What the encoders run in, and what is written.")
    ] = "float32",
    as_json: AsJson = False,
) -> None:
    """Write what a pipeline's text encoders make of prompts, for the field `embeddings` of a card's model.

    Needs the package transformers here; who uses the file needs neither it nor the encoders. They run on the first
    CUDA device where there is one.

    Example: `sigmasearch embed pipelines/sdxl prompts.txt --out prompts.safetensors --dtype float16`
    """
    import torch
    from safetensors.torch import save

    from pipeline.models.diffusers import folder, prompt_file
    from pipeline.whole_file import write_whole

    if out.is_dir():
        raise SpecError("is a folder", path="--out", given=str(out), allowed="the name of a file")
    at = folder.locate(source, revision, texts=True)
    texts = prompt_file.Texts.found(at, folder.read(at / "model_index.json"), prompts, negative_prompt)
    _ = texts.weights  # damage is told before anything is loaded
    made = texts.embeddings(dtype, "cuda" if torch.cuda.is_available() else "cpu")
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, save(made))
    shapes = {name: list(value.shape) for name, value in made.items()}
    if as_json:
        print(json.dumps({"file": str(out), "prompts": len(texts.prompts), "tensors": shapes}, indent=1))
        return
    print(f"{out}: {len(texts.prompts)} prompts")
    for name, shape in shapes.items():
        print(f"  {name} {shape}")
