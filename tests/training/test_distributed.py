"""Two workers give the results of one worker on the same global batches."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import torch.distributed as dist

from trainables.data.corpus import Corpus
from trainables.training import interruption
from trainables.training.interruption import Interrupted
from trainables.training.loop import Metrics, Save, Trainer, train
from trainables.training.tasks import recognition
from trainables.training.tasks.passes import in_passes

WORLD = 2
EDITING = ("train_editing", "train_copying", "train_drafting", "train_spelling")
COMPARED = ("train_loss", "train_cross_entropy", "train_ctc", "stray_attention", *EDITING, "val_loss", "gradient_norm")
RATES = ("val_cer", "val_wer", "val_ctc_cer", "val_one_step_cer")  # a rounding error could turn a token
EXACT = ("epoch", "learning_rate", "infeasible_ctc", "own_drafts")
MASKS = {key: value for key, value in tiny.RANDOM.items() if key.startswith(("specaugment", "augmentation"))}
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulated": {**MASKS, "training.update_seconds": 6.0, "training.pass_seconds": 1.0},
    "one_utterance_batches": {"training.update_seconds": 0.1, "training.epochs": 1},
    # The set of trained parameters changes twice, and some are trained again.
    "stages": {
        "training.stages": [
            {"encoder_layers": 1, "decoder_layers": 1, "data": 0.5},
            {"encoder_layers": 1, "freeze": ["encoder.layers.0.*", "decoder.embedding.*"]},
        ]
    },
    "guided": {
        "loss.attention_weight": 2.0,
        "training.update_seconds": 8.0,
        "training.pass_seconds": 2.0,
        "training.stages": [{"decoder_layers": 1}],
    },
    "averages": {"training.ema": 0.9, "training.average": 2},
    "timing_and_rates": {
        "data.speed_perturbation": 0.1,
        "specaugment.time_warp": 3,
        "optimizer.layer_decay": 0.8,
        "optimizer.groups": [{"pattern": "decoder.embedding.*", "lr_scale": 0.5}],
    },
    "conformer": {**tiny.CONFORMER, "training.ema": 0.9},
    "editor": {
        **tiny.EDITING,
        **MASKS,
        "drafts.threshold": 1.0,
        "drafts.corrupted_share": 0.5,
        "training.update_seconds": 8.0,
    },
    # With a batch norm, whose statistics are those of all workers; utterances that only fill a batch are none of them.
    "editor_of_a_conformer": {
        **tiny.EDITING,
        **tiny.CONFORMER,
        "drafts.threshold": 1.0,
        "training.update_seconds": 2.0,
    },
    # So few batches that one worker may have none to validate.
    "language_model": {"model.kind": "language_model", "training.update_tokens": 4096},
}


def histories(corpus: Corpus, folder: Path | None, hashes: dict[str, str] | None = None) -> dict[str, list[Metrics]]:
    """The metrics of every case; a first worker's checkpoints go to `folder`, all final weights' hashes to `hashes`."""
    found: dict[str, list[Metrics]] = {}
    for case, leaves in CASES.items():
        found[case] = []

        def report(metrics: Metrics, save: Save | None, case: str = case) -> None:
            found[case].append(metrics)
            if save and folder:
                save(folder / case)

        trained = train(tiny.config({"optimizer.lr": 1e-3, **leaves}), corpus, report, device=torch.device("cpu"))
        if hashes is not None:
            weights = b"".join(weight.numpy().tobytes() for weight in trained.model.state_dict().values())
            hashes[case] = hashlib.sha256(weights).hexdigest()
    return found


def chosen(metrics: Metrics, names: tuple[str, ...]) -> Metrics:
    """The metrics of `names` that this kind of model has."""
    return {name: metrics[name] for name in names if name in metrics}


# Dropout is drawn by each worker on its own.
INTERRUPTED = tiny.config(
    {"training.epochs": 2, "training.update_seconds": 3.0, "training.pass_seconds": 3.0, "model.dropout": 0.1}
)


def interrupted_history(corpus: Corpus, checkpoint: Path) -> list[Metrics]:
    """The metrics of a run whose second worker is given notice after the second update, and then in the validation.

    The three batches of validation are shared by two workers, one of which has one batch less.
    """
    found: list[Metrics] = []

    def report(metrics: Metrics, save: Save | None) -> None:
        found.append(metrics)

    interruption.EXCHANGE_INTERVAL, device = 0.0, torch.device("cpu")
    trainer = Trainer(INTERRUPTED, corpus, device)
    updates, batches = trainer.updates[0], len(trainer.task.validation_plan.epoch())
    assert updates > 2 and batches == 3
    latest = None
    for asked, done in ((2, 2), (1 + updates - 2 + 1, updates)):  # before the epoch, after updates, before a batch
        answers = iter([*[False] * asked, dist.get_rank() == 1])
        with pytest.raises(Interrupted) as interrupted:
            train(INTERRUPTED, corpus, report, device=device, checkpoint=latest, notice=partial(next, answers))
        assert interrupted.value.updates == done
        assert (interrupted.value.save is not None) == (dist.get_rank() == 0)
        latest = checkpoint.with_name(f"{checkpoint.name}-{done}")
        if interrupted.value.save is not None:
            interrupted.value.save(latest)
            if done == 2:
                interrupted.value.save(checkpoint)
        dist.barrier()
    train(INTERRUPTED, corpus, report, device=device, checkpoint=latest)
    return found


def is_soon_interrupted(corpus: Corpus) -> bool:
    """Whether a run of many short epochs, whose second worker has notice after the first one, ends before its last."""
    found: list[Metrics] = []

    def report(metrics: Metrics, save: Save | None) -> None:
        found.append(metrics)

    with suppress(Interrupted):
        train(
            tiny.config({"training.epochs": 200}), corpus, report, device=torch.device("cpu"),
            notice=lambda: bool(found) and dist.get_rank() == 1,
        )  # fmt: skip
    return 1 <= len(found) < 200


def work(rank: int, folder: Path, corpus: Path) -> None:
    """Runs all cases in one process of the group."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder / 'rendezvous'}", rank=rank, world_size=WORLD)
    hashes: dict[str, str] = {}
    found = histories(Corpus.open(corpus), folder, hashes)
    assert is_soon_interrupted(Corpus.open(corpus))
    recognition.VALIDATION_SECONDS = {False: 0.0, True: 0.0}
    found["interrupted"] = interrupted_history(Corpus.open(corpus), folder / "unfinished")
    found["straight"] = []
    train(INTERRUPTED, Corpus.open(corpus), lambda metrics, save: found["straight"].append(metrics))
    (folder / f"{rank}.json").write_text(json.dumps(found), encoding="utf-8")
    (folder / f"{rank}.hashes.json").write_text(json.dumps(hashes), encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def together(tiny_corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the results of two processes."""
    folder = tmp_path_factory.mktemp("workers")
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=work, args=(rank, folder, tiny_corpus.path)) for rank in range(WORLD)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=300)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert codes == [0] * WORLD
    return folder


@pytest.fixture(scope="module")
def alone(tiny_corpus: Corpus) -> dict[str, list[Metrics]]:
    return histories(tiny_corpus, None)


def test_some_batches_divide_and_some_do_not(tiny_corpus: Corpus) -> None:
    """Batches with an odd number of items are needed to test the fillers that even out the workers' shares."""
    remainders = set()
    for leaves in CASES.values():
        trainer = Trainer(tiny.config(leaves), tiny_corpus, torch.device("cpu"))
        passes = in_passes(trainer.plans[1.0].epoch(1), trainer.task.batches_per_update, trainer.pass_budget, WORLD)
        remainders |= {len(indices) % WORLD for update in passes for indices, _ in update}
    assert remainders == set(range(WORLD))


@pytest.mark.parametrize("case", CASES)
def test_two_workers_give_the_losses_of_one(case: str, together: Path, alone: dict[str, list[Metrics]]) -> None:
    found = json.loads((together / "0.json").read_text(encoding="utf-8"))[case]
    assert len(found) == len(alone[case])
    for row, expected in zip(found, alone[case], strict=True):
        assert chosen(row, COMPARED) == pytest.approx(chosen(expected, COMPARED), rel=1e-4)
        assert chosen(row, RATES) == pytest.approx(chosen(expected, RATES), abs=0.05)
        assert chosen(row, EXACT) == chosen(expected, EXACT)


@pytest.mark.parametrize("case", CASES)
def test_all_workers_report_the_same(case: str, together: Path) -> None:
    rows = [json.loads((together / f"{rank}.json").read_text(encoding="utf-8"))[case] for rank in range(WORLD)]
    for one, other in zip(*rows, strict=True):
        assert chosen(one, COMPARED + RATES + EXACT) == chosen(other, COMPARED + RATES + EXACT)


def test_all_workers_end_with_the_same_weights(together: Path) -> None:
    one, other = (json.loads((together / f"{rank}.hashes.json").read_text(encoding="utf-8")) for rank in range(WORLD))
    assert one == other and set(one) == set(CASES)


def test_only_the_first_worker_saves_and_one_process_can_go_on(
    together: Path, alone: dict[str, list[Metrics]], tiny_corpus: Corpus
) -> None:
    more: list[Metrics] = []
    config = tiny.config({"optimizer.lr": 1e-3, "training.epochs": 4})
    train(config, tiny_corpus, lambda metrics, save: more.append(metrics), checkpoint=together / "plain")
    assert [row["epoch"] for row in more] == [4]
    assert more[0]["train_loss"] < alone["plain"][-1]["train_loss"]


def test_workers_that_are_interrupted_go_on_exactly_and_one_process_goes_on_too(
    together: Path, tiny_corpus: Corpus
) -> None:
    """One worker's notice is enough. With fewer workers, dropout has other draws."""
    found = json.loads((together / "0.json").read_text(encoding="utf-8"))
    interrupted, straight = ([tiny.timeless(row) for row in found[case]] for case in ("interrupted", "straight"))
    assert interrupted == straight and len(straight) == 2
    alone: list[Metrics] = []
    train(INTERRUPTED, tiny_corpus, lambda metrics, save: alone.append(metrics), checkpoint=together / "unfinished")
    for row, expected in zip(alone, straight, strict=True):
        assert row["updates"] == expected["updates"]
        assert row["train_loss"] == pytest.approx(expected["train_loss"], rel=0.1)
