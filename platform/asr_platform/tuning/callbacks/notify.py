"""Notifies a person when a run of a sweep has ended: by the terminal's bell, or by a POST to a URL.

The targets are given for each run and never stored: their URLs are often secrets.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from asr_platform.analysis.bootstrap import CerInterval
from asr_platform.analysis.leaderboard import ranked, rows
from asr_platform.analysis.learning import nothing_learned
from asr_platform.study.ledger import TrialRecord
from trainables.errors import InputError
from trainables.evaluation.metrics import OBJECTIVES, objective_text

BELL = "bell"
TIMEOUT = 10  # seconds


def check_targets(targets: Sequence[str]) -> Sequence[str]:
    """Returns the targets if each is `bell` or a URL to post to.

    Raises:
        InputError: a target is neither.
    """
    for target in targets:
        if target != BELL and not _is_address(target):
            raise InputError(f"--notify {target}: neither bell nor an http address", "For example: --notify bell.")
    return targets


def _is_address(target: str) -> bool:
    try:
        parts = urlsplit(target)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # such as an IPv6 address without its end
        return False


def notify(targets: Sequence[str], message: Mapping[str, Any], say: Callable[[str], None]) -> None:
    """Rings the terminal's bell, and posts the message as JSON to each URL, once; `say` prints failures."""
    for target in targets:
        if target == BELL:
            if sys.stdout.isatty():
                print("\a", end="", flush=True)
            continue
        try:
            requests.post(target, json=dict(message), timeout=TIMEOUT).raise_for_status()
        except requests.RequestException as error:
            # Neither the URL nor the error's text, which repeats it: it may be a secret.
            answer = getattr(error.response, "status_code", None)
            why = f"it answered {answer}" if answer else type(error).__name__
            say(f"{urlsplit(target).hostname} could not be notified: {why}")


def message(
    name: str, state: str, reason: str, trials: list[TrialRecord], intervals: Mapping[int, CerInterval],
    model: Path | None, seconds: float,
) -> dict[str, Any]:  # fmt: skip
    """Notification, as JSON, that a run of a sweep has ended; error rates are fractions.

    Args:
        state: `finished`, `capped`, `paused`, `stopped` or `failed`.
        reason: reason for a state other than `finished`, in words.
        seconds: wall-clock time of all of the sweep's runs.
    """
    best = next(iter(rows(trials, intervals)), None)
    key = next((key for key in OBJECTIVES if best and best.get(key) is not None), None)
    minutes = round(seconds / 60, 1)
    text = f"sweep {name} {state} after {minutes:g} min" + (f" ({reason})" if reason else "")
    if best and key:
        text += f"; best: trial {best['trial']}, {OBJECTIVES[key]} {objective_text({key: best[key]})}"
        text += "; nothing learned" if nothing_learned(ranked(trials)[0].best) else ""
    return {
        "name": name,
        "state": state,
        "reason": reason,
        "best_trial": best["trial"] if best and key else None,
        key or "val_cer": best[key] if best and key else None,
        "val_cer_interval": best["val_cer_interval"] if best else None,
        "model": str(model) if model else None,
        "minutes": minutes,
        "text": text,  # what Slack and Mattermost show
    }
