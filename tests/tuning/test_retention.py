"""Losers' models leave the disk, whatever is killed on the way, and a sweep that fills its room ends cleanly."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import records
from optuna.storages import InMemoryStorage

from asr_platform.analysis.leaderboard import rows
from asr_platform.compat.ray import CHECKPOINT_LIST
from asr_platform.storage.home import trial_name
from asr_platform.storage.paths import folder_size
from asr_platform.study.ledger import Ledger, TrialStatus
from asr_platform.study.spending import GB
from asr_platform.tuning.callbacks.meter import Meter
from asr_platform.tuning.callbacks.retention import Retention
from search_spaces.settings import Limits
from trainables.evaluation.examples import ATTENTION

MODEL = {
    "config.json",
    "features.json",
    "model.safetensors",
    "tokenizer.model",
    "examples.json",
    "attention.safetensors",
}
TRAINING = {"training.json", "optimizer.safetensors", "averages.safetensors"}
SIZE = 1000  # bytes of each file
# The best two of those that have ended: 1, which was stopped early, and 3. The fifth runs.
TRIALS: list[tuple[list[float], TrialStatus]] = [
    ([0.9, 0.5, 0.6], "complete"),
    ([0.2], "pruned"),
    ([0.8], "failed"),
    ([0.4, 0.3], "complete"),
    ([0.1, 0.7], "running"),
    ([], "failed"),
]


class Sweep:
    """Trials with a checkpoint for each epoch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ledger = Ledger.create(InMemoryStorage(), "small", records.ABOUT)
        for number, (cers, state) in enumerate(TRIALS):
            self.ledger.propose(records.space(), lambda values: records.counting(7))
            for row in records.curve(cers):
                path = self.checkpoint(number, row["epoch"])
                path.mkdir(parents=True)
                for name in MODEL | TRAINING:
                    (path / name).write_bytes(bytes(SIZE))
                self.ledger.record(number, {**row, "checkpoint": str(path)})
            self.trial(number).mkdir(parents=True, exist_ok=True)
            (self.trial(number) / CHECKPOINT_LIST).touch()
            if state != "running":
                self.ledger.finish(number, state)

    def trial(self, number: int) -> Path:
        return self.folder / "trials" / trial_name(number)

    def checkpoint(self, number: int, epoch: int) -> Path:
        return self.trial(number) / f"checkpoint_{epoch}"

    def apply(self, keep: int = 2) -> None:
        Retention(self.ledger, self.folder, keep).apply()

    def files(self) -> set[str]:
        """Relative to the folder of trials."""
        return {str(path.relative_to(self.folder / "trials")) for path in self.folder.rglob("*") if path.is_file()}


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path / "small")


def expected_files() -> set[str]:
    whole = {f"trial-0004/checkpoint_{epoch}/{name}" for epoch in (1, 2) for name in MODEL | TRAINING}
    models = {f"{place}/{name}" for place in ("trial-0001/checkpoint_1", "trial-0003/checkpoint_2") for name in MODEL}
    notes = {
        f"{place}/{name}"
        for place in ("trial-0000/checkpoint_2", "trial-0002/checkpoint_1")
        for name in ("config.json", "features.json", "examples.json")
    }
    return whole | {f"trial-0004/{CHECKPOINT_LIST}"} | models | notes


def test_the_best_keep_their_models_and_running_trials_everything(sweep: Sweep) -> None:
    """Of the others, what was seen of them stays, in JSON; the ledger knows that their models are gone by intent."""
    for _ in range(2):
        sweep.apply()
        assert sweep.files() == expected_files()
        trials = sweep.ledger.trials()
        assert [bool(trial.model) for trial in trials] == [False, True, False, True, True, False]
        assert trials[0].checkpoint == str(sweep.checkpoint(0, 2))
        listed = {row["trial"]: (row["model"], row["model_removed"]) for row in rows(trials)}
        assert listed[0] == (None, True) and listed[5] == (None, False)
        assert listed[3] == (str(sweep.checkpoint(3, 2)), False)


def test_the_pareto_front_keeps_its_models(sweep: Sweep) -> None:
    """Of several objectives; the smallest model is on the front, whatever its CER."""
    sweep.ledger.note("objectives", ["val_cer", "parameters"])
    sweep.ledger.describe(2, "parameters", 1)
    sweep.apply()
    assert [trial.number for trial in sweep.ledger.trials() if trial.state != "running" and trial.model] == [1, 2, 3]


def test_of_a_trial_whose_worker_ran_on_nothing_stays(sweep: Sweep) -> None:
    """Ray Train has removed the epochs on record for later, better ones."""
    late = sweep.checkpoint(2, 9)
    sweep.checkpoint(2, 1).rename(late)
    sweep.apply()
    assert not late.exists() and sweep.ledger.trial(2).about["model_removed"]
    shutil.rmtree(sweep.checkpoint(3, 2))
    sweep.apply()
    assert not sweep.ledger.trial(3).about.get("model_removed"), "a complete trial's model is missed"


