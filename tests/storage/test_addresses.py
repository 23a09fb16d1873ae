"""The addresses of a home: checked, kept, and never changed under sweeps that are there."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest
import records
from ray.train.v2._internal.execution.storage import StorageContext

from asr_platform.storage.addresses import (
    ADDRESSES,
    Addresses,
    addresses_of,
    checked_ledger,
    checked_storage,
    chosen,
    chosen_for,
)
from asr_platform.storage.home import Home
from trainables.errors import InputError
from trainables.storage.remote import Remote


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("s3://speech/research/", "s3://speech/research"),
        ("s3://speech/r/?region=eu-west-1", "s3://speech/r?region=eu-west-1"),
        ("gs://speech", "gs://speech"),
        ("gcs://speech/", "gs://speech"),
        ("S3://speech//a/./b/../c//", "s3://speech/a/c"),
        ("s3://speech/../a", "s3://speech/a"),
        ("s3://speech/my runs/%C3%A4", "s3://speech/my%20runs/%C3%A4"),
        ("s3://speech/my%20runs/ä", "s3://speech/my%20runs/%C3%A4"),
        ("s3://speech/100%/a#1", "s3://speech/100%25/a%231"),
        ("s3://speech/a%2fb%2F%2e%2E/c", "s3://speech/a/c"),
        ("s3://speech/date=2026-11-30/a+b~c", "s3://speech/date=2026-11-30/a+b~c"),
        (" s3://speech/x\n", "s3://speech/x"),
        ("s3://speech/x?scheme=http&endpoint_override=h", "s3://speech/x?endpoint_override=h&scheme=http"),
        ("file:///shared", "/shared"),
        ("file:///tmp//x", "/tmp/x"),
        ("file:////tmp/x/", "/tmp/x"),
        ("file://localhost/tmp/./y/../x", "/tmp/x"),
        ("file:/tmp/x", "/tmp/x"),
        ("file:///my%20runs/100%25", "/my runs/100%"),
        ("file:///my runs", "/my runs"),
        ("file:///", "/"),
        ("/shared/../sweeps", "/sweeps"),
        ("//shared//sweeps/", "/shared/sweeps"),
        ("/my runs/100%25#1?", "/my runs/100%25#1?"),
    ],
)
def test_storages_are_known_by_one_address_each(given: str, kept: str) -> None:
    assert checked_storage(given) == kept
    assert checked_storage(kept) == kept


@pytest.mark.parametrize("form", ["{}/", "/{}", "file://{}", "file:///{}/./", "file://localhost{}/x/.."])
def test_a_storage_and_ray_mean_the_same_folder_by_an_address_in_any_form(form: str, tmp_path: Path) -> None:
    folder = tmp_path / "my runs" / "100%"
    given = form.format(quote(str(folder)) if "file:" in form else folder)
    remote = Remote(checked_storage(given))
    trial = StorageContext(remote.path("sweeps"), "a/trials/trial-0000", storage_filesystem=remote.filesystem)
    assert trial.experiment_fs_path == remote.path("sweeps/a/trials/trial-0000")
    (tmp_path / "file").write_text("x")
    remote.store(tmp_path / "file", "sweeps/a/file")
    assert (folder / "sweeps" / "a" / "file").read_text() == "x"


def test_the_address_of_an_early_home_is_the_one_by_which_the_storage_is_known_now(tmp_path: Path) -> None:
    (tmp_path / ADDRESSES).write_text('{"storage": "file:///shared//x/", "ledger": null}')
    with chosen_for("/shared/x", None):
        assert addresses_of(tmp_path, owns_ledger=True) == Addresses("/shared/x")


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("http://host/folder", "--storage http://host/folder: no such kind of address"),
        ("s3://", "--storage s3://: no such kind of address"),
        ("s3:/speech", "--storage s3:/speech: no such kind of address"),
        ("-s3://speech", "--storage -s3://speech: no such kind of address"),
        ("s3://speech/%FF", "--storage s3://speech/%FF: its percent-encoding is no UTF-8"),
        ("s3://[speech", "--storage s3://[speech: no address: Invalid IPv6 URL"),
        ("file://host/folder", "--storage file://host/folder: no such kind of address"),
        ("file:///folder?region=a", "--storage file:///folder: no such kind of address"),
        ("s3://me:secret@speech/x", "--storage s3://...@speech/x: a user or key in the address would be kept"),
        ("s3://speech/x?secret_key=a", "--storage s3://speech/x: a user or key in the address would be kept"),
    ],
)
def test_storages_that_are_none_or_tell_a_secret_are_refused(address: str, problem: str) -> None:
    with pytest.raises(InputError) as error:
        checked_storage(address)
    assert error.value.problem.startswith(problem) and "me:secret" not in str(error.value)


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("mysql://host/x", "--ledger mysql://host/x: no such kind of address"),
        ("sqlite:////x.db", "--ledger sqlite:////x.db: no such kind of address"),
        ("postgresql://me:secret@host/x", "--ledger: a password in the address would be kept in the home"),
        ("postgresql+no://host/x", "--ledger postgresql+no://host/x: no is not the driver"),
        (
            "postgresql+psycopg2://a:secret@host/x",
            "--ledger postgresql+psycopg2://...@host/x: psycopg2 is not the driver",
        ),
    ],
)
def test_ledgers_that_are_none_or_tell_a_secret_are_refused(address: str, problem: str) -> None:
    with pytest.raises(InputError) as error:
        checked_ledger(address)
    assert error.value.problem.startswith(problem) and "secret" not in str(error.value)
    assert checked_ledger("postgres://me@host/x") == "postgresql://me@host/x"


def test_a_home_keeps_its_addresses(tmp_path: Path) -> None:
    storage = str(tmp_path / "shared")
    with chosen_for(storage, None):
        assert chosen() == Addresses(storage)
        home = Home.at(tmp_path / "home")
    assert chosen() == Addresses()
    assert Home.at(tmp_path / "home") == home and home.storage
    assert home.storage.address == storage and (tmp_path / "shared").is_dir()
    with chosen_for(str(tmp_path / "other"), None), pytest.raises(InputError, match=r"its --storage is .*/shared, not"):
        Home.at(tmp_path / "home")
    with chosen_for(None, "postgresql://host/x"), pytest.raises(InputError, match="its --ledger is the home itself"):
        Home.at(tmp_path / "home")


def test_sweeps_of_a_home_of_its_own_are_not_moved(tmp_path: Path) -> None:
    records.ledger_in(tmp_path)
    for storage, ledger in ((str(tmp_path / "shared"), None), (None, "postgresql://host/x")):
        with chosen_for(storage, ledger), pytest.raises(InputError, match="has sweeps of its own"):
            Home.existing(tmp_path)
    assert not (tmp_path / "shared").exists()
    assert Home.existing(tmp_path).addresses == Addresses()


def test_a_storage_that_takes_no_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with chosen_for(str(tmp_path / "file" / "storage"), None), pytest.raises(InputError, match="file/storage: "):
        Home.at(tmp_path / "home")
    assert Home.at(tmp_path / "home").storage is None, "the address was not kept"
