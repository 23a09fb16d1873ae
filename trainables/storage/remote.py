"""A folder on S3, GCS or another of pyarrow's file systems, or a folder that all machines see.

Whoever uses it passes the address on, and no credentials: each machine finds its own, where the providers' tools look.
"""

from __future__ import annotations

import errno
import os
import re
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from posixpath import dirname
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pyarrow as pa
from pyarrow import fs

from trainables.errors import InputError

S3_ATTEMPTS = 10  # of a request, with growing pauses: 90 s in all where nobody answers, 2 s with pyarrow's default of 3
S3_TIMEOUT = 20.0  # seconds without a byte from or to a server; all attempts at a silent one take some minutes
SLOW_SECONDS = 20.0  # after which it is said what takes so long
S3_PARAMETERS = ("region", "scheme", "endpoint_override")  # of an address
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")  # pyarrow (25) reads the second, in `from_uri` alone
FULL_SECONDS, FULL_INTERVAL = 90.0, 5.0  # how long room on a full storage is waited for, and between attempts
# MinIO, Ceph and others (Amazon's and Google's are never full); a file system without room, or over a quota
FULL = re.compile("HTTP status 507|InsufficientStorage|StorageFull|QuotaExceeded|No space left|Disk quota exceeded")
THREADS = 8  # files that are copied at once
CHUNK = 2**20  # bytes


class StorageError(InputError):
    """The storage cannot be reached, read or written."""

    def __init__(self, address: str, how: str) -> None:
        Exception.__init__(self, address, how)  # the arguments for unpickling
        self.problem = f"{address}: {how}"
        self.remedy = "Check --storage, the credentials of this machine, and that the storage is up."


class StorageFullError(StorageError):
    """The storage has no room for what is written."""

    def __init__(self, address: str, how: str) -> None:
        super().__init__(address, how)
        self.problem = f"{address}: the storage is full, free space on it: {how}"
        self.remedy = "A sweep goes on with --resume, once --storage has room."


class S3(fs.S3FileSystem):
    """S3 at an address such as `s3://BUCKET/FOLDER?region=eu-west-1`, which waits for a server that is away.

    Other machines open the address anew (pickling): pyarrow's own pickles leave out how often a request is repeated.

    Args:
        address: its parameters `region`, `scheme` and `endpoint_override` count; by default AWS' variables do, such as
            AWS_ENDPOINT_URL.
    """

    def __init__(self, address: str) -> None:
        options: dict[str, str] = dict(parse_qsl(urlsplit(address).query, keep_blank_values=True))
        if unknown := sorted(options.keys() - set(S3_PARAMETERS)):
            raise StorageError(address, f"unknown parameter {unknown[0]}; there are {', '.join(S3_PARAMETERS)}")
        if not urlsplit(address).netloc:
            raise StorageError(address, "no bucket is named")
        if "endpoint_override" not in options and (endpoint := _first_of(ENDPOINTS)):
            options["endpoint_override"] = endpoint
        if "region" not in options and (region := _region(address, options)):
            options["region"] = region
        retries = fs.AwsStandardS3RetryStrategy(max_attempts=S3_ATTEMPTS)
        super().__init__(
            retry_strategy=retries, request_timeout=S3_TIMEOUT, connect_timeout=10, allow_delayed_open=True, **options
        )
        self.address = address

    def __reduce__(self) -> tuple[Any, ...]:
        return S3, (self.address,)


def _region(address: str, options: Mapping[str, str]) -> str | None:
    """Region of the bucket at an address, asked of AWS; None where the environment or a server of one's own decides."""
    if "endpoint_override" in options or _first_of(("AWS_REGION", "AWS_DEFAULT_REGION")):
        return None
    with suppress(OSError, pa.ArrowException):
        return str(fs.resolve_s3_region(urlsplit(address).netloc))
    return None


def _first_of(variables: Iterable[str]) -> str | None:
    """Value of the first of these environment variables that is set."""
    return next((os.environ[name] for name in variables if os.environ.get(name)), None)


