"""Why trials fail: an error in one line, its cause in words, and a remedy.

The ledger records a failure as one line, `Type: message`, and the cause is found from that line alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from asr_platform.study.ledger import TrialRecord

LONGEST_REASON = 500  # characters of a recorded error
WIDEST = 200  # characters of a line of a log that is shown with a failure
UNKNOWN = "unknown error"
IN_A_ROW = 3  # successive trials with the same failure that stop a sweep
Whose = Literal["configuration", "machine", "sweep"]


@dataclass(frozen=True)
class Cause:
    """A cause of failures.

    Args:
        words: description.
        remedy: a phrase that continues "try".
        whose: `configuration`: the trial would fail again; `machine`: the trial has lost a process, and can continue
            from its checkpoint; `sweep`: every trial would fail, so the sweep stops until it is resumed.
    """

    words: str
    remedy: str
    whose: Whose = "configuration"


DIVERGED = "diverged: the loss is no longer a number"
RESUME = "to go on from its checkpoint: platform sweep --resume NAME"
KNOWN = {
    r"(CUDA|HIP) out of memory|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED": Cause(
        "out of memory: that of the GPU",
        "a lower training.pass_seconds (an update stays the same), a smaller model, or fewer trials a GPU: "
        "--gpus-per-worker 1",
    ),
    r"low on memory|NODE_OUT_OF_MEMORY|memory usage threshold": Cause(
        "out of memory: Ray ended a worker because its machine was nearly full",
        "fewer trials at once (--max-concurrent), a lower training.pass_seconds, or end what else runs there",
    ),
    r"^\w*MemoryError\b|DefaultCPUAllocator|Cannot allocate memory|bad_alloc": Cause(
        "out of memory: that of the machine",
        "a lower training.pass_seconds, a smaller model, or fewer trials at once: --max-concurrent",
    ),
    r"^DivergedError\b": Cause(
        DIVERGED,
        "a lower optimizer.lr, a longer optimizer.warmup or a smaller training.clip_norm",
    ),
    r"^StorageFullError\b|HTTP status 507|InsufficientStorage|StorageFull|QuotaExceeded": Cause(
        "the storage is full",
        "more room on --storage, then platform sweep --resume NAME; a lower keep in the space takes less",
        "sweep",
    ),
    r"No space left on device|Disk quota exceeded|OutOfDiskError|File too large|os error 28": Cause(
        "the disk is full",
        "more room where --home and Ray's /tmp/ray are, or --max-disk-gb, at which a sweep stops in time",
        "sweep",
    ),
    r"AWS Error (ACCESS_DENIED|NO_SUCH_BUCKET|INVALID_ACCESS_KEY_ID|SIGNATURE_DOES_NOT_MATCH)": Cause(
        "the storage refuses what the sweep writes",
        "the credentials for --storage, and its bucket, then platform sweep --resume NAME",
        "sweep",
    ),
    r"^StorageError\b|AWS Error|google::cloud|Unable to set up cluster storage": Cause(
        "the storage is out of reach",
        f"{RESUME}, once --storage answers",
        "machine",
    ),
    r"^InputError: .*not the corpus that": Cause(
        "the corpus is another than the sweep began with",
        "the corpus of before in its place, then platform sweep --resume NAME; or a new sweep",
        "sweep",
    ),
    r"^(Input|Damaged)Error\b|^Arrow\w+\b": Cause(
        "bad data, or a configuration that does not go with it",
        "platform logs NAME TRIAL for the whole error; a damaged corpus is prepared or copied again",
    ),
    r"[Nn]ode (has )?died|NODE_DIED|NodeDiedError|raylet (has )?died|[Pp]reempted": Cause(
        "its node is lost",
        f"{RESUME}, once that machine has been looked after",
        "machine",
    ),
    r"^ActorUnavailableError\b": Cause(
        "a process of the trial is out of reach: its node is lost, or it was killed",
        f"{RESUME}, once its machine has been looked after",
        "machine",
    ),
    r"^ActorDiedError\b|^WorkerCrashedError\b": Cause(
        "a process of the trial was killed or crashed",
        f"{RESUME}; the system's log (dmesg) says whether memory ran out",
        "machine",
    ),
    r"[Cc]onnection (closed|reset|refused)|[Rr]emote process exited|NCCL.*([Tt]imed? ?out|network error)|"
    r"^(WorkerHealthCheckTimeout|BroadcastCollectiveTimeout|Rpc|OwnerDied|ObjectLost)": Cause(
        "its workers lost touch with each other: one of them, or its node, is gone",
        f"{RESUME}, once the network and the machines have been looked after",
        "machine",
    ),
    r"\[Errno 5\]|Input/output error|Stale file handle|Transport endpoint": Cause(
        "a disk, or a network's file system, has failed",
        f"{RESUME}, once it has been looked after",
        "machine",
    ),
    r"^WorkerGroupStartup|^InsufficientClusterResources": Cause(
        "its workers did not start",
        "fewer --workers-per-trial or less --gpus-per-worker: the cluster must have what a trial asks for",
        "machine",
    ),
}
"""Causes by patterns of a recorded error; the first match counts, so special patterns come before general ones."""


def diagnose(reason: str) -> Cause | None:
    """The cause of a recorded error; None if it is unknown."""
    return next((cause for pattern, cause in KNOWN.items() if re.search(pattern, reason)), None)


def blame(reason: str) -> Whose:
    """`Cause.whose` of a failure with this reason; `configuration` if the cause is unknown."""
    cause = diagnose(reason)
    return cause.whose if cause else "configuration"


def most_specific(reasons: Sequence[str]) -> str:
    """The one of several errors whose cause comes first in `KNOWN`; the first if no cause is known.

    Args:
        reasons: errors of the workers of a trial, `Type: message`, in the order of ranks.
    """
    causes = list(KNOWN.values())
    known = {reason: causes.index(cause) for reason in reasons if (cause := diagnose(reason)) is not None}
    return min(known, key=lambda reason: known[reason], default=reasons[0])


class Streak:
    """Detects that successive trials fail for the same reason, so that the sweep should stop.

    Divergence counts only until a trial is complete or pruned, since some configurations of a search may diverge.
    """

    def __init__(self) -> None:
        self.kind, self.numbers = "", list[int]()

    def add(self, trial: TrialRecord, trials: Sequence[TrialRecord]) -> str:
        """Adds a trial that has ended; returns the failure in words if the last `IN_A_ROW` trials have it, else "".

        Args:
            trials: all trials of the sweep.
        """
        cause = diagnose(trial.reason)
        kind = cause.words if cause else re.sub(r"\d+", "", trial.reason)
        proved = kind == DIVERGED and any(one.state in ("complete", "pruned") for one in trials)
        if trial.state != "failed" or proved:
            self.kind, self.numbers = "", []
            return ""
        if kind != self.kind:
            self.kind, self.numbers = kind, []
        self.numbers.append(trial.number)
        if len(self.numbers) < IN_A_ROW:
            return ""
        what = f"{cause.words}; try {cause.remedy}" if cause else trial.reason
        return f"the same failure ended trials {', '.join(map(str, self.numbers))} one after the other: {what}"


def explained(cause: Cause | None, log: Path | None, lines: Sequence[str], elsewhere: str) -> list[str]:
    """Lines that explain a failure: its cause, a remedy, and the end of the trial's log.

    Args:
        log: path of the trial's log; None if there is none.
        lines: last lines of `log`.
        elsewhere: folder of Ray's logs, named if there is no log.
    """
    found = [f"cause: {cause.words}", f"try:   {cause.remedy}"] if cause else []
    if log is None:
        return [*found, f"log:   none of its own; Ray's: {elsewhere}"]
    return [*found, f"log:   {log}" + (", which ends:" if lines else ""), *(f"  | {line[:WIDEST]}" for line in lines)]
