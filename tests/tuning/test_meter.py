"""What a sweep has spent is counted over all of its runs, whatever ended them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import records

from asr_platform.study.ledger import Ledger
from asr_platform.study.run_record import SPENT
from asr_platform.study.spending import HOUR
from asr_platform.tuning.callbacks.meter import Meter
from asr_platform.tuning.callbacks.retention import Retention
from search_spaces.settings import Limits


def row(epoch: int, train: float, validation: float) -> dict[str, Any]:
    return {**records.row(epoch, 0.5), "train_seconds": train, "validation_seconds": validation}


def metered(ledger: Ledger, folder: Path, limits: Limits, workers: int = 1) -> Meter:
    return Meter(ledger, limits, workers, Retention(ledger, folder, models=1))


def test_device_time_is_that_of_the_epochs_on_record_times_the_workers(tmp_path: Path) -> None:
    ledger = records.ledger_in(tmp_path)
    limits = Limits(device_hours=2 * 170 / HOUR)
    number = records.add(ledger, "running")
    ledger.record(number, row(1, 50, 10))
    meter = metered(ledger, tmp_path, limits, workers=2)
    assert meter.device_seconds == 2 * 60
    assert meter.reached() == ""
    meter.add(row(2, 100, 9))
    assert meter.reached() == ""
    meter.add(row(3, 1, 0))
    assert meter.reached() == "0.0944 of 0.0944444 device-hours (--max-device-hours) are spent"


def test_wall_time_goes_on_from_where_a_killed_driver_noted_it(tmp_path: Path) -> None:
    first = metered(records.ledger_in(tmp_path), tmp_path, Limits())
    first.start -= 100  # so long ago did its driver start
    first.add(row(1, 5, 1))
    # the driver is killed
    ledger = Ledger.open(records.storage_in(tmp_path), "small")
    assert 100 <= ledger.about[SPENT] < 200
    second = metered(ledger, tmp_path, Limits(hours=150 / HOUR))
    assert 100 <= second.wall_seconds < 150
    assert second.reached() == ""
    second.start -= 50
    assert second.reached().endswith("of 0.0416667 hours (--max-hours) are spent")
    second.note()
    assert ledger.about[SPENT] >= 150


def test_without_caps_nothing_is_reached(tmp_path: Path) -> None:
    meter = metered(records.ledger_in(tmp_path), tmp_path, Limits(disk_gb=1))
    meter.start = time.monotonic() - 10**9
    meter.add(row(1, 10**9, 1))
    assert meter.reached() == ""


def test_caps_that_are_given_take_the_place_of_the_spaces() -> None:
    space = records.space(records.SPACE + "limits: {hours: 3, disk_gb: 2}\n")
    assert space.with_limits(Limits()).settings == space.settings
    limits = space.with_limits(Limits(hours=5, device_hours=7)).settings.limits
    assert limits == Limits(hours=5, device_hours=7, disk_gb=2)
