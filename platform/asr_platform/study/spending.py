"""Resources that all runs of a sweep have spent, and the caps on these resources."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

HOUR = 3600  # seconds
GB = 10**9  # bytes


class Cap(NamedTuple):
    """A resource with the amount spent and the largest allowed amount (`most`; None: no cap)."""

    name: str
    spent: float
    most: float | None

    def __str__(self) -> str:
        return f"{self.spent:.3g} of {self.most:g} {self.name}"


def caps(
    limits: Mapping[str, float | None], wall_seconds: float, device_seconds: float, disk_bytes: float
) -> list[Cap]:
    """All resources that can be capped; each name ends with the option that sets the cap.

    Args:
        limits: the fields of `search_spaces.settings.Limits`, as the ledger has them.
    """
    return [
        Cap("hours (--max-hours)", wall_seconds / HOUR, limits.get("hours")),
        Cap("device-hours (--max-device-hours)", device_seconds / HOUR, limits.get("device_hours")),
        Cap("GB on disk (--max-disk-gb)", disk_bytes / GB, limits.get("disk_gb")),
    ]


def device_seconds(rows: Iterable[Mapping[str, Any]], workers: int = 1) -> float:
    """Seconds of training and validation in the epochs `rows`, summed over a trial's workers.

    Args:
        workers: number of workers in epochs of earlier versions, which did not record it.
    """
    return sum(row.get("workers", workers) * epoch_seconds(row) for row in rows)


def epoch_seconds(row: Mapping[str, Any]) -> float:
    """Wall time in seconds of an epoch's training and validation."""
    return float(row["train_seconds"] + row["validation_seconds"])
