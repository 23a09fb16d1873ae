"""What is in deploy/: manifests belong together, scripts do what they say, and the steps of the image work."""

from __future__ import annotations

import copy
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from functools import reduce
from importlib.metadata import version
from operator import getitem
from pathlib import Path
from typing import Any

import jsonschema
import kuberay
import pytest
import yaml
from ray._private import ray_constants
from ray.scripts.scripts import start
from ray.scripts.symmetric_run import symmetric_run

REPOSITORY = Path(__file__).resolve().parents[2]
DEPLOY = REPOSITORY / "deploy"
DRAIN_TIMEOUT = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()


def steps(*kinds: str) -> list[str]:
    """Instructions of the Dockerfile, with continued lines joined."""
    lines = re.sub(r"\\\n\s*", "", "\n".join(line for line in DOCKERFILE.splitlines() if not line.startswith("#")))
    return [line for line in lines.splitlines() if line.split(" ")[0] in kinds]


def test_the_image_has_files_that_exist_and_commands_that_a_shell_reads() -> None:
    assert steps("FROM") == ["FROM python:3.11-slim"]
    for step in steps("COPY"):
        for source in step.split()[1:-1]:
            assert (REPOSITORY / source).exists(), step
    for step in steps("RUN"):
        subprocess.run(["sh", "-n", "-c", step.removeprefix("RUN ")], check=True)
    assert steps("USER") == ["USER ray"], "no root"


def test_the_packages_of_the_image_are_installed_from_what_it_copies(tmp_path: Path) -> None:
    """The image's steps, run in a clean folder, install the platform; packages are not downloaded."""
    for step in steps("COPY"):
        *sources, target = step.split()[1:]
        for source in sources:
            place = tmp_path / target / Path(source).name if target.endswith("/") else tmp_path / target
            if target.startswith("/"):
                continue
            if (REPOSITORY / source).is_dir():
                shutil.copytree(REPOSITORY / source, place, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copyfile(REPOSITORY / source, place)
    (install,) = [step for step in steps("RUN") if "--no-deps" in step]
    words = shlex.split(install.removeprefix("RUN "))
    assert words[:2] == ["pip", "install"]
    wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", *words[2:], "--wheel-dir", "out"]
    wheel.remove("--no-cache-dir")
    subprocess.run(wheel, cwd=tmp_path, check=True, env={**os.environ, "PYTHONPATH": ""})
    (built,) = (tmp_path / "out").iterdir()
    names = zipfile.ZipFile(built).namelist()
    assert {"asr_platform/cli/main.py", "search_spaces/shipped/digits.yaml", "trainables/worker.py"} <= set(names)
    assert not [name for name in names if name.startswith(("tests", "platform/"))]


def containers(tree: Any) -> list[dict[str, Any]]:
    if isinstance(tree, list):
        return [found for item in tree for found in containers(item)]
    if not isinstance(tree, dict):
        return []
    return [*tree.get("containers", []), *(found for item in tree.values() for found in containers(item))]


@pytest.mark.parametrize("name", ["rayjob", "raycluster"])
def test_manifests_ask_for_this_ray_and_for_gpus_on_workers_alone(name: str) -> None:
    tree = yaml.safe_load((DEPLOY / f"{name}.yaml").read_text())
    cluster = tree["spec"]["rayClusterSpec"] if name == "rayjob" else tree["spec"]
    assert (tree["apiVersion"], tree["kind"].lower()) == ("ray.io/v1", name)
    assert cluster["rayVersion"] == version("ray")
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"] and group["rayStartParams"] == {}
        (worker,) = containers(group)
        for amounts in worker["resources"].values():
            assert amounts["nvidia.com/gpu"] == "1"
        mounts = {mount["name"]: mount["mountPath"] for mount in worker["volumeMounts"]}
        assert mounts["cache"] in DOCKERFILE, "where the image keeps corpora"
        waits = {one["name"]: float(one["value"]) for one in worker["env"]}
        assert 0 < waits[DRAIN_TIMEOUT] < group["template"]["spec"]["terminationGracePeriodSeconds"]
        assert hasattr(ray_constants, DRAIN_TIMEOUT), "Ray reads it"
    (head,) = containers(cluster["headGroupSpec"])
    assert "nvidia.com/gpu" not in head["resources"]["limits"]
    for container in containers(tree):  # addresses and credentials reach every node
        assert container["envFrom"] == [{"secretRef": {"name": "asr-platform"}}]
        assert container["image"].startswith("asr-platform")


@pytest.mark.parametrize("name", ["rayjob", "raycluster"])
def test_manifests_have_the_fields_that_the_operator_knows(name: str) -> None:
    tree = yaml.safe_load((DEPLOY / f"{name}.yaml").read_text())
    schema = kuberay.SCHEMAS[tree["kind"]]
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate(tree)
    own = [(("metadata",), "name", "1-digits"), (("spec",), "authOptions", {}), (("metadata",), "name", "a" * 48)]
    for path, key, value in [*own, *mistakes(tree)]:
        changed = copy.deepcopy(tree)
        reduce(getitem, path, changed)[key] = value
        with pytest.raises(jsonschema.ValidationError):
            validator.validate(changed)


def mistakes(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any, Any]]:
    """Changes that the operator refuses, as path, key and value: an unknown key, and values of another type."""
    if isinstance(tree, dict):
        if path and not {"rayStartParams", "requests", "limits"} & {path[-1]}:  # these have keys of any name
            yield path, "unheardOf", "1"
        for key, value in tree.items():
            if not isinstance(value, dict | list):
                yield path, key, [value]
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        if isinstance(value, dict | list):
            yield from mistakes(value, (*path, key))


