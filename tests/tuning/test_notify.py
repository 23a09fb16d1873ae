"""Whoever wants to know that a sweep has come to rest is told, and whoever cannot be told ends nothing."""

from __future__ import annotations

import json
import os
import pty
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import records
from webhook import Webhook

from asr_platform.analysis.bootstrap import CerInterval, ConfidenceInterval
from asr_platform.tuning.callbacks.notify import check_targets, message, notify
from trainables.errors import InputError

SECRET = "/services/T000/s3cret"
TRIALS = [records.trial(0, "pruned", [0.5]), records.trial(1, "complete", [0.5, 0.25]), records.trial(2, "failed")]


def test_what_is_told() -> None:
    intervals = {1: CerInterval(ConfidenceInterval(0.2, 0.3), False)}
    told = message("small", "finished", "", TRIALS, intervals, Path("/home/models/small"), 90.0)
    assert told == {
        "name": "small", "state": "finished", "reason": "", "best_trial": 1, "val_cer": 0.25,
        "val_cer_interval": [0.2, 0.3], "model": "/home/models/small", "minutes": 1.5,
        "text": "sweep small finished after 1.5 min; best: trial 1, val CER 25.00%",
    }  # fmt: skip
    told = message("small", "finished", "", [records.trial(0, "complete", [0.97])], {}, None, 90.0)
    assert told["text"].endswith("val CER 97.00%; nothing learned")
    told = message("small", "failed", "RuntimeError: gone", TRIALS[2:], {}, None, 0.0)
    assert (told["best_trial"], told["val_cer"], told["val_cer_interval"], told["model"]) == (None,) * 4
    assert told["text"] == "sweep small failed after 0 min (RuntimeError: gone)"
    assert message("small", "stopped", "", [], {}, None, 0.0)["best_trial"] is None


def test_it_is_posted_as_json(webhook: Webhook) -> None:
    said: list[str] = []
    told = message("small", "finished", "", TRIALS, {}, None, 90.0)
    notify([webhook.url + SECRET, webhook.url], told, said.append)
    assert [(path, json.loads(body)) for path, body in webhook.posts] == [(SECRET, told), ("/", told)]
    assert webhook.types == ["application/json"] * 2
    assert said == []


def test_who_cannot_be_told_is_named_once_without_the_address(webhook: Webhook) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = server.getsockname()[1]
    said: list[str] = []
    webhook.status = 403
    notify([f"http://127.0.0.1:{closed}{SECRET}", webhook.url + SECRET], {"name": "small"}, said.append)
    assert said == [
        "127.0.0.1 could not be notified: ConnectionError",
        "127.0.0.1 could not be notified: it answered 403",
    ]


def test_what_is_no_target_is_refused() -> None:
    assert check_targets(["bell", "https://example.org/x", "http://127.0.0.1:8000"])
    for target in ("beep", "example.org/x", "ftp://example.org", "http://", "/tmp/file"):
        with pytest.raises(InputError, match="neither bell nor an http address"):
            check_targets(["bell", target])


def test_the_bell_rings_on_a_terminal_alone() -> None:
    code = "from asr_platform.tuning.callbacks.notify import notify; notify(['bell'], {}, print)"
    piped = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert (piped.stdout, piped.stderr) == (b"", b"")
    master, terminal = pty.openpty()
    subprocess.run([sys.executable, "-c", code], stdout=terminal, check=True)
    os.close(terminal)
    assert os.read(master, 100) == b"\a"
    os.close(master)