class Remote:
    """Files below an address. Paths are relative to it, with slashes between their parts.

    Args:
        address: `s3://BUCKET/FOLDER`, `gs://BUCKET/FOLDER` or an absolute path.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._told_full = self._told_slow = False

    def __reduce__(self) -> tuple[Any, ...]:
        return Remote, (self.address,)

    @cached_property
    def _opened(self) -> tuple[fs.FileSystem, str]:
        parts = urlsplit(self.address, allow_fragments=False)
        with self._explained():
            if parts.scheme == "s3":  # `from_uri` asks AWS for the bucket's region, deaf to Ctrl-C for minutes
                return S3(self.address), parts.netloc + unquote(parts.path).rstrip("/")
            opened, path = fs.FileSystem.from_uri(self.address)
            return opened, path.rstrip("/")

    @property
    def filesystem(self) -> fs.FileSystem:
        """pyarrow's file system, on which `path` is."""
        return self._opened[0]

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder of this machine's file system."""
        return bool(self.filesystem.type_name == "local")

    def path(self, name: str = "") -> str:
        """Path of a file or folder on `filesystem`."""
        return f"{self._opened[1]}/{name}".rstrip("/")

    def check(self) -> None:
        """Writes and removes an empty file.

        Raises:
            StorageError: files cannot be written there.
        """
        with self._explained(), self._told("an answer"):
            probe = self.path(f".writable-{uuid.uuid4().hex}")
            if self.is_folder:
                self.filesystem.create_dir(self.path())
            self.filesystem.open_output_stream(probe).close()
            self.filesystem.delete_file(probe)

    def files(self, folder: str = "") -> dict[str, int]:
        """Sizes in bytes of all files below a folder by their paths relative to the folder; empty if it is missing."""
        root = self.path(folder)
        with self._explained(), self._told("a list of files"):
            found = self.filesystem.get_file_info(fs.FileSelector(root, allow_not_found=True, recursive=True))
            return {one.path[len(root) + 1 :]: one.size for one in found if one.type == fs.FileType.File}

    def folders(self, folder: str) -> set[str]:
        """Names of the folders in a folder; empty if it is missing."""
        selected = fs.FileSelector(self.path(folder), allow_not_found=True)
        with self._explained(), self._told("a list of folders"):
            found = self.filesystem.get_file_info(selected)
            return {one.base_name for one in found if one.type == fs.FileType.Directory}

    def text(self, name: str) -> str | None:
        """The text of a small file; None if there is none."""
        try:
            return b"".join(self._chunks(name)).decode()
        except FileNotFoundError:
            return None

    def fetch(self, name: str, target: Path) -> None:
        """Copies a file to `target` on this machine, replaced as a whole.

        Raises:
            FileNotFoundError: there is no such file.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
        try:
            with partial.open("wb") as file, self._told(f"reading {name}"):
                for chunk in self._chunks(name):
                    file.write(chunk)
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)

    def _chunks(self, name: str) -> Iterator[bytes]:
        with self._explained():
            stream = self.filesystem.open_input_stream(self.path(name))
        with stream:
            while True:
                with self._explained():
                    chunk = stream.read(CHUNK)
                if not chunk:
                    return
                yield chunk

    def fetch_folder(self, folder: str, target: Path, names: Iterable[str]) -> None:
        """Copies the files `names` of a folder into `target` on this machine; those that vanish meanwhile are left."""

        def fetch(name: str) -> None:
            with suppress(FileNotFoundError):
                self.fetch(f"{folder}/{name}", target / name)

        _in_threads(fetch, names)

    def store(self, file: Path, name: str, deadline: float | None = None) -> None:
        """Copies a file of this machine to the storage, where readers find the whole file or none.

        Args:
            deadline: until when room on a full storage is waited for (time.monotonic); None: `FULL_SECONDS` from now.

        Raises:
            StorageFullError: the storage stays full.
        """
        deadline = time.monotonic() + FULL_SECONDS if deadline is None else deadline
        while True:
            try:
                self._store(file, name)
            except StorageFullError as error:
                if time.monotonic() >= deadline:
                    raise
                if not self._told_full:
                    print(f"{error.problem}; trying again for {FULL_SECONDS:.0f} s", file=sys.stderr, flush=True)
                self._told_full = True
                time.sleep(FULL_INTERVAL)
            else:
                self._told_full = False
                return

    def _store(self, file: Path, name: str) -> None:
        path = self.path(name)
        written = f"{path}.{uuid.uuid4().hex}.partial" if self.is_folder else path
        with file.open("rb") as content, self._explained(), self._told(f"writing {name}"):
            if self.is_folder:
                self.filesystem.create_dir(dirname(path))
            try:
                with self.filesystem.open_output_stream(written) as stream:
                    while chunk := content.read(CHUNK):
                        stream.write(chunk)
            except OSError:
                if written != path:  # it would take the room that others wait for
                    with suppress(OSError):
                        self.filesystem.delete_file(written)
                raise
            if written != path:
                self.filesystem.move(written, path)

    def store_folder(self, source: Path, folder: str) -> None:
        """Makes a folder on the storage equal to the folder `source` of this machine."""
        names = [path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()]
        deadline = time.monotonic() + FULL_SECONDS
        _in_threads(lambda name: self.store(source / name, f"{folder}/{name}", deadline), names)
        self.delete(folder, set(self.files(folder)).difference(names))

    def delete(self, folder: str, names: Iterable[str]) -> None:
        """Deletes files of a folder; missing ones are no error."""

        def delete(name: str) -> None:
            with self._explained(), suppress(FileNotFoundError):
                self.filesystem.delete_file(self.path(f"{folder}/{name}"))

        _in_threads(delete, names)

    def delete_folder(self, folder: str) -> None:
        """Deletes a folder with all its files; a missing one is no error."""
        with self._explained(), suppress(FileNotFoundError):
            self.filesystem.delete_dir(self.path(folder))

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Context that says on stderr what has taken `SLOW_SECONDS` and is not over, until something was fast again."""

        def tell() -> None:
            if not self._told_slow:
                self._told_slow = True
                print(f"{self.address}: {what} takes more than {SLOW_SECONDS:.0f} s", file=sys.stderr, flush=True)

        timer = threading.Timer(SLOW_SECONDS, tell)
        timer.daemon = True
        timer.start()
        began = time.monotonic()
        try:
            yield
        finally:
            timer.cancel()
            self._told_slow &= time.monotonic() - began >= SLOW_SECONDS

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Context in which errors of the storage are raised as StorageError, but FileNotFoundError as it is."""
        try:
            yield
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowException) as error:
            how = " ".join(str(error).split())
            full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or FULL.search(how)
            raise (StorageFullError if full else StorageError)(self.address, how) from error


def _in_threads(copy: Callable[[str], None], names: Iterable[str]) -> None:
    listed = list(names)
    if len(listed) < 2:  # starting threads takes longer
        for name in listed:
            copy(name)
        return
    with ThreadPoolExecutor(min(THREADS, len(listed))) as threads:
        list(threads.map(copy, listed))
