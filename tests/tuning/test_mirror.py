"""Trials on a storage: the home has what is read of them, and retention removes there what it would at home."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import records
from optuna.storages import InMemoryStorage
from test_retention import MODEL, SIZE, TRAINING, TRIALS, Sweep

from asr_platform.compat.ray import CHECKPOINT_LIST
from asr_platform.storage.addresses import Addresses
from asr_platform.storage.home import Home, trial_name
from asr_platform.storage.stored_sweeps import stored_sweeps
from asr_platform.study.ledger import REMOVED, Ledger
from asr_platform.study.spending import GB
from asr_platform.tuning.callbacks.meter import Meter
from asr_platform.tuning.callbacks.mirror import Mirror
from asr_platform.tuning.callbacks.retention import Retention
from search_spaces.settings import Limits
from trainables.errors import InputError
from trainables.storage.remote import Remote, StorageError


class StoredSweep:
    """Trials with a checkpoint for each epoch on a storage, of which the home has nothing."""

    def __init__(self, folder: Path) -> None:
        self.home = Home(folder / "home", Addresses(str(folder / "shared")))
        self.stored = folder / "shared" / "sweeps" / "small" / "trials"
        self.ledger = Ledger.create(InMemoryStorage(), "small", records.ABOUT)
        for number, (cers, state) in enumerate(TRIALS):
            self.ledger.propose(records.space(), lambda values: records.counting(7))
            for row in records.curve(cers):
                name = f"checkpoint_{row['epoch']}"
                (self.stored / trial_name(number) / name).mkdir(parents=True)
                for file in MODEL | TRAINING:
                    (self.stored / trial_name(number) / name / file).write_bytes(bytes(SIZE))
                self.ledger.record(number, {**row, "checkpoint": str(self.home.trial("small", number) / name)})
            (self.stored / trial_name(number)).mkdir(parents=True, exist_ok=True)
            (self.stored / trial_name(number) / CHECKPOINT_LIST).touch()
            (self.stored / trial_name(number) / "log.txt").write_text("begun\n")
            if state != "running":
                self.ledger.finish(number, state)
        assert self.home.storage
        self.mirror = Mirror(self.home, "small", self.home.storage, self.ledger.id)
        self.retention = Retention(self.ledger, self.home.sweep("small"), 2, mirror=self.mirror)

    def here(self, number: int) -> set[str]:
        folder = self.home.trial("small", number)
        return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def sweep(tmp_path: Path) -> StoredSweep:
    return StoredSweep(tmp_path)


def test_the_home_has_what_is_read_and_no_weights(sweep: StoredSweep) -> None:
    assert sweep.ledger.trial(3).model is None
    sweep.mirror.on_sweep_start(sweep.ledger.trials())
    small = MODEL - {"model.safetensors"}
    assert sweep.here(1) == {"log.txt", *(f"checkpoint_1/{name}" for name in small)}
    trial = sweep.ledger.trial(3)
    assert trial.model == str(sweep.home.trial("small", 3) / "checkpoint_2")
    weights = sweep.home.whole_model(trial.model) / "model.safetensors"
    assert weights.stat().st_size == SIZE
    assert sweep.home.whole_model(trial.model) == Path(trial.model), "they are fetched once"


def test_checkpoints_that_ray_train_has_removed_leave_the_home(sweep: StoredSweep) -> None:
    sweep.mirror.sync(None)
    shutil.rmtree(sweep.stored / trial_name(4) / "checkpoint_1")
    sweep.mirror.on_epoch_end(sweep.ledger.trial(4))
    assert {path.partition("/")[0] for path in sweep.here(4)} == {"checkpoint_2", "log.txt"}


def test_a_log_that_is_written_here_is_never_shortened(sweep: StoredSweep) -> None:
    log = sweep.home.trial("small", 4) / "log.txt"
    log.parent.mkdir(parents=True)
    log.write_text("begun\nand longer\n")
    sweep.mirror.sync([4])
    assert log.read_text() == "begun\nand longer\n"
    (sweep.stored / trial_name(4) / "log.txt").write_text("begun\nelsewhere, and longer still\n")
    sweep.mirror.sync([4])
    assert log.read_text() == "begun\nelsewhere, and longer still\n"


def test_retention_leaves_on_the_storage_what_it_leaves_in_a_home(sweep: StoredSweep, tmp_path: Path) -> None:
    plain = Sweep(tmp_path / "plain")
    plain.apply()
    for again in (False, True):
        sweep.retention.apply()
        stored = {path.relative_to(sweep.stored).as_posix() for path in sweep.stored.rglob("*") if path.is_file()}
        assert {path for path in stored if not path.endswith("log.txt")} == plain.files(), again
        weights = [path for number in range(len(TRIALS)) for path in sweep.here(number) if "model.s" in path]
        assert not weights
    (sweep.stored / "trial-0099").mkdir()
    (sweep.stored / "trial-0099" / "log.txt").touch()
    sweep.retention.apply()
    assert not (sweep.stored / "trial-0099" / "log.txt").exists(), "of no trial in the ledger"


def test_a_checkpoint_on_a_storage_that_is_away_is_not_taken_for_gone(
    sweep: StoredSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(self: Remote, folder: str = "") -> dict[str, int]:
        raise StorageError(self.address, "away")

    with monkeypatch.context() as patched:
        patched.setattr(Remote, "files", away)
        with pytest.raises(StorageError):
            sweep.retention.apply()
        assert not any(trial.about.get(REMOVED) for trial in sweep.ledger.trials())
    sweep.retention.apply()
    assert sweep.ledger.trial(1).model


def test_a_sweep_of_another_ledger_is_left_alone(sweep: StoredSweep, tmp_path: Path) -> None:
    """Another home, with a ledger of its own, has begun a sweep of the same name on the same storage."""
    sweep.mirror.on_sweep_start(sweep.ledger.trials())
    before = {path for path in sweep.stored.rglob("*") if path.is_file()}
    other = Home(tmp_path / "other", sweep.home.addresses)
    theirs = Ledger.create(InMemoryStorage(), "small", records.ABOUT)
    assert other.storage
    mirror = Mirror(other, "small", other.storage, theirs.id)
    for act in (lambda: mirror.on_sweep_start([]), Retention(theirs, other.sweep("small"), 2, mirror=mirror).apply):
        with pytest.raises(InputError, match=r"sweep small is on .*shared, and belongs to another ledger"):
            act()
    assert {path for path in sweep.stored.rglob("*") if path.is_file()} == before
    sweep.mirror.claimed = False
    sweep.mirror.on_sweep_start(sweep.ledger.trials())


def test_a_new_sweep_takes_no_name_that_is_on_the_storage(sweep: StoredSweep) -> None:
    with sweep.home.lock_new(None, "small", lambda: []) as name:
        assert name == "small-1"
    assert stored_sweeps(sweep.home.storage) == {"small"}
    assert stored_sweeps(None) == set()


def test_a_cap_on_disk_space_counts_the_storage(sweep: StoredSweep) -> None:
    meter = Meter(sweep.ledger, Limits(disk_gb=1000 * SIZE / GB), 1, sweep.retention)
    sweep.mirror.sync(None)
    everything = sum(path.stat().st_size for path in sweep.stored.rglob("*") if path.is_file())
    assert sweep.retention.size == everything
    meter.measure()
    assert meter.disk_bytes == everything
    meter.limits = Limits(disk_gb=everything / GB)
    meter.measure()
    assert 0 < meter.disk_bytes < everything, "retention has been applied first"
