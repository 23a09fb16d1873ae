"""Which code made a result: the revision of the working tree, what was changed in it since, and the packages."""

from __future__ import annotations

import platform
import shutil
import subprocess
from functools import cache
from importlib.metadata import distributions, version
from pathlib import Path

PROVENANCE = "provenance"  # in what a sweep is begun with: git revision and package versions
RECORD = "record"  # the folder of what is written here: a sweep's own, and that of the artifacts in MLflow
PACKAGES = ("torch", "ray", "optuna", "mlflow", "sentencepiece", "jiwer", "pyarrow")
ROOMS = (":/platform", ":/search_spaces", ":/trainables")  # of the repository: what runs, and nothing else of its files
LONGEST_PATCH = 1_000_000  # characters


@cache
def provenance() -> dict[str, str]:
    """The git revision of the working tree, where there is one, and package versions, as tags."""
    return {"git_revision": _revision(), **{f"version.{name}": version(name) for name in PACKAGES}}


def write_record(folder: Path, space: str, plan: Path) -> None:
    """Writes what a run of a sweep rests on into its folder, in the place of what an earlier run wrote.

    That is the space, the plan where one was made, the packages, the revision and, where the code is not as committed,
    how it differs; of files that git does not know, the names alone.
    """
    record = folder / RECORD
    shutil.rmtree(record, ignore_errors=True)
    record.mkdir(parents=True)
    (record / "space.yaml").write_text(space, encoding="utf-8")
    if plan.is_file():
        shutil.copyfile(plan, record / "plan.json")
    _write_provenance(record)


def _write_provenance(folder: Path) -> None:
    here = sorted({f"{found.name}=={found.version}" for found in distributions()}, key=str.lower)
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
    """Whether this code is tracked: an installed package may lie within a repository of something else."""
    return _git("ls-files", "--error-unmatch", Path(__file__).name) is not None


def _git(*words: str) -> str | None:
    """What git says of the repository that this file is in; None without git or a repository."""
    command = ["git", *words]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.decode("utf-8", errors="replace")
