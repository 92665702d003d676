"""The documents' commands run as they stand, in a folder where the study of the README is a small one."""

import dataclasses
import re
import shlex
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
import yaml

from pipeline.methods import METHODS
from pipeline.sampler import trace
from pipeline.schedules import SCHEDULES
from pipeline.solvers import SOLVERS
from tests.cli.console import COMMANDS, command

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
CONSOLE = Path(sys.executable).parent / "sigmasearch"
# CI runs these targets, or they would not end by themselves.
ELSEWHERE = ("make test", "make slow", "make check", "make bench", "make ui", "pip ")
SMALL = {
    "trials": 4,
    "images": 80,
    "shard_images": 20,
    "workers": 0,
    "budgets": [3, 6, 16],
    "rungs": {"teacher": 40},
    "baselines": ["ddim", "unipc_3"],
    "floor": {"solver": {"name": "heun"}, "schedule": {"name": "edm", "num_steps": 12}},
}


def commands(document):
    for block in re.findall(r"```sh\n(.*?)```", document.read_text(), flags=re.DOTALL):
        for line in block.splitlines():
            shown = line.split("  #")[0].strip()
            if shown and not shown.startswith("#"):
                yield shown


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reader")
    (folder / "search_spaces").mkdir()
    for path in (ROOT / "search_spaces").glob("*.yaml"):
        study = yaml.safe_load(path.read_text()) | SMALL
        # The published points have 12 settings; four trials are enough to have a front.
        study["published"] = study.get("published", [])[:1]
        (folder / "search_spaces" / path.name).write_text(yaml.safe_dump(study))
    for document in DOCUMENTS:
        for name, text in files(document):
            (folder / name).write_text(text)
    return folder


def files(document):
    """The blocks of a document that begin with the name of a file: the reader writes them."""
    for block in re.findall(r"```(?:python|yaml)\n(.*?)```", document.read_text(), flags=re.DOTALL):
        named = re.match(r"# (\w+\.(?:py|yaml))\n", block)
        if named:
            yield named[1], block


def recipe(target):
    """What a make target runs once everything is installed."""
    (line,) = re.findall(rf"^{target}: \$\(STAMP\)\n\t(.*)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    return line.replace("$(BIN)/", "")


def arguments_of(command):
    words = shlex.split(recipe(command.split()[1]) if command.startswith("make ") else command)
    assert words[0] == "sigmasearch", f"no reader could run {command!r}"
    return words[1:]


@pytest.mark.slow
def test_every_sigmasearch_command_of_the_documents_runs_in_order(folder, monkeypatch):
    """The first as a reader would; the others in this process, which saves four seconds of imports each."""
    monkeypatch.chdir(folder)
    ran = []
    for document in DOCUMENTS:
        for line in commands(document):
            if line.startswith(ELSEWHERE):
                continue
            if ran:
                done = command(*arguments_of(line))
                assert done.status == 0, f"{document.name}: {line}\n{done.out}\n{done.err}"
            else:
                first = subprocess.run([CONSOLE, *arguments_of(line)], capture_output=True, text=True, timeout=240)
                assert first.returncode == 0, first.stderr
            ran.append(line)
    assert ran[0] == "make demo"
    assert {line.split()[1] for line in ran} >= set(COMMANDS) - {
        "ui",
        "train",
        "convert",
        "embed",
    }  # the last two want a checkpoint and a pipeline


def test_the_baseline_of_the_guide_is_what_it_says(monkeypatch):
    METHODS.names(), SOLVERS.names()  # the shipped ones first: they are found once
    monkeypatch.setattr(METHODS, "_methods", dict(METHODS._methods))
    monkeypatch.setattr(SOLVERS, "_classes", dict(SOLVERS._classes))
    (block,) = re.findall(
        r"```python\n(# baselines/.*?)```", (ROOT / "docs" / "your-baseline.md").read_text(), re.DOTALL
    )
    module = types.ModuleType("ab2")
    monkeypatch.setitem(sys.modules, "ab2", module)
    exec(block, vars(module))
    solver, schedule = METHODS.get("ab2").pair(6)
    sigmas = SCHEDULES.build(schedule | {"final": "zero"}).sigmas()
    own, known = (trace(SOLVERS.build(spec), sigmas) for spec in (solver, {"name": "lms", "order": 2}))
    x = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    drawn = [plan.run(lambda x, sigma: torch.tanh(x) / (1 + sigma), x) for plan in (own, known)]
    assert torch.allclose(*drawn, rtol=1e-12, atol=1e-12)
    assert len(own) == 6


def test_every_make_target_of_the_documents_exists():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = {target for document in DOCUMENTS for target in re.findall(r"`?make ([a-z]+)", document.read_text())}
    assert {"demo", "test"} <= named
    assert named <= targets


@pytest.mark.parametrize("registry", [SOLVERS, SCHEDULES], ids=lambda registry: registry.kind)
def test_the_guide_to_methods_names_every_one(registry):
    text = (ROOT / "docs" / "methods.md").read_text()
    assert [name for name in registry.names() if f"`{name}`" not in text] == []


def test_the_guide_to_methods_names_every_field_of_a_solver():
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", (ROOT / "docs" / "methods.md").read_text(), flags=re.MULTILINE))
    for name in SOLVERS.names():
        fields = {field.name for field in dataclasses.fields(SOLVERS.get(name))}
        assert fields == set(re.findall(r"`(\w+)`", rows[name])), name


def test_every_file_that_the_documents_link_to_exists():
    for document in DOCUMENTS:
        for link in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (document.parent / link).exists(), f"{document.name} links to {link}"
