"""Opening an MLflow store, the errors of one that fails, and texts that it takes."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import mlflow
import requests
from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_TIMEOUT
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy.exc import SQLAlchemyError

from asr_platform.compat.mlflow import NOT_ACTIVE, OTHER_SCHEMA, configure
from asr_platform.storage.database import connect, database_file
from trainables.errors import InputError

FAILURES = (MlflowException, SQLAlchemyError, requests.RequestException, OSError)
"""Errors of a store that is away, full or locked."""
UPLOAD_TIMEOUT = 600  # seconds that a server may take to store a model


def open_client(uri: str) -> MlflowClient:
    """Client of the MLflow store at `uri`; a SQLite file must exist (`make_database` makes one).

    Raises:
        MlflowException: the SQLite file is missing or cannot be opened, or the database has tables of another MLflow
            version; the message says what to do.
    """
    configure()
    if problem := _unusable(uri):
        raise MlflowException(problem)
    try:
        return MlflowClient(uri)
    except MlflowException as error:
        if OTHER_SCHEMA not in str(error):
            raise
    raise MlflowException(
        f"the database is of another version than MLflow {mlflow.__version__}; back it up, then run: "
        f"mlflow db upgrade {uri} (where that fails, it is of a newer MLflow: install that)"
    )


def _unusable(uri: str) -> str:
    """Why the SQLite file of a store cannot be opened; empty if it can be, and for other kinds of stores.

    MLflow would make a missing file, in the folder of a disk that is not mounted, say, and find no run there.
    """
    path = database_file(uri)
    try:
        if path is None:
            return ""
        if not path.is_file():
            lacking = "there is no such file" if path.parent.is_dir() else f"there is no folder {path.parent}"
            return f"{path}: {lacking}; mount its disk or put it back"
        connect(path).close()
        return ""
    except (OSError, sqlite3.Error) as error:
        return f"{path}: {error}; give yourself access to the file and its folder"


def check_readable(uri: str) -> None:
    """Reads an experiment from the database at an address.

    Raises:
        InputError: MLflow cannot read the database.
    """
    try:
        open_client(uri).search_experiments(max_results=1)
    except FAILURES as error:
        raise InputError(
            f"{uri}: cannot be read: {one_line(error, 400)}", "Repair the database, or name another one."
        ) from None


def paged(search: Callable[..., Any], *arguments: Any, **options: Any) -> Iterator[Any]:
    """Yields all results of a search of a client, such as `search_runs`, which returns one page of them at a time."""
    token: str | None = None
    while True:
        page = search(*arguments, **options, page_token=token)
        yield from page
        token = page.token or None
        if token is None:
            return


def as_texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Values as valid UTF-8 texts; undecodable bytes of file names are written as the escape \\udcXX."""
    return {key: str(value).encode(errors="backslashreplace").decode() for key, value in values.items()}


def is_deleted(error: BaseException) -> bool:
    """Whether a request failed because its run or experiment has been deleted."""
    deleted = isinstance(error, MlflowException) and NOT_ACTIVE in str(error)
    return deleted or is_missing(error)


def is_missing(error: BaseException) -> bool:
    """Whether a request failed because the requested object is not in the store."""
    return isinstance(error, MlflowException) and error.error_code == "RESOURCE_DOES_NOT_EXIST"


def one_line(error: BaseException, length: int = 200) -> str:
    """The message of an error in one line of at most `length` characters."""
    return " ".join(str(error).split())[:length] or type(error).__name__


@contextmanager
def upload_timeout() -> Iterator[None]:
    """Allows a server UPLOAD_TIMEOUT seconds for each answer, within the block."""
    usual = MLFLOW_HTTP_REQUEST_TIMEOUT.get()
    MLFLOW_HTTP_REQUEST_TIMEOUT.set(max(usual, UPLOAD_TIMEOUT))
    try:
        yield
    finally:
        MLFLOW_HTTP_REQUEST_TIMEOUT.set(usual)
