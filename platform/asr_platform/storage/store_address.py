"""Checks the address of an MLflow store before anything is written there."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import parse_qsl, unquote_plus, urlsplit

from trainables.errors import InputError

OPTION, VARIABLE = "--tracking-uri", "MLFLOW_TRACKING_URI"
SERVERS = ("http", "https")
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
KINDS = "a server's, such as http://HOST:5000, or a database's, such as postgresql://HOST/NAME"
SECRET = re.compile(
    r"pass(word|wd|phrase)?$|pwd$|token|secret|credential|(api|access|account)_?key|^sig$", re.IGNORECASE
)
ELSEWHERE = {
    True: "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, where one is needed",
    False: "~/.pgpass or the like",
}
"""Where passwords belong, by whether the store is a server."""
SQLITE = b"SQLite format 3\0"  # how such a file begins (https://www.sqlite.org/fileformat.html)


def checked_uri(uri: str, said: str = OPTION, existing: bool = False) -> str:
    """Returns the address of an MLflow server or database, if it is usable.

    Args:
        said: option or variable with the address, for messages.
        existing: whether a SQLite file must exist; MLflow would make a missing one.

    Raises:
        InputError: the address is of another kind, contains a password or token (addresses are stored in the home),
            names a file that is not a database, or needs a driver that is not installed.
    """
    try:
        parts = urlsplit(uri)
        kind = parts.scheme.partition("+")[0]
        usable = kind in DATABASES or (kind in SERVERS and bool(parts.hostname) and parts.port != 0)
    except ValueError as error:  # such as an IPv6 address without its end
        raise InputError(f"{said} {_without_user(uri)}: no address: {error}", f"Give {KINDS}.") from None
    if not usable:
        raise InputError(f"{said} {_without_user(uri)}: no such kind of address", f"Give {KINDS}.")
    _refuse_secrets(uri, kind, said)
    if kind == "sqlite" and not uri.startswith("sqlite:////"):
        raise InputError(f"{said} {uri}: not an absolute path", "Give sqlite:////FOLDER/FILE, with four slashes.")
    if kind in DATABASES:
        _check_database(uri, said, existing)
    return uri


def named_uri() -> str | None:
    """The checked address in $MLFLOW_TRACKING_URI, whose SQLite file must exist; None if the variable is not set.

    Raises:
        InputError: the address is not usable (see `checked_uri`).
    """
    uri = os.environ.get(VARIABLE)
    return checked_uri(uri, VARIABLE, existing=True) if uri else None


def _refuse_secrets(uri: str, kind: str, said: str) -> None:
    """Raises InputError if the address may contain a password or token; the message does not repeat it."""
    parts = urlsplit(uri)
    server = kind in SERVERS
    found = None
    if parts.password is not None:
        found = "a password"
    elif server and parts.username is not None:
        found = "a user or token"
    elif server and (parts.query or parts.fragment):
        found = "what follows ? or #, such as a token,"
    elif kind != "sqlite" and parts.fragment:
        found = "what follows #, such as a token,"
    elif any(SECRET.search(word) for word in _keys(parts.query)):
        found = "a password or token"
    if found:
        raise InputError(f"{said}: {found} in the address would be kept in the home", f"Use {ELSEWHERE[server]}.")


def _keys(query: str) -> list[str]:
    """Names of the parameters in a query string, including those inside ODBC connection strings."""
    pairs = parse_qsl(query, keep_blank_values=True)
    inner = [re.findall(r"\w+(?=\s*=)", unquote_plus(value)) for _, value in pairs]
    return [key for key, _ in pairs] + [word for words in inner for word in words]


def _check_database(uri: str, said: str, existing: bool) -> None:
    from sqlalchemy import make_url  # every command imports this module, and few need that
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    try:
        address = make_url(uri)
        address.get_dialect().import_dbapi()
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        raise InputError(f"{said} {uri}: {error}", "Install the database's driver with pip.") from None
    except (ArgumentError, ValueError) as error:
        raise InputError(f"{said} {uri}: no address: {error}", f"Give {KINDS}.") from None
    if address.get_backend_name() == "sqlite":
        problem = _wrong_with(Path(address.database or "/"), existing)
        if problem:
            remedy = "Correct the path." if said == OPTION else f"Correct it, unset it, or give {OPTION}."
            raise InputError(f"{said} {uri}: {problem}", remedy)


def _wrong_with(file: Path, existing: bool) -> str:
    """Reason why `file` cannot be used as a SQLite database; empty if it can be opened or created."""
    try:
        if not file.exists():
            return "there is no such file" if existing else ""
        if not file.is_file():
            return "not a file"
        with file.open("rb") as content:
            beginning = content.read(len(SQLITE))
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return "" if beginning in (b"", SQLITE) else "not a SQLite database"


def _without_user(uri: str) -> str:
    """The address for messages, without the part that may contain a password."""
    return re.sub(r"//[^/]*@", "//...@", uri)
