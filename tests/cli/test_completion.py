"""Completion, as bash does it: commands, options, and the names of what there is."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from command import PLATFORM

from asr_platform.cli.completion import PLACES
from asr_platform.cli.main import cli
from search_spaces.reader import shipped

BASH = """
source ./script
COMP_WORDS=({words}) COMP_CWORD={place}
_platform_completion platform
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with two sweeps, one of them with trials; and another home."""
    folder = tmp_path_factory.mktemp("completion")
    for name in ("mlruns/sweeps/digits-1", "mlruns/sweeps/deep-2", "elsewhere/sweeps/third"):
        (folder / name).mkdir(parents=True)
    for number in (0, 7, 12):
        (folder / f"mlruns/sweeps/digits-1/trials/trial-{number:04}").mkdir(parents=True)
    script = subprocess.run([PLATFORM, "completion", "bash"], capture_output=True, text=True, check=True).stdout
    (folder / "script").write_text(script)
    return folder


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("platform lea", ["leaderboard"]),
        ("platform prepare fs", ["fsdd"]),
        ("platform sweep --max-d", ["--max-device-hours", "--max-disk-gb"]),
        ("platform leaderboard d", ["deep-2", "digits-1"]),
        ("platform --home elsewhere status ''", ["third"]),
        ("platform sweep --resume di", ["digits-1"]),
        ("platform sweep dig", [name for name in shipped() if name.startswith("dig")]),
        ("platform logs digits-1 ''", ["0", "7", "12"]),
        ("platform logs digits-1 1", ["12"]),
        ("platform logs nothing ''", [""]),
        ("platform completion f", ["fish"]),
    ],
)
def test_what_bash_offers(folder: Path, words: str, expected: list[str]) -> None:
    code = BASH.format(words=words, place=len(words.split()) - 1)
    environment = {key: value for key, value in os.environ.items() if key != "ASR_PLATFORM_HOME"}
    path = f"{PLATFORM.parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", code], cwd=folder, env={**environment, "PATH": path}, capture_output=True, text=True, check=True
    )
    assert (done.stdout.splitlines(), done.stderr) == (expected, "")


@pytest.mark.parametrize("shell", list(PLACES))
def test_the_script_says_where_it_goes(shell: str) -> None:
    shown = CliRunner().invoke(cli, ["completion", shell])
    assert shown.exit_code == 0
    first, second, *rest = shown.output.splitlines()
    assert first == f"# platform completion {shell} > {PLACES[shell][0]}" and second.startswith("# ")
    assert any("_PLATFORM_COMPLETE" in line for line in rest)
