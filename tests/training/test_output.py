"""A worker's output is in its file, whoever prints it and however the worker ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

BEGINNING = """
import ctypes, faulthandler, os, signal, sys
from pathlib import Path
from trainables.output import output_in, say
faulthandler.enable()
print("before")
with output_in(Path(sys.argv[1])):
"""


def run(file: Path, *lines: str) -> subprocess.CompletedProcess[str]:
    """Runs lines of code in the block, in a new process."""
    code = BEGINNING + "".join(f"    {line}\n" for line in lines) + "print('after')\n"
    return subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=False)


def test_all_that_is_printed_in_the_block_is_in_the_file(tmp_path: Path) -> None:
    """Output of Python, of a C library and of system calls stays in order."""
    file = tmp_path / "trial-0000" / "log.txt"
    done = run(file, "print('one', flush=True)", "ctypes.CDLL(None).puts(b'two')", "ctypes.CDLL(None).fflush(None)",
               "print('three', file=sys.stderr)", "say('four')")  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "before\nafter\n", "")
    *lines, last = file.read_text().splitlines()
    assert lines == ["one", "two", "three"] and last.endswith(" four") and last[4] == "-"


def test_a_trial_that_goes_on_goes_on_in_its_file(tmp_path: Path) -> None:
    file = tmp_path / "log.txt"
    for word in ("first", "second"):
        run(file, f"print('{word}')")
    assert file.read_text() == "first\nsecond\n"


def test_an_exception_leaves_its_traceback_and_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "log.txt"
    done = run(file, "raise ValueError('no such tokens')")
    assert done.returncode == 1 and done.stderr.endswith("ValueError: no such tokens\n")
    text = file.read_text()
    assert text.startswith("Traceback (most recent call last):") and text.endswith("ValueError: no such tokens\n")


def test_a_crash_leaves_where_it_happened(tmp_path: Path) -> None:
    file = tmp_path / "log.txt"
    done = run(file, "print('still alive', flush=True)", "os.kill(os.getpid(), signal.SIGSEGV)")
    assert (done.returncode, done.stderr) == (-signal.SIGSEGV, "")
    text = file.read_text()
    assert text.startswith("still alive\n") and "Fatal Python error: Segmentation fault" in text


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_ends_nothing(tmp_path: Path) -> None:
    for file in (Path("/dev/full"), tmp_path):  # a full device, and a folder
        done = run(file, "say('lost')")
        assert done.returncode == 0 and done.stdout == "before\nafter\n"


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii", "cp1252"])
def test_what_an_encoding_lacks_is_escaped(encoding: str) -> None:
    """JSON stays valid, whatever its strings hold; characters that the encoding has are printed unchanged."""
    code = (
        "import json; from trainables.output import escape_unencodable; escape_unencodable()\n"
        "print(json.dumps(['é–\\U0001f600', 'caf\\udce9.wav'], ensure_ascii=False))"
    )
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, env=environment)
    assert (done.returncode, done.stderr) == (0, b"")
    printed = done.stdout.decode("utf-8" if encoding == "ascii" else encoding)
    assert json.loads(printed) == ["é–\U0001f600", "caf\udce9.wav"]
    assert "é" in printed and ("–" in printed) == (encoding != "latin-1") and "\\udce9" in printed
