"""What a sweep has spent, over all of its runs, and whether that reaches a cap."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from search_spaces.settings import Limits

HOUR = 3600  # seconds
GB = 10**9  # bytes


class Cap(NamedTuple):
    """What has been spent of something, and how much may be; None where there is no cap."""

    name: str
    spent: float
    most: float | None

    def __str__(self) -> str:
        return f"{self.spent:.3g} of {self.most:g} {self.name}"


def caps(limits: Limits, wall_seconds: float, device_seconds: float, disk_bytes: float) -> list[Cap]:
    """All that may be capped, with the options that do it."""
    return [
        Cap("hours (--max-hours)", wall_seconds / HOUR, limits.hours),
        Cap("device-hours (--max-device-hours)", device_seconds / HOUR, limits.device_hours),
        Cap("GB on disk (--max-disk-gb)", disk_bytes / GB, limits.disk_gb),
    ]


def device_seconds(rows: Iterable[Mapping[str, Any]], workers: int) -> float:
    """What epochs on record took all workers of their trial to train and to validate."""
    return workers * sum(float(row["train_seconds"] + row["validation_seconds"]) for row in rows)
