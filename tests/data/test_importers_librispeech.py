"""LibriSpeech's folders, and fetching a split from a server that is really there, on loopback."""

from __future__ import annotations

import hashlib
import http.server
import io
import re
import shutil
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from trainables.data.importers.librispeech import librispeech_utterances
from trainables.data.importers.tools.download import download
from trainables.data.mistakes import Mistakes
from trainables.errors import InputError

SPLIT = "test-clean"


@pytest.fixture
def root(speech_data: Path, tmp_path: Path) -> Path:
    """A copy of the real split test-clean: two chapters with two utterances each."""
    shutil.copytree(speech_data / "librispeech" / SPLIT, tmp_path / "corpus" / SPLIT)
    return tmp_path / "corpus"


def test_real_data(speech_data: Path) -> None:
    utterances = librispeech_utterances(speech_data / "librispeech")
    assert len(utterances) == 55
    assert {utterance.split for utterance in utterances} == {"test-clean", "test-other", "train-clean-100"}
    first = librispeech_utterances(speech_data / "librispeech", ["train-clean-100"])
    assert [utterance.id for utterance in first] == ["103-1240-0000"]
    assert first[0].text is not None and first[0].text.startswith("CHAPTER ONE MISSUS RACHEL LYNDE IS SURPRISED")


def test_the_corpus_folder_is_found(root: Path) -> None:
    expected = [utterance.id for utterance in librispeech_utterances(root)]
    root.rename(root.parent / "LibriSpeech")
    assert [utterance.id for utterance in librispeech_utterances(root.parent)] == expected


def test_splits_that_are_not_there(root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"(?s)no split dev-clean.*test-clean"):
        librispeech_utterances(root, ["dev-clean"])
    for somewhere in (tmp_path / "nowhere", root / SPLIT):
        with pytest.raises(InputError, match=r"(?s)trans\.txt.*folder that holds splits"):
            librispeech_utterances(somewhere)


def test_audio_and_transcripts_must_pair(root: Path) -> None:
    first, second = sorted((root / SPLIT / "1089").iterdir())
    (first / "1089-134686-0000.flac").unlink()
    second_transcripts = second / "1089-134691.trans.txt"
    second_transcripts.write_text(second_transcripts.read_text().splitlines()[0])
    with pytest.raises(InputError) as caught:
        librispeech_utterances(root)
    assert "1089-134686.trans.txt:1: no audio for 1089-134686-0000" in caught.value.problem
    assert "1089-134691-0001.flac: no transcript in 1089-134691.trans.txt" in caught.value.problem
    second_transcripts.unlink()
    with pytest.raises(InputError, match=r"1089-134691\.trans\.txt: no such file, but 2 FLAC files"):
        librispeech_utterances(root)


def test_hidden_files_tabs_and_byte_order_marks(root: Path) -> None:
    expected = librispeech_utterances(root)
    for path in list(root.rglob("*.*")):
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7")  # as macOS leaves them
    for path in root.glob("*/*/*/[0-9]*.trans.txt"):
        path.write_text("\ufeff" + re.sub("(?m)^([^ ]+) ", r"\1\t", path.read_text()), encoding="utf-8")
    assert librispeech_utterances(root) == expected