def test_a_better_trial_takes_the_place_of_the_worst_that_was_kept(sweep: Sweep) -> None:
    """And a model that is gone does not come back when more are to be kept."""
    sweep.apply()
    sweep.ledger.finish(4, "complete")
    sweep.apply()
    assert [trial.number for trial in sweep.ledger.trials() if trial.model] == [1, 4]
    sweep.apply(keep=5)
    assert [trial.number for trial in sweep.ledger.trials() if trial.model] == [1, 4]
    assert sweep.checkpoint(4, 1).is_dir() and not sweep.checkpoint(4, 2).exists()


def test_it_may_be_killed_at_any_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is on record as a model is whole at every moment, and the next thinning ends what this one began."""

    class KilledError(BaseException):
        pass

    left = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal left
            if left == 0:
                raise KilledError
            left -= 1
            return function(*args, **options)

        return call

    step, lived = 0, False
    while not lived:
        sweep, left = Sweep(tmp_path / str(step)), step
        with monkeypatch.context() as patch:
            for owner, name in ((Path, "unlink"), (Path, "rename"), (shutil, "rmtree"), (sweep.ledger, "describe")):
                patch.setattr(owner, name, counted(getattr(owner, name)))
            try:
                sweep.apply()
                lived = True
            except KilledError:
                pass
        for trial in sweep.ledger.trials():
            assert not trial.model or {path.name for path in Path(trial.model).iterdir()} >= MODEL
        sweep.apply()
        assert sweep.files() == expected_files()
        assert not list(sweep.folder.rglob(".removed-*"))
        step += 1
    assert step > 30


def test_what_lies_on_remote_storage_is_left_alone(sweep: Sweep) -> None:
    number = sweep.ledger.propose(records.space(), lambda values: records.counting(7)).number
    sweep.ledger.record(number, {**records.row(1, 0.99), "checkpoint": "s3://bucket/checkpoint_1"})
    sweep.ledger.finish(number, "complete")
    sweep.apply()
    trial = sweep.ledger.trial(number)
    assert trial.model == "s3://bucket/checkpoint_1" and not trial.about.get("model_removed")


def test_nothing_is_removed_where_a_home_was_moved(sweep: Sweep) -> None:
    """The ledger names checkpoints where they were before: none here is known for the best."""
    moved = sweep.folder.rename(sweep.folder.with_name("moved"))
    before = set(moved.rglob("checkpoint_*/*"))
    Retention(sweep.ledger, moved, 1).apply()
    assert set(moved.rglob("checkpoint_*/*")) == before


def test_folders_of_no_trial_go(sweep: Sweep) -> None:
    for name in ("trial-0099/checkpoint_1", ".removed-trial-0000", "trial-0004/.removed-checkpoint_7"):
        (sweep.folder / "trials" / name).mkdir(parents=True)
    sweep.apply()
    assert {path.name for path in (sweep.folder / "trials").iterdir()} == {trial_name(n) for n in range(6)}
    assert not list(sweep.folder.rglob(".removed-*"))


def test_a_sweep_stops_where_its_best_models_alone_fill_the_room(sweep: Sweep) -> None:
    """The cap is reached once thinning has made all the room there is; without one, nothing is removed for it."""
    before = folder_size(sweep.folder)

    def reached(limit: float | None) -> str:
        meter = Meter(sweep.ledger, Limits(disk_gb=limit), 1, Retention(sweep.ledger, sweep.folder, 2))
        meter.measure()
        return meter.reached()

    assert reached(None) == reached((before + 1) / GB) == ""
    assert folder_size(sweep.folder) == before, "nothing is removed while there is room"
    assert reached(before / GB) == ""
    thinned = folder_size(sweep.folder)
    assert thinned < before and reached(thinned / GB).endswith("GB on disk (--max-disk-gb) are spent")
    assert sweep.files() == expected_files()


def test_what_pictures_are_drawn_from_stays_until_they_are_drawn(sweep: Sweep) -> None:
    """So an MLflow server that is away holds up neither retention nor, by the disk's cap, the sweep."""
    (sweep.checkpoint(0, 2) / ATTENTION).write_bytes(bytes(10))
    Retention(sweep.ledger, sweep.folder, 2, is_plotted=lambda number: number != 0).apply()
    assert sweep.files() == expected_files() | {f"trial-0000/checkpoint_2/{ATTENTION}"}
    sweep.apply()
    assert sweep.files() == expected_files()


def test_only_trials_whose_files_may_still_change_are_visited_in_a_run(sweep: Sweep) -> None:
    """The end of a run visits all, and so does a new run."""
    retention = Retention(sweep.ledger, sweep.folder, 2)
    retention.on_sweep_start(sweep.ledger.trials())
    strays = [sweep.checkpoint(number, 9) for number in (0, 4)]
    for stray in strays:
        stray.mkdir()
    sweep.ledger.finish(4, "complete")
    retention.on_trial_end(sweep.ledger.trial(4))
    assert [stray.exists() for stray in strays] == [True, False], "trial 0 had ended before the run began"
    assert [trial.number for trial in sweep.ledger.trials() if trial.model] == [1, 4]
    assert not (sweep.checkpoint(3, 2) / "model.safetensors").exists(), "trial 3 was kept until now"
    strays[1].mkdir()
    retention.on_trial_end(sweep.ledger.trial(4))
    assert not strays[1].exists(), "a worker may write for a while after its trial has ended"
    retention.apply()
    assert not strays[0].exists()
