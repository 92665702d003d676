"""What is imported is declared, and what is declared at the top level exists."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
OWN = {"pipeline", "search_spaces", "baselines", "reports", "tests"}
# Where the package's name is not the module's.
MODULES = {
    "pytest-xdist": "xdist",
    "scikit-learn": "sklearn",
    "pyyaml": "yaml",
    "torch-fidelity": "torch_fidelity",
    "pillow": "PIL",
}


def declared(requirements):
    names = {re.split(r"[\[<>=~! ;]", requirement)[0].lower() for requirement in requirements}
    return {MODULES.get(name, name.replace("-", "_")) for name in names}


def imported(folders):
    found = {}
    for folder in folders:
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
                found |= {name.split(".")[0]: path for name in names}
    return {name: path for name, path in found.items() if name not in sys.stdlib_module_names | OWN | {"__future__"}}


def test_the_product_imports_only_what_it_declares():
    allowed = declared(PYPROJECT["project"]["dependencies"])
    used = imported(["pipeline", "search_spaces", "baselines", "reports"])
    assert {name: str(path) for name, path in used.items() if name not in allowed} == {}
    assert allowed - set(used) == set()


def test_the_tests_import_only_what_is_declared():
    groups = PYPROJECT["dependency-groups"]
    allowed = declared(PYPROJECT["project"]["dependencies"]) | declared(groups["test"])
    assert set(imported(["tests"])) <= allowed


def test_every_unusual_bound_says_why():
    text = (ROOT / "pyproject.toml").read_text()
    for line in text[text.index("dependencies = [") : text.index("[project.scripts]")].splitlines():
        if re.search(r'"[^"]*,<', line):
            assert "#" in line, f"an upper bound without its reason: {line.strip()}"


def test_what_the_owner_fixed_is_there():
    for name in ("pipeline", "search_spaces", "baselines", "reports", "tests", "pyproject.toml", "ray_cluster.yaml"):
        assert (ROOT / name).exists()
    assert "Private :: Do Not Upload" in PYPROJECT["project"]["classifiers"]


def test_the_citation_is_of_this_version_and_names_the_three_papers():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = PYPROJECT["project"]
    assert (citation["version"], citation["title"].partition(":")[0]) == (project["version"], project["name"])
    assert (ROOT / "LICENSE").read_text().startswith(citation["license"])
    papers = {held["identifiers"][0]["value"] for held in citation["references"]}
    assert papers == {"arXiv:2602.12624", "arXiv:2506.10177", "arXiv:2405.11326"}
