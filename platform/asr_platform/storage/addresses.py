"""The addresses of a home: of the storage of checkpoints and models, and of the ledger's database.

A home without addresses has everything itself. One with them is a cache: another home with the same addresses, on
another machine, has the same sweeps. A home keeps its addresses, so that nobody need repeat them.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from asr_platform.storage.store_address import SECRET, checked_uri
from trainables.errors import InputError

ADDRESSES = "addresses.json"  # in a home
STORAGE, LEDGER = "--storage", "--ledger"
VARIABLES = {STORAGE: "ASR_PLATFORM_STORAGE", LEDGER: "ASR_PLATFORM_LEDGER"}
ADDRESS = re.compile(r"[A-Za-z][\w+.-]*:/")  # how an address begins that is no path
BUCKETS = {"s3": "s3", "gs": "gs", "gcs": "gs"}  # schemes, and how they are written here
UNQUOTED = "/!$&'()*+,;=:@"  # what may be in the path of a URI as it is, besides letters and digits (RFC 3986)
KIND = "s3://BUCKET/FOLDER, gs://BUCKET/FOLDER or a folder that all machines see"


@dataclass(frozen=True)
class Addresses:
    """Addresses of a home.

    Args:
        storage: of the storage, as `checked_storage` returns it; None: the home's own folder.
        ledger: of the ledger's PostgreSQL database; None: a SQLite file in the home.
    """

    storage: str | None = None
    ledger: str | None = None


NONE = Addresses()


def chosen() -> Addresses:
    """The checked addresses in the environment, where the options --storage and --ledger leave theirs.

    Raises:
        InputError: an address is not usable.
    """
    storage, ledger = (os.environ.get(name) or None for name in VARIABLES.values())
    return Addresses(storage and checked_storage(storage), ledger and checked_ledger(ledger))


@contextmanager
def chosen_for(storage: str | None, ledger: str | None) -> Iterator[None]:
    """Context in which `chosen` returns these addresses, and those of the environment for None."""
    before = dict(os.environ)
    os.environ.update({name: value for name, value in zip(VARIABLES.values(), (storage, ledger), strict=True) if value})
    try:
        yield
    finally:
        for name in VARIABLES.values():
            if name in before:
                os.environ[name] = before[name]
            else:
                os.environ.pop(name, None)


def checked_storage(address: str) -> str:
    """Returns the one address by which a storage is known, however it was written; nothing is opened.

    Folders of this machine become absolute paths, `file://` or not. Other paths have no slash at their end, no empty
    part, `.` or `..`, the percent-encoding that URIs need, and a sorted query: pyarrow reads them as they are, Ray
    without these parts.

    Raises:
        InputError: the address is of another kind, or contains a key (addresses are kept in the home and in ledgers).
    """
    address = address.strip()
    if not ADDRESS.match(address) and "://" not in address:
        return _plain(os.path.abspath(os.path.expanduser(address)))
    shown = re.sub(r"//[^/]*@", "//...@", address.partition("?")[0])
    try:
        parts = urlsplit(address, allow_fragments=False)
    except ValueError as error:  # such as an IPv6 address without its end
        raise InputError(f"{STORAGE} {shown}: no address: {error}", f"Give {KIND}.") from None
    is_folder = parts.scheme == "file" and parts.netloc in ("", "localhost") and not parts.query
    if not is_folder and not (parts.scheme in BUCKETS and parts.netloc):
        raise InputError(f"{STORAGE} {shown}: no such kind of address", f"Give {KIND}.")
    names = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True)]
    if "@" in parts.netloc or any(SECRET.search(name) for name in names):
        raise InputError(
            f"{STORAGE} {shown}: a user or key in the address would be kept in the home",
            "Use AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, ~/.aws, GOOGLE_APPLICATION_CREDENTIALS or the like.",
        )
    try:
        path = _plain(unquote(parts.path, errors="strict"))
    except UnicodeDecodeError:
        raise InputError(f"{STORAGE} {shown}: its percent-encoding is no UTF-8", f"Give {KIND}.") from None
    if is_folder:
        return path
    query = f"?{'&'.join(sorted(parts.query.split('&')))}" if parts.query else ""
    return f"{BUCKETS[parts.scheme]}://{parts.netloc}{quote(path.rstrip('/'), UNQUOTED)}{query}"


def _plain(path: str) -> str:
    """An absolute path without empty parts, `.`, `..` and a slash at its end; POSIX would keep two at its beginning."""
    return posixpath.normpath(f"/{path.lstrip('/')}")


def checked_ledger(address: str) -> str:
    """Returns the address of a PostgreSQL database; it is not opened.

    Raises:
        InputError: the address is of another kind, contains a password, or needs a driver that is not installed.
    """
    kind, _, driver = urlsplit(address).scheme.partition("+")
    shown = re.sub(r"//[^/]*@", "//...@", address)
    if kind not in ("postgresql", "postgres"):
        raise InputError(f"{LEDGER} {shown}: no such kind of address", "Give postgresql://USER@HOST/DATABASE.")
    if driver not in ("", "psycopg"):  # of other drivers, connections to a server that hangs never end
        raise InputError(f"{LEDGER} {shown}: {driver} is not the driver that is used here", f"Leave +{driver} out.")
    return checked_uri(re.sub("^postgres(?=[:+])", "postgresql", address), LEDGER)


def addresses_of(home: Path, owns_ledger: bool) -> Addresses:
    """The addresses of a home: those that it keeps, else the chosen ones, which nothing is written of.

    Args:
        owns_ledger: whether the home has sweeps in a SQLite ledger.

    Raises:
        InputError: a chosen address is not usable, or is another than the home has.
    """
    given = chosen()
    kept = _kept(home)
    if kept is None:
        if owns_ledger and given != NONE:
            raise InputError(
                f"{home}: has sweeps of its own, which {STORAGE} and {LEDGER} do not move",
                "Choose another --home, which becomes a cache; or leave them out.",
            )
        return given
    for option, now, before in ((STORAGE, given.storage, kept.storage), (LEDGER, given.ledger, kept.ledger)):
        if now is not None and now != before:
            raise InputError(
                f"{home}: its {option} is {before or 'the home itself'}, not {now}", "Choose another --home."
            )
    return kept


def keep_addresses(home: Path, addresses: Addresses) -> None:
    """Keeps the addresses in a home that is new."""
    if addresses != NONE and _kept(home) is None:
        partial = home / f".{ADDRESSES}.partial"
        partial.write_text(json.dumps(asdict(addresses)) + "\n", encoding="utf-8")
        os.replace(partial, home / ADDRESSES)


def _kept(home: Path) -> Addresses | None:
    try:
        kept = Addresses(**json.loads((home / ADDRESSES).read_text(encoding="utf-8")))
        return replace(kept, storage=kept.storage and checked_storage(kept.storage))  # of early homes, as it was given
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError) as error:
        problem = f"{home / ADDRESSES}: unreadable: {error}"
        raise InputError(problem, f"Delete it, and give {STORAGE} and {LEDGER}.") from None
