"""Records what made a result: git revision, uncommitted changes, package versions, and the machine."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections import Counter
from contextlib import suppress
from functools import cache
from importlib.metadata import distributions, version
from pathlib import Path

import psutil
import pynvml

PROVENANCE = "provenance"  # key of the git revision and package versions in the ledger
RECORD = "record"  # folder of the record, in a sweep's folder and among its artifacts in MLflow
PACKAGES = ("torch", "ray", "optuna", "mlflow", "sentencepiece", "jiwer", "pyarrow")
ROOMS = (":/platform", ":/search_spaces", ":/trainables")  # folders of the repository whose changes are recorded
LONGEST_PATCH = 1_000_000  # characters


@cache
def provenance() -> dict[str, str]:
    """Git revision of the working tree (or `unknown`), package versions, and this machine's hardware, as tags."""
    versions = {f"version.{name}": version(name) for name in PACKAGES}
    return {"git_revision": _revision(), **versions, "hardware": hardware()}


def hardware() -> str:
    """CPUs, memory and GPUs of this machine, such as `2 CPUs (AMD EPYC 7B13), 8 GB; 1 × NVIDIA H200`."""
    described = Path("/proc/cpuinfo")
    text = described.read_text(encoding="utf-8") if described.is_file() else ""
    model = next((line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")), "")
    cpus = f"{os.cpu_count()} CPUs" + (f" ({model})" if model else "")
    parts = [f"{cpus}, {psutil.virtual_memory().total / 1e9:.0f} GB"]
    with suppress(pynvml.NVMLError):  # no driver
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(pynvml.nvmlDeviceGetCount())]
        counts = Counter(str(pynvml.nvmlDeviceGetName(handle)) for handle in handles)
        parts += [f"{count} × {name}" for name, count in counts.items()]
    return "; ".join(parts)


def write_record(folder: Path, space: str, plan: Path) -> None:
    """Writes the record of a sweep's run into the sweep's folder, and replaces the record of an earlier run.

    The record has the space, the plan if there is one, the installed packages, the git revision, the names of changed
    and new files, and the changes as a patch.
    """
    record = folder / RECORD
    shutil.rmtree(record, ignore_errors=True)
    record.mkdir(parents=True)
    (record / "space.yaml").write_text(space, encoding="utf-8")
    if plan.is_file():
        shutil.copyfile(plan, record / "plan.json")
    _write_provenance(record)


def _write_provenance(folder: Path) -> None:
    # `name` and `version` of a distribution would each read its file anew.
    every = (found.metadata for found in distributions())
    here = sorted({f"{found['Name']}=={found['Version']}" for found in every}, key=str.lower)
    lines = [f"# Python {platform.python_version()}, {platform.platform()}", *here]
    (folder / "packages.txt").write_text("\n".join([*lines, ""]), encoding="utf-8")
    changed = _git("status", "--porcelain", "--", *ROOMS) or "" if _is_ours() else ""
    (folder / "git.txt").write_text(f"{_revision()}\n{changed}", encoding="utf-8")
    patch = _git("diff", "HEAD", "--", *ROOMS) if changed else None
    if patch and len(patch) > LONGEST_PATCH:
        patch = f"left out: {len(patch)} characters\n"
    if patch:
        (folder / "changes.patch").write_text(patch, encoding="utf-8")


def _revision() -> str:
    found = _git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*") if _is_ours() else None
    return found.strip() if found else "unknown"


def _is_ours() -> bool:
    """Whether git tracks this file; an installed package may lie in the repository of another project."""
    return _git("ls-files", "--error-unmatch", Path(__file__).name) is not None


def _git(*words: str) -> str | None:
    """Output of a git command in the repository of this file; None if it fails, or there is no git."""
    command = ["git", *words]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.decode("utf-8", errors="replace")
