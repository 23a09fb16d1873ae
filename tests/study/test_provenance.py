"""What a sweep rests on is written down: the code, the packages, the space."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import optuna
import psutil
import pytest
import ray
import torch

from asr_platform.study import provenance as module
from asr_platform.study.provenance import RECORD, provenance, write_record

PLATFORM = Path(module.__file__).parent


def test_it_has_the_revision_and_the_versions() -> None:
    found = provenance()
    versions = {"torch": torch, "ray": ray, "optuna": optuna, "mlflow": mlflow}
    for name, package in versions.items():
        assert found[f"version.{name}"] == package.__version__
    assert all(isinstance(value, str) and value for value in found.values())
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    expected = head.stdout.strip() or "unknown"
    assert found["git_revision"].removesuffix("-dirty") == expected


def test_it_has_the_machine() -> None:
    found = provenance()["hardware"]
    assert found.startswith(f"{os.cpu_count()} CPUs") and f"{psutil.virtual_memory().total / 1e9:.0f} GB" in found


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with this code in it, and something of a person's beside it."""
    root = tmp_path / "repository"
    code = root / "platform" / "asr_platform"
    code.mkdir(parents=True)
    shutil.copy(PLATFORM / "provenance.py", code)
    (root / "own.txt").write_text("a secret\n")
    git(root, "init", "--quiet")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "all")
    monkeypatch.setattr(module, "__file__", str(code / "provenance.py"))
    return root


def git(root: Path, *words: str) -> None:
    who = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.org"]
    subprocess.run(["git", *who, *words], cwd=root, check=True)


def record(tmp_path: Path) -> Path:
    write_record(tmp_path, "vary: {}\n", tmp_path / "plan.json")
    return tmp_path / RECORD


def test_the_record_has_space_plan_packages_and_revision(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("{}")
    found = record(tmp_path)
    assert {path.name for path in found.iterdir()} == {"space.yaml", "plan.json", "packages.txt", "git.txt"}
    assert (found / "space.yaml").read_text() == "vary: {}\n"
    lines = (found / "packages.txt").read_text().splitlines()
    assert f"Python {sys.version.split()[0]}" in lines[0]
    assert f"ray=={ray.__version__}" in lines
    assert len((found / "git.txt").read_text().splitlines()) == 1


def test_changed_code_is_in_it_and_nothing_else_of_the_repository(repository: Path, tmp_path: Path) -> None:
    code = repository / "platform" / "asr_platform"
    with (code / "provenance.py").open("a") as file:
        file.write("CHANGED = True\n")
    (code / "new.py").write_text("NEW = True\n")
    (repository / "own.txt").write_text("another secret\n")
    found = record(tmp_path)
    assert "+CHANGED = True" in (found / "changes.patch").read_text()
    state = (found / "git.txt").read_text()
    assert "-dirty\n" in state and "?? platform/asr_platform/new.py" in state
    assert not any("secret" in path.read_text() or "NEW" in path.read_text() for path in found.iterdir())
    assert not (found / "plan.json").exists()


def test_a_long_patch_is_left_out(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_PATCH", 10)
    with (repository / "platform" / "asr_platform" / "provenance.py").open("a") as file:
        file.write("CHANGED = True\n")
    assert (record(tmp_path) / "changes.patch").read_text().startswith("left out: ")


def test_a_record_takes_the_place_of_the_one_before(repository: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text("{}")
    record(tmp_path)
    plan.unlink()
    assert not (record(tmp_path) / "plan.json").exists()


def test_without_git_the_revision_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installed from a wheel, also into a folder of another repository; or on a machine without the program."""
    monkeypatch.setattr(module, "__file__", str(tmp_path / "provenance.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.__wrapped__()["git_revision"] == "unknown"
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "commit", "--quiet", "--allow-empty", "--message", "of another project")
    assert provenance.__wrapped__()["git_revision"] == "unknown"
    assert (record(tmp_path) / "git.txt").read_text() == "unknown\n"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.__wrapped__()["git_revision"] == "unknown"
