"""docs/cluster.md: its commands are Ray's own, its manifest is what it says, and the README's job is the same."""

import re
import shlex
from pathlib import Path

import click
import pytest
import yaml

ROOT = Path(__file__).parent.parent
GUIDE = ROOT / "docs" / "cluster.md"
LAUNCHER = ROOT / "ray_cluster.yaml"


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", GUIDE.read_text(), flags=re.DOTALL)


def lines():
    """The Ray commands of the guide, and those in the launcher file's comments."""
    told = [line for block in blocks("bash") for line in block.splitlines()]
    told += [line.lstrip("# ") for line in LAUNCHER.read_text().splitlines() if line.startswith("#   ray ")]
    return [re.split(r"\s{2,}#?", line)[0].strip() for line in told if line.startswith("ray ")]


def test_the_guide_goes_from_up_to_down():
    told = [line for block in blocks("bash") for line in block.splitlines()]
    verbs = [" ".join(line.split()[1:3]) for line in told if line.startswith("ray ")]
    way = ["up ray_cluster.yaml", "dashboard ray_cluster.yaml", "job submit", "job logs", "job stop", "job submit"]
    way += ["rsync-down ray_cluster.yaml", "down ray_cluster.yaml"]
    left = iter(verbs)
    assert [verb for verb in way if verb not in left] == []


@pytest.mark.parametrize("line", sorted(set(lines())))
def test_a_command_is_one_that_ray_has(line):
    from ray.scripts.scripts import cli

    words = shlex.split(line, comments=True)
    command, rest = cli, words[1:]
    while isinstance(command, click.Group):
        name, *rest = rest
        assert name in command.commands, line
        command = command.commands[name]
    mine = rest[: rest.index("--")] if "--" in rest else rest
    known = {option for each in command.params for option in (*each.opts, *each.secondary_opts)}
    assert {word.partition("=")[0] for word in mine if word.startswith("--")} <= known, line


def test_every_job_sends_the_working_directory_and_names_a_study_that_is_in_it():
    jobs = [line for line in lines() if line.startswith("ray job submit")]
    assert len(jobs) >= 4
    for line in jobs:
        before, entry = line.split(" -- ")
        assert "--working-dir ." in before
        command, verb, study, *_ = entry.split()
        assert (command, verb) == ("sigmasearch", "search")
        assert (ROOT / study).exists()


@pytest.fixture(scope="module")
def manifest():
    (block,) = blocks("yaml")
    return {document["kind"]: document for document in yaml.safe_load_all(block)}


def pods(job):
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def test_kuberay_asks_for_the_token_and_opens_nothing(manifest):
    cluster = manifest["RayJob"]["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert tuple(map(int, cluster["rayVersion"].split("."))) >= (2, 52, 0)  # KubeRay refuses authOptions before
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    for pod in pods(manifest["RayJob"]):
        for container in pod["containers"]:
            usage = [each["value"] for each in container["env"] if each["name"] == "RAY_USAGE_STATS_ENABLED"]
            assert usage == ["0"]
            assert "hostPort" not in str(container)
    assert manifest["NetworkPolicy"]["spec"]["policyTypes"] == ["Ingress"]
    assert all("from" in rule for rule in manifest["NetworkPolicy"]["spec"]["ingress"])


def test_kuberay_keeps_results_on_a_volume_and_computes_on_gpus_only(manifest):
    job = manifest["RayJob"]
    words = shlex.split(job["spec"]["entrypoint"])
    run_dir = Path(words[words.index("--run-dir") + 1])
    head, worker = pods(job)
    (mount,) = head["containers"][0]["volumeMounts"]
    (volume,) = head["volumes"]
    assert run_dir.is_relative_to(mount["mountPath"])
    assert volume["name"] == mount["name"]
    assert volume["persistentVolumeClaim"]["claimName"] == manifest["PersistentVolumeClaim"]["metadata"]["name"]
    assert job["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert worker["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert group["minReplicas"] == 0 < group["maxReplicas"]
    assert int(words[words.index("--workers") + 1]) <= group["maxReplicas"]
    for pod in pods(job):
        assert pod["containers"][0]["resources"]["limits"] == pod["containers"][0]["resources"]["requests"]


def test_both_clusters_give_a_stopped_job_the_same_time(manifest):
    head, _ = pods(manifest["RayJob"])
    (grace,) = (each["value"] for each in head["containers"][0]["env"] if each["name"] == "RAY_JOB_STOP_WAIT_TIME_S")
    assert f"RAY_JOB_STOP_WAIT_TIME_S={grace};" in LAUNCHER.read_text()
    assert f'"RAY_JOB_STOP_WAIT_TIME_S": "{grace}"' in GUIDE.read_text()
