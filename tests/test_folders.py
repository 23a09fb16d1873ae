"""Files and folders that are written: whole or not at all, and never through a link."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from trainables.errors import InputError
from trainables.folders import replaced, written_whole


def write(path: Path, text: str = "new") -> None:
    with written_whole(path) as file:
        file.write(text)


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write(path, "old")
    with pytest.raises(RuntimeError), written_whole(path) as file:
        file.write("half")
        assert path.read_text() == "old"
        raise RuntimeError
    assert path.read_text() == "old"
    write(path, "caf\udce9\t\N{SNOWMAN}")
    assert path.read_bytes() == b"caf\\udce9\t\xe2\x98\x83"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("target", ["secret", "absent", "/dev/stdout"])
def test_a_link_is_not_followed(target: str, tmp_path: Path) -> None:
    """Whether it leads to a file, to nothing or to a stream; nor is one planted where a temporary file could be."""
    secret, out = tmp_path / "secret", tmp_path / "a.txt"
    secret.write_text("kept")
    (tmp_path / ".a.txt.partial").symlink_to(secret)
    out.symlink_to(target)
    with pytest.raises(InputError, match=r"a\.txt: a symbolic link") as error:
        write(out)
    assert "--out" in error.value.remedy
    assert secret.read_text() == "kept" and out.is_symlink() and not (tmp_path / "absent").exists()
    out.unlink()
    write(out)
    assert (out.read_text(), secret.read_text()) == ("new", "kept")


def fifo(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize("make", [fifo, Path.mkdir])
def test_what_is_no_regular_file_is_not_replaced(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "a")
    for path in (tmp_path / "a", Path("/dev/null"), Path(), Path("/")):
        with pytest.raises(InputError, match="not a regular file"):
            write(path)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no /proc here")
def test_a_place_that_takes_nothing_is_refused() -> None:
    """/proc is a folder even for root, who may write to all others."""
    with pytest.raises(InputError, match="/proc/x: cannot be written"):
        write(Path("/proc/x"))
    with pytest.raises(InputError, match="/proc: cannot hold a folder"), replaced(Path("/proc/x")):
        pass


def test_what_a_killed_process_left_of_a_folder_is_removed(tmp_path: Path) -> None:
    """And nothing that a process is still writing; its old content stays until the new is whole."""
    folder = tmp_path / "model"
    program = (
        "import os, pathlib, sys\nfrom trainables.folders import replaced\n"
        "with replaced(pathlib.Path(sys.argv[1])) as partial:\n"
        "    (partial / 'half').write_text('')\n    os.kill(os.getpid(), 9)\n"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(folder)], check=False)
    assert killed.returncode == -signal.SIGKILL and len(list(tmp_path.iterdir())) == 1
    with replaced(folder) as one, replaced(folder) as other:
        (one / "content").write_text("first")
        (other / "content").write_text("second")
        assert set(tmp_path.iterdir()) == {one, other}
    assert list(tmp_path.iterdir()) == [folder] and (folder / "content").read_text() == "first"