def test_audio_without_a_transcript_can_be_left_out(root: Path) -> None:
    first, second = sorted((root / SPLIT / "1089").iterdir())
    (first / "1089-134686-0000.flac").unlink()
    bad = Mistakes(1)
    assert len(librispeech_utterances(root, bad=bad)) == 3
    assert len(bad.problems) == 1 and "no audio for 1089-134686-0000" in bad.problems[0]
    (second / "1089-134691.trans.txt").unlink()
    with pytest.raises(InputError, match=r"1089-134691\.trans\.txt: no such file, but 2 FLAC files"):
        librispeech_utterances(root, bad=Mistakes(100))


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `files` with ranges, as openslr.org does; ends early after `limit` bytes of a body."""

    url: ClassVar[str]
    files: ClassVar[dict[str, bytes]]
    limit: ClassVar[int | None] = None
    ranges: ClassVar[bool] = True
    requests: ClassVar[list[str]]

    def do_GET(self) -> None:
        content = self.files.get(self.path.rpartition("/")[2])
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")) if self.ranges else None
        self.requests.append(self.headers.get("Range", "all"))
        if content is None:
            self.send_error(404)
            return
        start = int(wanted[1]) if wanted else 0
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        self.wfile.write(content[start:][: self.limit if self.path.endswith(".gz") else None])

    def log_message(self, *arguments: object) -> None:
        """Says nothing."""


@pytest.fixture
def server(speech_data: Path) -> Iterator[type[Handler]]:
    """A small archive of real utterances on a free port of 127.0.0.1, as `Handler` class to adjust."""

    class ThisHandler(Handler):
        requests: ClassVar[list[str]] = []

    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        tar.add(speech_data / "librispeech" / SPLIT, f"LibriSpeech/{SPLIT}")
    content = archive.getvalue()
    sums = f"{'0' * 32}  dev-clean.tar.gz\n{hashlib.md5(content).hexdigest()}  {SPLIT}.tar.gz\n"
    ThisHandler.files = {f"{SPLIT}.tar.gz": content, "dev-clean.tar.gz": content, "md5sum.txt": sums.encode()}
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), ThisHandler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        ThisHandler.url = f"http://127.0.0.1:{running.server_port}/resources/12"
        yield ThisHandler
        running.shutdown()
        thread.join()


def assert_fetched(root: Path, speech_data: Path) -> None:
    utterances = librispeech_utterances(root)
    real = librispeech_utterances(speech_data / "librispeech", [SPLIT])
    assert [(item.id, item.text) for item in utterances] == [(item.id, item.text) for item in real]
    assert sorted(path.name for path in root.iterdir()) == ["LibriSpeech"]  # no archive, nothing half done


def test_download(server: type[Handler], speech_data: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    folder = download(SPLIT, tmp_path / "new", server.url, lambda *numbers: seen.append(numbers))
    size = len(server.files[f"{SPLIT}.tar.gz"])
    assert folder == tmp_path / "new" / "LibriSpeech" / SPLIT and seen[-1] == (size, size)
    assert_fetched(tmp_path / "new", speech_data)
    server.requests.clear()
    download(SPLIT, tmp_path / "new", server.url)
    assert server.requests == []  # it is there


@pytest.mark.parametrize("ranges", [True, False])
def test_download_goes_on_where_it_stopped(
    server: type[Handler], speech_data: Path, tmp_path: Path, ranges: bool
) -> None:
    half = len(server.files[f"{SPLIT}.tar.gz"]) // 2
    server.limit, server.ranges = half, ranges
    with pytest.raises(InputError, match=r"(?s)ended after \d+ of \d+ bytes.*goes on where it stopped"):
        download(SPLIT, tmp_path, server.url)
    assert (tmp_path / f"{SPLIT}.tar.gz.part").stat().st_size == half
    server.limit = None
    download(SPLIT, tmp_path, server.url)
    assert server.requests[-1] == f"bytes={half}-"
    assert_fetched(tmp_path, speech_data)


def test_download_was_complete_but_not_unpacked(server: type[Handler], speech_data: Path, tmp_path: Path) -> None:
    (tmp_path / f"{SPLIT}.tar.gz.part").write_bytes(server.files[f"{SPLIT}.tar.gz"])
    download(SPLIT, tmp_path, server.url)
    assert_fetched(tmp_path, speech_data)


def test_download_with_a_wrong_checksum(server: type[Handler], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"dev-clean\.tar\.gz: md5 \w+, but {'0' * 32} is published"):
        download("dev-clean", tmp_path, server.url)
    assert list(tmp_path.iterdir()) == []  # so that the next attempt starts afresh


def test_download_of_what_is_not_there(server: type[Handler], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"(?s)no split 'train'.*train-clean-100"):
        download("train", tmp_path, server.url)
    with pytest.raises(InputError, match=r"md5sum\.txt: no line for train-clean-100"):
        download("train-clean-100", tmp_path, server.url)
    del server.files[f"{SPLIT}.tar.gz"]
    with pytest.raises(InputError, match="the server answers 404"):
        download(SPLIT, tmp_path, server.url)
    with pytest.raises(InputError, match="refused"):
        download(SPLIT, tmp_path, "http://127.0.0.1:9/nobody-listens")


@pytest.mark.parametrize("name", ["../outside", "/outside", "other/file"])
def test_download_of_a_strange_archive(server: type[Handler], tmp_path: Path, name: str) -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    content = archive.getvalue()
    server.files[f"{SPLIT}.tar.gz"] = content
    server.files["md5sum.txt"] = f"{hashlib.md5(content).hexdigest()} *{SPLIT}.tar.gz".encode()
    root = tmp_path / "root"
    with pytest.raises(InputError, match=f"{SPLIT}.tar.gz"):
        download(SPLIT, root, server.url)
    assert not (tmp_path / "outside").exists() and not (root / "LibriSpeech" / SPLIT).exists()
