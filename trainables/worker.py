"""The training loop inside a Ray Train worker. No other file of `trainables` imports ray.

torch is imported when the loop begins, not with this file: Ray imports the file in two more processes of each trial,
which would spend seconds on it.

Ray Train keeps a trial's checkpoints under the trial's name. A trainer that is started again with that name finds the
latest one, so resuming after any interruption needs nothing but the name.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray.train

from trainables.evaluation.metrics import OBJECTIVES, objective, objective_text, objective_value
from trainables.folders import has_ended, this_process
from trainables.output import output_in, say
from trainables.storage.remote import Remote, StorageError

if TYPE_CHECKING:
    from trainables.training.loop import Metrics, Save

TEMPORARY = "asr-checkpoint_"  # prefix of temporary folders; the name of their process follows


def train_worker(settings: dict[str, Any]) -> bool:
    """Trains a trial's configuration; every worker of the trial runs this function.

    Returns whether the training was interrupted on notice; then the latest checkpoint has everything.

    Args:
        settings: `config`, the configuration; `corpus`, its folder, and the `corpus_hash` that it must have; `threads`
            for torch; number of `workers`, and `resources` of each; `reported_epochs`, the number of epochs in the
            ledger; `until`, the epoch to stop at; `lost_checkpoint`, one that Ray Train has lost, or None; `log`, the
            file for the first worker's output (those of the other workers have their rank in their names); `storage`,
            the address of where corpora, checkpoints and logs are kept, or None; `watch`, which begins to watch whether
            the worker should end, and returns a function that tells so, or None.

    Raises:
        InputError: the corpus is not the one that the sweep began with.
    """
    rank, log = ray.train.get_context().get_world_rank(), Path(settings["log"])
    log = log.with_stem(f"{log.stem}-{rank}") if rank else log
    with _stored(log, settings.get("storage")) as store_log, output_in(log):
        logging.getLogger().setLevel(logging.WARNING)  # Ray Train (2.60) logs the metrics of each report at INFO
        remove_temporary()
        beside = f", as one of {settings['workers']} workers" if settings["workers"] > 1 else ""
        after = f"after epoch {settings['reported_epochs']}{beside}"
        say(f"process {os.getpid()} on {socket.gethostname()} begins, {after}")
        interrupted = _train(settings, store_log)
        say("the worker has ended")
    return interrupted


@contextmanager
def _stored(log: Path, storage: str | None) -> Iterator[Callable[[], None]]:
    """Context of a worker's log on a storage, from which the log of an earlier machine is fetched.

    Yields a function that copies the log there, which is also done at the end. A log is not worth an error.
    """
    remote, name = Remote(storage) if storage else None, "/".join(["sweeps", *log.parts[-4:]])
    if remote and not log.exists():
        with suppress(OSError, StorageError):
            remote.fetch(name, log)

    def store() -> None:
        if remote:
            with suppress(OSError, StorageError):
                remote.store(log, name, deadline=0.0)

    try:
        yield store
    finally:
        store()


def _train(settings: dict[str, Any], store_log: Callable[[], None]) -> bool:
    import torch

    from trainables.data.device.placement import default_device, limit_share
    from trainables.progress import PROGRESS, ProgressFile
    from trainables.storage.corpus_cache import local_corpus
    from trainables.training.interruption import Interrupted
    from trainables.training.loop import train

    notice = settings["watch"]() if settings["watch"] else None
    remote = Remote(settings["storage"]) if settings.get("storage") else None
    corpus = local_corpus(Path(settings["corpus"]), settings["corpus_hash"], remote)

    def report_and_store(metrics: Metrics, save: Save | None) -> None:
        report(metrics, save, remote)
        store_log()

    torch.set_num_threads(settings["threads"])
    # A worker without a GPU of its own can see those of other workers.
    gpus = settings["resources"].get("GPU", 0.0)
    device = default_device() if gpus else torch.device("cpu")
    limit_share(device, gpus)
    first = ray.train.get_context().get_world_rank() == 0
    progress = ProgressFile(Path(settings["log"]).with_name(PROGRESS)) if first else None
    latest = ray.train.get_checkpoint()
    with latest.as_directory() if latest else nullcontext(settings["lost_checkpoint"]) as folder:
        try:
            train(
                settings["config"],
                corpus,
                report_and_store,
                checkpoint=Path(folder) if folder else None,
                reported_epochs=settings["reported_epochs"],
                until=settings["until"],
                device=device,
                notice=notice,
                progress=progress,
            )
        except Interrupted as interrupted:
            if interrupted.updates:
                report_unfinished(interrupted.save, remote)
            say(f"interrupted on notice, after {interrupted.updates} updates of an epoch")
            return True
    return False


def report(metrics: Metrics, save: Save | None, storage: Remote | None = None) -> None:
    """Reports an epoch's metrics to Ray Train, with a checkpoint if this worker writes one (`save`).

    The epoch and its objective are also top-level keys, for Ray's scheduler and checkpoint retention.
    """
    say(
        f"epoch {metrics['epoch']}: {OBJECTIVES[objective(metrics)]} {objective_text(metrics)}, "
        f"train loss {metrics['train_loss']:.3f}"
    )
    ranking = {"ranked_by": objective(metrics), "objective": objective_value(metrics)}
    _report({"epoch": metrics["epoch"], **ranking, "metrics": metrics}, save, storage)


def report_unfinished(save: Save | None, storage: Remote | None = None) -> None:
    """Reports a checkpoint of an unfinished epoch to Ray Train, which keeps it until the next, since it ranks last."""
    _report({"objective": sys.float_info.max}, save, storage)


def _report(message: Metrics, save: Save | None, storage: Remote | None) -> None:
    """Reports a message to Ray Train, with a checkpoint if this worker writes one (`save`).

    Without a storage, Ray Train copies the checkpoint into the sweep's folder.
    """
    if save is None:
        ray.train.report(message)
        return
    with tempfile.TemporaryDirectory(prefix=f"{TEMPORARY}{this_process()}_") as folder:
        save(Path(folder) / "checkpoint")
        checkpoint = ray.train.Checkpoint.from_directory(str(Path(folder) / "checkpoint"))
        upload = partial(_upload, storage) if storage else None
        ray.train.report(message, checkpoint=checkpoint, checkpoint_upload_fn=upload)


def _upload(storage: Remote, checkpoint: ray.train.Checkpoint, name: str) -> ray.train.Checkpoint:
    """Copies a checkpoint to where Ray Train expects it; Ray's own copy is of one file at a time, and never waits.

    Raises:
        StorageFullError: the storage stays full.
    """
    train_storage = ray.train.get_context().get_storage()
    storage.store_folder(Path(checkpoint.path), f"sweeps/{train_storage.experiment_dir_name}/{name}")
    return ray.train.Checkpoint(f"{train_storage.experiment_fs_path}/{name}", train_storage.storage_filesystem)


def remove_temporary() -> None:
    """Removes unreported checkpoints (hundreds of megabytes each) of workers that were killed on this machine."""
    for folder in Path(tempfile.gettempdir()).glob(f"{TEMPORARY}*"):
        if has_ended(folder.name.removeprefix(TEMPORARY).rpartition("_")[0]):
            shutil.rmtree(folder, ignore_errors=True)
