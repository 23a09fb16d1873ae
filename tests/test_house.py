"""What keeps the rooms apart."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]

IMPORT_WITHOUT = """
import importlib, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"ray", "mlflow", "optuna", "click", "rich"}:
            raise ModuleNotFoundError(f"{name} is not installed here")

sys.meta_path.insert(0, Absent())
failed = []
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        failed.append(name)
print(*failed)
"""


def run(*arguments: str) -> str:
    """What a fresh interpreter, started in the repository's root, prints."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def modules(room: str) -> list[str]:
    files = sorted((REPOSITORY / room).rglob("*.py"))
    names = [".".join(file.relative_to(REPOSITORY).with_suffix("").parts) for file in files]
    return [name.removesuffix(".__init__") for name in names]


def test_every_package_is_installed() -> None:
    """Packages are listed by hand, since `platform` must be none."""
    listed = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    rooms = [REPOSITORY / "search_spaces", REPOSITORY / "trainables", REPOSITORY / "platform" / "asr_platform"]
    found = [file.parent.relative_to(room.parent) for room in rooms for file in room.rglob("__init__.py")]
    assert sorted(listed) == sorted(".".join(folder.parts) for folder in found)


def test_the_platform_folder_is_no_package() -> None:
    """It would hide Python's own module of that name from torch and from Ray's workers."""
    assert (REPOSITORY / "platform").is_dir()
    assert not (REPOSITORY / "platform" / "__init__.py").exists()


def test_python_finds_its_own_platform_module_in_the_root() -> None:
    found = Path(run("-c", "import platform; platform.machine(); print(platform.__file__)"))
    assert found.name == "platform.py"


def test_what_ray_runs_also_runs_without_ray() -> None:
    """`trainables` and `search_spaces` import where Ray, MLflow, Optuna and the terminal's libraries are absent."""
    names = [*modules("trainables"), *modules("search_spaces")]
    assert "trainables.worker" in names and "search_spaces.reader" in names
    assert run("-c", IMPORT_WITHOUT, *names) == "trainables.worker"
