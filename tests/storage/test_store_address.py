"""Addresses of MLflow stores: what can be one is taken as it is, and no secret gets into the home."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from place import Run

from asr_platform.storage.store_address import VARIABLE, checked_uri, named_uri
from trainables.errors import InputError

GOOD = [
    "http://mlflow.example:5000", "https://mlflow.example/tracking", "http://[::1]:5000", "sqlite:////tmp/absent/m.db",
    "sqlite:////tmp/a%20b/m.db?timeout=60",
]  # fmt: skip
BAD = [
    ("http://[::1", "no address: Invalid IPv6 URL"),
    ("http://host:port", "no address"),
    ("http://host:99999", "no address"),
    ("postgresql://host:port/name", "no address"),
    ("http:///path", "no such kind of address"),
    ("here", "no such kind of address"),
    ("", "no such kind of address"),
    ("sqlite:///relative.db", "not an absolute path"),
    ("sqlite:////etc/passwd", "not a SQLite database"),
    ("sqlite:////etc", "not a file"),
    ("sqlite:////", "not a file"),
    ("sqlite:////etc/passwd/x.db", "no such file"),
]
SECRETS = [
    "http://me:s3cret@host", "http://s3cret@host", "https://host/?token=s3cret", "https://host#s3cret",
    "https://host/#/experiments/s3cret", "https://host?s3cret", "postgresql://me:s3cret@host/name",
    "postgresql://host/name?password=s3cret", "postgresql://host/name?sslpassword=s3cret",
    "postgresql://me@host/name#s3cret", "mysql+pymysql://host/name?passwd=s3cret",
    "mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BPWD%3Ds3cret", "sqlite:////tmp/m.db?api_key=s3cret",
    "http://me:s3cret@[::1", "htp://me:s3cret@host",
]  # fmt: skip


@pytest.mark.parametrize("uri", GOOD)
def test_an_address_is_taken_as_it_is(uri: str) -> None:
    assert checked_uri(uri) == uri


@pytest.mark.parametrize(("uri", "problem"), BAD)
def test_what_is_no_address_is_refused_with_the_reason(uri: str, problem: str) -> None:
    with pytest.raises(InputError) as error:
        checked_uri(uri, existing=True)
    assert error.value.problem.startswith("--tracking-uri") and problem in error.value.problem
    assert error.value.remedy


@pytest.mark.parametrize("uri", SECRETS)
def test_a_secret_is_refused_and_not_repeated(uri: str) -> None:
    with pytest.raises(InputError) as error:
        checked_uri(uri)
    assert "s3cret" not in str(error.value)
    assert "would be kept in the home" in error.value.problem or "[::1" in uri or "htp" in uri


@given(st.text(st.sampled_from("htps:/[]@?#%&=.0aé\n postgrlqi"), max_size=40) | st.text(max_size=20))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    for uri in (text, f"http://{text}", f"sqlite:////{text}", f"postgresql://{text}"):
        try:
            assert checked_uri(uri, existing=True) == uri
        except InputError as error:
            assert error.problem and error.remedy


def test_the_variable_is_blamed_for_its_own_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that it names must be there, and none is made; the option makes one."""
    file = tmp_path / "m.db"
    for uri, problem in (
        ("http://[::1", "Invalid IPv6"),
        ("here", "no such kind"),
        (f"sqlite:///{file}", "no such file"),
    ):
        monkeypatch.setenv(VARIABLE, uri)
        with pytest.raises(InputError, match=problem) as error:
            named_uri()
        assert error.value.problem.startswith(f"{VARIABLE} {uri}")
        assert "--tracking-uri" not in error.value.problem
    assert not file.exists() and checked_uri(f"sqlite:///{file}") == f"sqlite:///{file}"
    sqlite3.connect(file).execute("CREATE TABLE a (b)")
    assert named_uri() == f"sqlite:///{file}"
    monkeypatch.delenv(VARIABLE)
    assert named_uri() is None


@pytest.mark.parametrize("command", ["sweep right.yaml --data corpus", "train right.yaml --data corpus",
                                     "evaluate models:/small/1 --data corpus --split dev"])  # fmt: skip
def test_commands_name_the_variable(command: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, f"sqlite:///{tmp_path}/absent.db")
    ended = run(*command.split())
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"platform: {VARIABLE} sqlite:///{tmp_path}/absent.db: there is no such file\n")
