"""Downloads splits of LibriSpeech (https://www.openslr.org/12); an interrupted download continues where it stopped."""

from __future__ import annotations

import hashlib
import http.client
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from trainables.data.importers.librispeech import CORPUS_FOLDER
from trainables.errors import InputError
from trainables.folders import UnfinishedFolder

BASE_URL = "https://www.openslr.org/resources/12"
# md5sum.txt at that address
CHECKSUMS = {
    "dev-clean": "42e2234ba48799c1f50f24a7926300a1",
    "dev-other": "c8d0bcc9cca99d4f8b62fcc847357931",
    "test-clean": "32fa31d27d2e1cad72775fee3f4849a9",
    "test-other": "fb5a50374b501bb3bac4815ee91d3135",
    "train-clean-100": "2a93770f6d5c6c964bc36631d331a522",
    "train-clean-360": "c0e676e450a7ff2f54aeade5171606fa",
    "train-other-500": "d1a0fd59409feb2c614ce4d30c387708",
}
CHUNK = 1 << 20  # bytes
TIMEOUT = 60  # seconds without data
GO_ON = "Run the same command again: it goes on where it stopped."

Progress = Callable[[int, int], None]


def download(split: str, root: Path, base_url: str = BASE_URL, progress: Progress | None = None) -> Path:
    """Downloads, checks and unpacks a split into `root/LibriSpeech/{split}`, unless it is there; returns that folder.

    Args:
        split: one of `CHECKSUMS`.
        root: folder for the corpus; created if needed.
        base_url: folder of `{split}.tar.gz`; for another one than the default, the checksum is in its `md5sum.txt`.
        progress: called with (bytes downloaded, size in bytes, or 0 if unknown).

    Raises:
        InputError: the split is unknown, the server out of reach, or the archive damaged.
    """
    if split not in CHECKSUMS:
        raise InputError(f"LibriSpeech has no split {split!r}", f"Choose from {', '.join(CHECKSUMS)}.")
    base_url = base_url.rstrip("/")
    for present in (root / CORPUS_FOLDER / split, root / split):
        if present.is_dir():
            return present
    root.mkdir(parents=True, exist_ok=True)
    expected = CHECKSUMS[split] if base_url == BASE_URL else _published_checksum(split, base_url)
    archive = root / f"{split}.tar.gz.part"
    fetch(f"{base_url}/{split}.tar.gz", archive, progress)
    found = _md5(archive)
    if found != expected:
        archive.unlink()
        raise InputError(
            f"{base_url}/{split}.tar.gz: md5 {found}, but {expected} is published", "Run the command again."
        )
    folder = _unpack(archive, split, root)
    archive.unlink()
    return folder


def fetch(url: str, part: Path, progress: Progress | None = None) -> None:
    """Downloads `url` into the file `part`, continuing after the bytes that it has.

    Raises:
        InputError: the server is out of reach, answers with an error, or ends the connection early.
    """
    present = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={present}-"} if present else {})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            if response.status != http.HTTPStatus.PARTIAL_CONTENT:
                present = 0  # a server without ranges sends the whole file
            length = response.headers.get("Content-Length")
            total = present + int(length) if length else 0
            with part.open("ab" if present else "wb") as file:
                while chunk := response.read(CHUNK):
                    file.write(chunk)
                    present += len(chunk)
                    if progress:
                        progress(present, total)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # the file is complete; its checksum is checked later
        raise InputError(f"{url}: the server answers {error.code} {error.reason}", "Check the address.") from None
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise InputError(f"{url}: {getattr(error, 'reason', error)}", GO_ON) from None
    if present < total:
        raise InputError(f"{url}: the connection ended after {present} of {total} bytes", GO_ON)


def _published_checksum(split: str, base_url: str) -> str:
    url = f"{base_url}/md5sum.txt"
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
            lines: list[str] = response.read().decode().splitlines()
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError, ValueError) as error:
        raise InputError(f"{url}: {error}", "The checksums must lie beside the archives.") from None
    for line in lines:
        checksum, _, name = line.partition(" ")
        if name.strip().lstrip("*./") == f"{split}.tar.gz":
            return checksum.lower()
    raise InputError(f"{url}: no line for {split}.tar.gz", "The checksums must lie beside the archives.")


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _unpack(archive: Path, split: str, root: Path) -> Path:
    """Unpacks a split under a temporary name, then renames it, so that an error leaves no partial split."""
    target = root / CORPUS_FOLDER / split
    with UnfinishedFolder((root / split).resolve()) as temporary:
        try:
            with tarfile.open(archive, "r:gz") as tar:
                tar.extractall(temporary.path, filter="data")
        except tarfile.TarError as error:
            raise InputError(f"{archive}: not an archive that can be unpacked: {error}", "Check the address.") from None
        unpacked = temporary.path / CORPUS_FOLDER / split
        if not unpacked.is_dir():
            raise InputError(f"{archive}: no folder {CORPUS_FOLDER}/{split} in it", "Check the address.")
        target.parent.mkdir(exist_ok=True)
        unpacked.rename(target)
    return target
