"""Requests to the driver of a sweep: what other processes ask for while it runs.

A request is an attribute of the sweep's study. Any process writes one; the driver, which alone changes trials, reads
the requests every few seconds, acts on them in the order of their writing (`acts.py`), and adds its answer. A request
without an answer is acted on when the sweep goes on, whatever happened to the driver.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from asr_platform.storage.database import decoding
from asr_platform.storage.home import SWEEP, Home
from asr_platform.study.ledger import OF_REQUEST, Ledger
from asr_platform.study.run_record import RUN

Kind = Literal["stop", "pause", "unpause", "add", "change"]
ANSWER = ":answer"  # suffix of the key of an answer: each note has one writer, which may write it again
WAIT_SECONDS = 30.0  # for a driver's answer; the driver reads the requests every two seconds
WAIT_INTERVAL = 0.5  # seconds between looks at the ledger


@dataclass(frozen=True)
class Request:
    """A request in the ledger.

    Args:
        key: identifies the request in its sweep; keys are ordered by the time of writing.
        content: `trial`, its number, for stop, pause and unpause; `values` of a proposal for add; `trials` (a number or
            None) and `limits` for change.
        answer: what the driver did, in words; empty: nothing yet.
    """

    key: str
    kind: Kind
    content: Mapping[str, Any]
    answer: str = ""

    @property
    def shown(self) -> str:
        """The content in the words of the command line, such as `3` or `model.dropout=0.1`."""
        values = self.content.get("values") or {**self.content.get("limits", {}), "trials": self.content.get("trials")}
        pairs = [f"{key}={value}" for key, value in values.items() if value is not None]
        return " ".join(pairs) if "trial" not in self.content else str(self.content["trial"])


def write(ledger: Ledger, kind: Kind, content: Mapping[str, Any]) -> Request:
    """Writes a new request into the ledger."""
    request = Request(f"{time.time_ns():020}-{uuid.uuid4().hex}", kind, content)
    ledger.note(OF_REQUEST + request.key, {"kind": kind, "content": dict(content)})
    return request


def read(ledger: Ledger) -> list[Request]:
    """All requests of a sweep, in the order of their writing."""
    with decoding(ledger.file):
        notes = ledger.notes(OF_REQUEST)
        answers = {key.removesuffix(ANSWER): {"answer": notes[key]} for key in notes if key.endswith(ANSWER)}
        requests = sorted(key for key in notes if not key.endswith(ANSWER))
        # Earlier versions wrote the answer into the request.
        return [Request(key.removeprefix(OF_REQUEST), **{**notes[key], **answers.get(key, {})}) for key in requests]


def pending(ledger: Ledger) -> list[Request]:
    """The requests without an answer, in the order of their writing."""
    return [request for request in read(ledger) if not request.answer]


def answer(ledger: Ledger, request: Request, text: str) -> None:
    """Records what was done about a request."""
    ledger.note(OF_REQUEST + request.key + ANSWER, text)


def outcome(
    home: Home, ledger: Ledger, request: Request, platform: str = "platform", seconds: float = WAIT_SECONDS
) -> str:
    """Waits for the driver's answer to a request, in words; or says what will become of the request.

    Args:
        platform: the command line for hints, such as `platform --home runs`.
        seconds: how long to wait while a driver runs.
    """
    for _ in range(max(1, round(seconds / WAIT_INTERVAL))):
        # Both are read before the answer, which the driver may just have given as its last.
        holder = home.holder(ledger.name)
        run = ledger.about.get(RUN, {})
        found = next((one.answer for one in read(ledger) if one.key == request.key), "")
        if found:
            return found
        later = f"this is done when the sweep goes on: {platform} sweep --resume {ledger.name}"
        if not holder.startswith(SWEEP):
            return f"no driver runs: {later}"
        if run.get("ending") and holder == f"{SWEEP} {run['process']}":
            return f"this run of the sweep is ending: {later}"
        time.sleep(WAIT_INTERVAL)
    return f"the driver is busy, and does this as soon as it can; {platform} status {ledger.name} shows it"
