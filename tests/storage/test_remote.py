"""Remote storage: one contract for a shared folder and for S3, which may be away for a while."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import servers

from trainables.storage import remote
from trainables.storage.remote import Remote, StorageError

Open = Callable[[], Remote]


@pytest.fixture(params=["folder", "s3", "s3 by its endpoint"])
def opened(request: pytest.FixtureRequest, tmp_path: Path, s3_port: int, monkeypatch: pytest.MonkeyPatch) -> Remote:
    """A new, empty storage of each kind."""
    if request.param == "folder":
        return Remote(str(tmp_path / "shared" / "storage"))
    for name, value in servers.environment(s3_port).items():
        monkeypatch.setenv(name, value)
    address = f"s3://{servers.BUCKET}/{tmp_path.name}"
    if request.param == "s3":
        return Remote(address)
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    return Remote(f"{address}?scheme=http&endpoint_override=127.0.0.1:{s3_port}")


def test_files_come_back_as_they_were(opened: Remote, tmp_path: Path) -> None:
    opened.check()
    assert opened.files() == {}
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    (source / "a.json").write_text("{}")
    (source / "empty").touch()
    (source / "deep" / "weights").write_bytes(bytes(range(256)) * 20_000)
    opened.store_folder(source, "models/one")
    sizes = {"a.json": 2, "empty": 0, "deep/weights": 5_120_000}
    assert opened.files("models/one") == sizes
    assert opened.files("models") == {f"one/{name}": size for name, size in sizes.items()}
    assert (opened.folders("models"), opened.folders("models/one")) == ({"one"}, {"deep"})
    assert opened.folders("absent") == set()
    assert (opened.text("models/one/a.json"), opened.text("models/one/absent")) == ("{}", None)
    opened.fetch_folder("models/one", tmp_path / "copy", [*sizes, "absent"])
    for name in sizes:
        assert (tmp_path / "copy" / name).read_bytes() == (source / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "copy").iterdir()) == ["a.json", "deep", "empty"]
    with pytest.raises(FileNotFoundError):
        opened.fetch("models/absent", tmp_path / "absent")
    assert not (tmp_path / "absent").exists()


def test_a_folder_that_is_stored_again_is_equal_to_its_source(opened: Remote, tmp_path: Path) -> None:
    for name in ("old", "both"):
        (tmp_path / "source").mkdir(exist_ok=True)
        (tmp_path / "source" / name).write_text("before")
    opened.store_folder(tmp_path / "source", "it")
    (tmp_path / "source" / "old").unlink()
    (tmp_path / "source" / "both").write_text("afterwards")
    opened.store_folder(tmp_path / "source", "it")
    assert opened.files("it") == {"both": 10}


def test_files_and_folders_are_deleted_and_missing_ones_are_no_error(opened: Remote, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for name in ("a/1", "a/2", "b/1"):
        opened.store(tmp_path / "file", name)
    opened.delete("a", ["1", "absent"])
    assert opened.files() == {"a/2": 1, "b/1": 1}
    opened.delete_folder("b")
    opened.delete_folder("b")
    assert opened.files() == {"a/2": 1}


def test_other_processes_open_it_anew(opened: Remote, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    opened.store(tmp_path / "file", "a")
    other = pickle.loads(pickle.dumps(opened))
    assert other.files() == {"a": 1}
    system = pickle.loads(pickle.dumps(opened.filesystem))
    assert system.get_file_info(opened.path("a")).size == 1 and type(system) is type(opened.filesystem)
    assert b"test" not in pickle.dumps(opened.filesystem).replace(tmp_path.name.encode(), b""), "no key in it"


def test_requests_wait_for_a_server_that_comes_back(
    s3_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = servers.Proxy(s3_port)
    for name, value in servers.environment(proxy.port).items():
        monkeypatch.setenv(name, value)
    storage = Remote(f"s3://{servers.BUCKET}/away")
    (tmp_path / "file").write_text("x")
    storage.store(tmp_path / "file", "a")
    proxy.close()
    threading.Timer(8, proxy.start).start()
    storage.store(tmp_path / "file", "b")
    assert storage.files() == {"a": 1, "b": 1}
    proxy.close()


def test_a_server_that_stays_away_is_told_with_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "S3_ATTEMPTS", 2)
    for name, value in servers.environment(servers.unused_port()).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StorageError, match=r"s3://bucket/away: .*NETWORK_CONNECTION") as error:
        Remote("s3://bucket/away").check()
    assert "credentials" in error.value.remedy
    again = pickle.loads(pickle.dumps(error.value))
    assert str(again) == str(error.value)


def test_nobody_is_asked_where_a_bucket_is_if_the_region_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """pyarrow would ask AWS, which no test can reach, deaf to Ctrl-C."""
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    storage = Remote("s3://speech/my%20runs/?scheme=https")
    assert storage.path("a/b") == "speech/my runs/a/b" and storage.path() == "speech/my runs"
    assert storage.filesystem.region == "eu-west-1"


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("s3://speech/runs?endpoint_overide=http://10.0.0.1:9000", "unknown parameter endpoint_overide; there are"),
        ("s3:///runs?region=eu-west-1", "no bucket is named"),
    ],
)
def test_a_mistake_in_an_address_is_told(address: str, problem: str) -> None:
    """A file on the wrong server would be found by nobody."""
    with pytest.raises(StorageError, match=problem):
        Remote(address).path()


def test_a_bucket_that_is_not_there_is_told(s3_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in servers.environment(s3_port).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StorageError, match=r"s3://absent/x: .*bucket"):
        Remote("s3://absent/x").check()
    with pytest.raises(StorageError, match="nosuch://x"):
        Remote("nosuch://x").check()
