"""Files that importers read: hidden ones, text with and without a byte order mark, arrays whose header is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from trainables.data.files import load_array, read_lines, visible
from trainables.errors import InputError


def test_hidden_files_are_left_out(tmp_path: Path) -> None:
    for name in ("b.npy", "._b.npy", ".DS_Store", "a.npy"):
        (tmp_path / name).touch()
    assert [path.name for path in visible(tmp_path.iterdir())] == ["a.npy", "b.npy"]


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lines_are_counted_and_lose_their_ends(tmp_path: Path, mark: str, end: str) -> None:
    (tmp_path / "a.txt").write_bytes(f"{mark}ONE{end}{end}TWO\u2028THREE\x0cFOUR".encode())
    assert list(read_lines(tmp_path / "a.txt")) == [(1, "ONE"), (2, ""), (3, "TWO\u2028THREE\x0cFOUR")]


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_text_in_another_encoding_is_refused(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.txt").write_bytes("GRÜẞE".encode("utf-16") if encoding == "utf-16" else "GRÜSSE".encode("latin-1"))
    with pytest.raises(InputError, match=r"(?s)a\.txt: unreadable: .*UTF-8"):
        list(read_lines(tmp_path / "a.txt"))
    with pytest.raises(InputError, match=r"none\.txt: unreadable"):
        list(read_lines(tmp_path / "none.txt"))


@given(
    arrays.arrays(st.sampled_from([np.float32, np.int64, np.dtype("<U1")]), arrays.array_shapes(min_dims=0, min_side=0))
)
def test_arrays_come_back(tmp_path_factory: pytest.TempPathFactory, array: npt.NDArray[np.generic]) -> None:
    path = tmp_path_factory.getbasetemp() / "a.npy"
    np.save(path, array)
    np.testing.assert_array_equal(load_array(path), array)
    np.save(path, np.asfortranarray(array))
    np.testing.assert_array_equal(load_array(path), array)


@pytest.mark.parametrize("shape", ["(80, 100_000_000_000)", "(2**62, 2**62)", "(80, 101)"])
def test_an_array_that_ends_before_its_header_says_is_refused(tmp_path: Path, shape: str) -> None:
    """29 TiB are no error of memory."""
    with (tmp_path / "a.npy").open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": eval(shape)}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(bytes(80 * 100 * 4))
    with pytest.raises(InputError, match=r"a\.npy: its header promises [\d,]+ bytes, but 32,000 follow"):
        load_array(tmp_path / "a.npy")


def test_python_objects_and_archives_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"a": 1}]))
    np.savez(tmp_path / "b.npz", a=np.zeros(3))
    for name in ("a.npy", "b.npz"):
        with pytest.raises(InputError, match=f"{name}: not readable"):
            load_array(tmp_path / name)