@pytest.mark.parametrize("name", ["rayjob", "raycluster"])
def test_the_head_mounts_the_corpus_of_the_command(name: str) -> None:
    """The one in the manifest, or that which the page says to submit."""
    tree = yaml.safe_load((DEPLOY / f"{name}.yaml").read_text())
    cluster = tree["spec"].get("rayClusterSpec", tree["spec"])
    page = (REPOSITORY / "docs" / "cluster.md").read_text()
    command = (
        tree["spec"].get("entrypoint") or page.partition(f"kubectl apply -f deploy/{name}.yaml")[2].partition("```")[0]
    )
    corpus = re.search(r"--data (\S+)", command)
    (head,) = containers(cluster["headGroupSpec"])
    assert corpus and any(corpus[1].startswith(f"{mount['mountPath']}/") for mount in head["volumeMounts"])
    most = sum(group["maxReplicas"] for group in cluster["workerGroupSpecs"])
    asked = re.search(r"--max-concurrent (\d+)", command)
    assert asked is None or int(asked[1]) <= most, "Ray's autoscaler adds nothing for more"


def test_the_job_is_a_command_without_shell() -> None:
    """KubeRay joins the words of an entrypoint again without their quotes."""
    entrypoint = yaml.safe_load((DEPLOY / "rayjob.yaml").read_text())["spec"]["entrypoint"]
    assert shlex.join(shlex.split(entrypoint)) == entrypoint and entrypoint.startswith("asr-sweep ")


def test_services_depend_on_each_other_and_keep_no_password() -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    tree = yaml.safe_load(text)
    for service in tree["services"].values():
        for needed, how in service.get("depends_on", {}).items():
            healthy = "healthcheck" in tree["services"][needed]
            assert how["condition"] == ("service_healthy" if healthy else "service_completed_successfully")
        assert all(port.startswith("${BIND:-127.0.0.1}:") for port in service.get("ports", []))
        for volume in service.get("volumes", []):
            assert volume.split(":")[0] in tree["volumes"]
        for config in service.get("configs", []):
            assert config["source"] in tree["configs"]
    assert set(re.findall(r"\$\{(\w*(?:PASSWORD|SECRET)\w*)(.*?)\}", text)) == {
        ("POSTGRES_PASSWORD", ":?in deploy/.env"),
        ("S3_SECRET", ":?in deploy/.env"),
    }


STUB = """#!/bin/sh
echo "platform $*" >> "$CALLS"
case "$*" in *--resume*) exit "$RESUMED" ;; esac
"""


