"""What `ray job submit --working-dir .` takes along, and where a job keeps what should outlive it."""

import logging
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from pipeline import ray_job
from pipeline.registry import SpecError

ROOT = Path(__file__).parent.parent
LIMIT = 100 * 2**20  # what the job server accepts
CREDENTIALS = (
    *("tls.pem", "tls.key", ".env", ".env.local", ".netrc", ".pgpass", ".aws/credentials", ".ssh/id_ed25519", "id_rsa"),
    *("auth_token", ".ray/auth_token", "credentials.json", "pipeline/.env", "search_spaces/private.key"),
    *("pipeline/models/gcp-credentials.json", ".kube/config", ".mlflow/credentials", "secrets.yaml"),
)
HEAVY = (
    *("runs/digits/study.db", "runs/mlflow.db", "mlflow.db", ".venv/lib/big.py", "venv/lib/big.py", "data/cifar.npz"),
    *(".mypy_cache/3.11/cache.json", ".hypothesis/examples/1", "pipeline/__pycache__/plan.pyc", ".git/config"),
    *("mlartifacts/1/card.json", "mlruns/0/meta.yaml", "weights.pt", "report/table.md", "tests/data/conformance.json"),
)


def uploaded(folder, archive):
    """The names in what Ray's own code would send."""
    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import create_package

    quiet = logging.getLogger("quiet")
    quiet.setLevel(logging.CRITICAL)
    excludes = get_runtime_env_default_excludes()
    create_package(str(folder), archive, include_gitignore=True, excludes=excludes, logger=quiet)
    return set(zipfile.ZipFile(archive).namelist())


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """This project as a user has it: with runs, caches and credentials that git knows nothing of."""
    folder = tmp_path_factory.mktemp("tree")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in [*listed.stdout.split(), ".rayignore"]:
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    for name in (*CREDENTIALS, *HEAVY):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("not for others")
    return folder


def test_an_upload_holds_what_a_search_needs(tree, tmp_path):
    names = uploaded(tree, tmp_path / "sent.zip")
    for package in ("pipeline", "search_spaces", "baselines", "reports"):
        needed = {
            str(path.relative_to(ROOT))
            for path in (ROOT / package).rglob("*")
            if path.suffix in (".py", ".yaml", ".safetensors", ".csv", ".zip")
            and (tree / path.relative_to(ROOT)).exists()
        }
        assert needed
        assert needed <= names
    assert "pyproject.toml" in names


def test_an_upload_holds_neither_credentials_nor_data_nor_results(tree, tmp_path):
    names = uploaded(tree, tmp_path / "sent.zip")
    assert sorted(names & {*CREDENTIALS, *HEAVY}) == []
    assert (tmp_path / "sent.zip").stat().st_size < LIMIT / 10


def test_credentials_stay_without_git(tree, tmp_path):
    """.gitignore may be switched off (RAY_RUNTIME_ENV_IGNORE_GITIGNORE), and says nothing of most of them anyway."""
    ignored = tree / ".gitignore"
    content = ignored.read_text()
    ignored.unlink()
    try:
        assert sorted(uploaded(tree, tmp_path / "sent.zip") & {*CREDENTIALS, *HEAVY}) == []
    finally:
        ignored.write_text(content)


@pytest.fixture
def in_job(tmp_path, monkeypatch):
    """The working directory of a job, and a home."""
    copy = tmp_path / "session_1" / "runtime_resources" / "working_dir_files" / "_ray_pkg_0123456789abcdef"
    home = tmp_path / "home"
    for folder in (copy, home):
        folder.mkdir(parents=True)
    monkeypatch.chdir(copy)
    monkeypatch.setenv("HOME", str(home))
    return copy, home


def test_a_job_knows_its_throw_away_copy(in_job, monkeypatch):
    copy, home = in_job
    assert ray_job.uploaded_copy() == copy
    (copy / "search_spaces").mkdir()
    monkeypatch.chdir(copy / "search_spaces")
    assert ray_job.uploaded_copy() == copy
    monkeypatch.chdir(home)
    assert ray_job.uploaded_copy() is None


def test_outside_of_a_job_a_path_is_what_it_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert ray_job.lasting(Path("runs/small")) == tmp_path / "runs" / "small"
    assert ray_job.lasting(tmp_path / "x") == tmp_path / "x"


def test_in_a_job_a_relative_path_starts_at_home(in_job, tmp_path):
    _, home = in_job
    assert ray_job.lasting(Path("runs/small")) == home / "runs" / "small"
    assert ray_job.lasting(tmp_path / "disk" / "small") == tmp_path / "disk" / "small"


@pytest.mark.parametrize("inside", ["", "runs/small", "../_ray_pkg_0123456789abcdef/runs"])
def test_what_lies_in_the_copy_is_refused(in_job, inside):
    copy, _ = in_job
    with pytest.raises(SpecError, match=r"--run-dir.*thrown away"):
        ray_job.lasting(copy / inside)
    with pytest.raises(SpecError, match=r"--runs.*thrown away"):
        ray_job.lasting(copy / inside, "--runs")
