"""The launcher's file is one that this Ray takes, and opens nothing to the world."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FILE = ROOT / "ray_cluster.yaml"
CLOUD_ONLY = ("provider", "auth", "available_node_types", "head_node_type", "max_workers", "head_setup_commands")


def cloud():
    return yaml.safe_load(FILE.read_text())


def on_premise():
    """The variant of the file's end, with its comment marks off, in the place of what it replaces."""
    variant = "\n".join(re.findall(r"^#= ?(.*)$", FILE.read_text(), re.MULTILINE))
    kept = {key: value for key, value in cloud().items() if key not in CLOUD_ONLY}
    return {**kept, **yaml.safe_load(variant)}


@pytest.fixture(params=[cloud, on_premise], ids=["aws", "local"])
def written(request):
    return request.param()


def ready(config):
    """The file as `ray up` reads it: defaults filled in, then checked against Ray's schema."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    filled = prepare_config(config)
    validate_config(filled)
    return filled


def commands(config):
    return [line for key, lines in config.items() if key.endswith("_commands") for line in lines]


def test_ray_takes_it(written):
    filled = ready(written)
    assert filled["cluster_name"] == "sigmasearch"
    assert filled["max_workers"] >= 2


@pytest.mark.parametrize(
    "spoil",
    [
        {"idle_minutes": 5},
        {"max_workers": -1},
        {"setup_commands": "pip install ."},
        {"available_node_types": {"head": {"resources": {}}}},
        {"head_node_type": "boss"},
    ],
)
def test_the_check_would_notice_a_mistake(spoil):
    from jsonschema import ValidationError

    with pytest.raises((ValidationError, ValueError, TypeError, KeyError)):
        ready({**cloud(), **spoil})


def test_workers_come_when_needed_and_the_head_computes_nothing():
    filled = ready(cloud())
    head, worker = (filled["available_node_types"][name] for name in ("head", "gpu_worker"))
    assert filled["head_node_type"] == "head"
    assert head["resources"]["CPU"] == 0
    assert (worker["min_workers"], worker["max_workers"]) == (0, filled["max_workers"])
    assert worker["resources"]["GPU"] >= 1
    assert filled["idle_timeout_minutes"] <= 15


def test_nothing_of_rays_defaults_runs_that_was_not_chosen(written):
    """An absent list is filled in with Ray's own: another Ray, and a dashboard for everybody."""
    for key in ("setup_commands", "head_setup_commands", "head_start_ray_commands", "worker_start_ray_commands"):
        assert key in written
    filled = ready(written)
    assert not any("wheels" in line or "anaconda" in line for line in commands(filled))


def test_every_node_installs_the_project(written):
    filled = ready(written)
    (mount,) = [remote for remote, local in filled["file_mounts"].items() if local == "."]
    for key in ("head_setup_commands", "worker_setup_commands"):
        assert any(re.search(rf"pip install .*-e {mount}$", line) for line in filled[key])


def test_only_the_tree_is_sent(written):
    excluded = ready(written)["rsync_exclude"]
    assert {".git", ".venv", "runs", "__pycache__"} <= set(excluded)
    patterns = [re.compile(re.escape(entry).replace(r"\*", ".*")) for entry in excluded]
    for line in (ROOT / ".gitignore").read_text().split():
        name = line.strip("/").replace("*", "any")
        assert name.endswith(".egg-info") or any(pattern.fullmatch(name) for pattern in patterns), name


def test_every_ray_needs_the_token_and_reports_no_usage(written):
    filled = ready(written)
    starts = [line for line in commands(filled) if "ray start" in line]
    assert len(starts) == 2
    for line in starts:
        before = line.partition("ray start")[0]
        assert "export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0" in before
    assert "~/.ray/auth_token" in filled["file_mounts"].values()
    assert "chmod 600 ~/.ray/auth_token" in filled["setup_commands"]


def test_nothing_is_open_to_the_world(written):
    filled = ready(written)
    (head,) = [line for line in filled["head_start_ray_commands"] if "ray start" in line]
    assert "--dashboard-host=127.0.0.1" in head
    text = yaml.safe_dump(filled)
    assert "0.0.0.0" not in text
    assert "::/0" not in text
    assert "--ray-client-server-port" not in text
    if filled["provider"]["type"] == "aws":
        assert "security_group" not in filled["provider"]
        for node in filled["available_node_types"].values():
            # Else the launcher makes a group of its own, with SSH for every address.
            assert node["node_config"]["SecurityGroupIds"]


def test_commands_are_shell(written):
    for line in commands(ready(written)):
        checked = subprocess.run(["bash", "-n", "-c", line], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stderr


def test_options_are_rays_own(written):
    from ray.scripts.scripts import start

    known = {option for parameter in start.params for option in (*parameter.opts, *parameter.secondary_opts)}
    for line in commands(ready(written)):
        if "ray start" in line:
            used = re.findall(r"--[a-z-]+", line.partition("ray start")[2])
            assert len(used) >= 2
            assert set(used) <= known