def programs(folder: Path, **scripts: str) -> dict[str, str]:
    """An environment in which these scripts are programs, and their calls are in the file `calls`."""
    (folder / "bin").mkdir()
    for name, text in scripts.items():
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    (folder / "calls").touch()
    own = Path(sys.executable).parent
    return {**os.environ, "PATH": f"{folder / 'bin'}:{own}:{os.environ['PATH']}", "CALLS": str(folder / "calls")}


@pytest.mark.parametrize(
    ("resumed", "code", "calls"),
    [
        (0, 0, ["platform sweep --resume one"]),
        (2, 0, ["platform sweep --resume one", "platform sweep --name one digits --data a b"]),
        (130, 130, ["platform sweep --resume one"]),
        (1, 1, ["platform sweep --resume one"]),
    ],
)
def test_a_job_that_is_run_again_goes_on(tmp_path: Path, resumed: int, code: int, calls: list[str]) -> None:
    environment = {**programs(tmp_path, platform=STUB), "RESUMED": str(resumed)}
    done = subprocess.run([DEPLOY / "asr-sweep", "one", "digits", "--data", "a b"], env=environment)
    assert done.returncode == code
    assert (tmp_path / "calls").read_text().splitlines() == calls


def slurm_job(folder: Path, platform: str) -> dict[str, str]:
    """The environment of a job in which the scripts' programs are stood in for, `platform` by this script.

    Ray's own `ray stop` at the end would end all Ray here.
    """
    environment = programs(
        folder,
        platform=platform,
        srun='#!/bin/sh\n[ "$1" = --kill-on-bad-exit=1 ] || exit 9\nshift\nexec "$@"\n',
        scontrol='#!/bin/sh\necho "scontrol $*" >> "$CALLS"\necho node1\necho node2\n',
        ray='#!/bin/sh\necho "ray $*" >> "$CALLS"\nwhile [ "$1" != -- ]; do shift; done\nshift\nexec "$@"\n',
    )
    return environment | {
        "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "8", "SLURM_JOB_ID": "7",
        "SLURM_SUBMIT_DIR": str(REPOSITORY), "RESUMED": "0",
    }  # fmt: skip


def test_the_slurm_job_starts_ray_and_runs_the_sweep(tmp_path: Path) -> None:
    job = slurm_job(tmp_path, STUB.replace("platform $*", "platform $* on $RAY_ADDRESS"))
    words = ["bash", DEPLOY / "slurm.sh"]
    subprocess.run([*words, "one", "digits"], env=job, check=True)
    nodes, ray, sweep = (tmp_path / "calls").read_text().splitlines()
    assert nodes == "scontrol show hostnames node[1-2]"
    assert sweep == "platform sweep --resume one on node1:6379"
    _, command, *options = ray.partition(" -- ")[0].split()
    assert command == "symmetric-run"
    parsed = symmetric_run.make_context("ray", options).params
    assert (parsed["address"], parsed["min_nodes"]) == ("node1:6379", 2)
    known = {option for parameter in start.params for option in parameter.opts}
    assert parsed["ray_args_and_entrypoint"] == ("--num-cpus", "8") and "--num-cpus" in known
    refused = subprocess.run([*words, "one"], env=job, capture_output=True)
    assert refused.returncode != 0 and b"give a name and a space" in refused.stderr


LEAVING = """#!/bin/sh
trap 'echo saved >> "$CALLS"; exit 130' USR1
echo "platform $*" >> "$CALLS"
while :; do sleep 0.05; done
"""


def test_a_slurm_job_that_will_end_lets_the_sweep_save_before_it_is_queued_again(tmp_path: Path) -> None:
    job, calls = slurm_job(tmp_path, LEAVING), tmp_path / "calls"
    with subprocess.Popen(["bash", DEPLOY / "slurm.sh", "one", "digits"], env=job, start_new_session=True) as process:
        try:
            while "platform" not in calls.read_text():
                assert process.poll() is None
                time.sleep(0.05)
            process.send_signal(signal.SIGUSR1)  # to the script alone (--signal=B:USR1)
            process.wait(60)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert calls.read_text().splitlines()[-3:] == ["platform sweep --resume one", "saved", "scontrol requeue 7"]
