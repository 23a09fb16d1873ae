"""A storage without room, and one that answers late: files are stored once there is room, and none is half there."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import s3_faults
import servers

from trainables.storage import remote
from trainables.storage.remote import Remote, StorageError, StorageFullError

SMALLEST = 16  # KiB of the small file system


@pytest.fixture
def proxy(s3_port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[s3_faults.S3Proxy]:
    """A faulty S3 server, which the environment names."""
    proxy = s3_faults.S3Proxy(s3_port)
    for name, value in servers.environment(proxy.port).items():
        monkeypatch.setenv(name, value)
    yield proxy
    proxy.close()


@pytest.fixture
def storage(proxy: s3_faults.S3Proxy, tmp_path: Path) -> Remote:
    return Remote(f"s3://{servers.BUCKET}/{tmp_path.name}")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A folder with eight files, of which one is uploaded in parts."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "weights").write_bytes(bytes(11_000_000))
    for number in range(7):
        (folder / f"{number}.json").write_text("{}")
    return folder


@pytest.fixture
def small_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system with little room."""
    folder = tmp_path / "small"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={SMALLEST}k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(words, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize(
    "refusal", [(507, "InsufficientStorage"), (507, "XMinioStorageFull"), (403, "QuotaExceeded")], ids=str
)
def test_room_on_s3_is_waited_for(
    refusal: tuple[int, str],
    proxy: s3_faults.S3Proxy,
    storage: Remote,
    checkpoint: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    storage.store(checkpoint / "0.json", "before")
    monkeypatch.setattr(remote.time, "sleep", lambda seconds: None)
    proxy.refusal, proxy.left = refusal, 12
    storage.store_folder(checkpoint, "it")
    assert not proxy.left
    assert storage.files("it") == {path.name: path.stat().st_size for path in checkpoint.iterdir()}
    told = capfd.readouterr().err
    assert f"{storage.address}: the storage is full, free space on it: " in told and "trying again for 90 s" in told


def test_s3_that_stays_full_is_told_with_its_address_and_a_remedy(
    proxy: s3_faults.S3Proxy, storage: Remote, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "FULL_SECONDS", 0.0)
    storage.store(checkpoint / "0.json", "0.json")
    proxy.left = 1000
    with pytest.raises(StorageFullError, match=rf"{storage.address}: the storage is full, .*HTTP status 507") as error:
        storage.store_folder(checkpoint, "it")
    assert "--resume, once --storage has room" in error.value.remedy
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)
    with pytest.raises(StorageFullError):
        storage.check()
    proxy.left = 0
    assert storage.files() == {"0.json": 2}, "no half file"


def test_s3_that_asks_for_fewer_requests_gets_them_again(
    proxy: s3_faults.S3Proxy, storage: Remote, checkpoint: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    proxy.refusal, proxy.left = (503, "SlowDown"), 3
    storage.store(checkpoint / "0.json", "a")
    assert storage.files() == {"a": 2} and not proxy.left
    assert not capfd.readouterr().err


def test_files_of_a_slow_s3_are_copied_at_once(
    proxy: s3_faults.S3Proxy, storage: Remote, checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Training waits for a checkpoint: about as long as for one file."""
    proxy.together = 6
    storage.store_folder(checkpoint, "it")
    assert not proxy.together
    files, proxy.together = storage.files("it"), 6
    storage.fetch_folder("it", tmp_path / "copy", files)
    assert not proxy.together
    assert {path.name: path.stat().st_size for path in (tmp_path / "copy").iterdir()} == files
    assert not capfd.readouterr().err


def test_s3_that_falls_silent_is_told_and_asked_again(
    proxy: s3_faults.S3Proxy, checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(remote, "S3_TIMEOUT", 1.0)  # the shortest that there is
    monkeypatch.setattr(remote, "SLOW_SECONDS", 0.2)
    storage = Remote(f"s3://{servers.BUCKET}/{tmp_path.name}")
    proxy.silent = 3
    storage.store_folder(checkpoint, "it")
    assert storage.files("it") == {path.name: path.stat().st_size for path in checkpoint.iterdir()}
    assert f"{storage.address}: writing it/" in capfd.readouterr().err


def test_s3_that_stays_silent_is_an_error(
    proxy: s3_faults.S3Proxy, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"S3_TIMEOUT": 1.0, "S3_ATTEMPTS": 2}.items():
        monkeypatch.setattr(remote, name, value)
    storage = Remote(f"s3://{servers.BUCKET}/{tmp_path.name}")
    proxy.silent = 1000
    with pytest.raises(StorageError, match=f"{storage.address}: ") as error:
        storage.check()
    assert "--storage" in error.value.remedy
    with pytest.raises(StorageError):
        storage.store(checkpoint / "0.json", "a")


def test_room_in_a_shared_folder_is_waited_for(
    small_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Remote(str(small_folder / "storage"))
    storage.check()
    (small_folder / "of others").write_bytes(bytes((SMALLEST - 4) * 1024))
    (tmp_path / "file").write_bytes(bytes(SMALLEST * 512))

    def pause(seconds: float) -> None:
        assert storage.files() == {}, "what does not fit takes no room"
        (small_folder / "of others").unlink()

    monkeypatch.setattr(remote.time, "sleep", pause)
    storage.store(tmp_path / "file", "deep/file")
    assert storage.files() == {"deep/file": SMALLEST * 512}
    assert f"{storage.address}: the storage is full, free space on it: [Errno {errno.ENOSPC}]" in capfd.readouterr().err
