"""A checkpoint is whole or absent, fits its run or is refused, and is loaded without unpickling."""

from __future__ import annotations

import contextlib
import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tiny
import torch
from safetensors import SafetensorError, safe_open

from trainables.checksums import CHECKSUMS
from trainables.data.corpus import Corpus
from trainables.errors import InputError
from trainables.inference.recognizer import Recognizer
from trainables.training.checkpoint import checkpoints_from, load_checkpoint, save_checkpoint
from trainables.training.checkpoint_files import OPTIMIZER, TRAINING
from trainables.training.loop import Trainer

CPU = torch.device("cpu")
ALL_FILES = (*Recognizer.FILES, OPTIMIZER, TRAINING)


@pytest.fixture(scope="module")
def trained(tiny_corpus: Corpus) -> Trainer:
    """A run after its first epoch."""
    trainer = Trainer(tiny.config(), tiny_corpus, CPU)
    trainer.history.append(trainer.epoch(1))
    return trainer


def save(trainer: Trainer, folder: Path) -> Path:
    save_checkpoint(folder, trainer.task.trained, trainer.optimizer, trainer.history)
    return folder


def fresh(corpus: Corpus, leaves: dict[str, Any] | None = None) -> Trainer:
    return Trainer(tiny.config(leaves), corpus, CPU)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@contextlib.contextmanager
def full_disk(free: int) -> Iterator[None]:
    """Limits the size of every file to `free` bytes inside the block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "muon"])
def test_a_round_trip_restores_weights_optimizer_and_history(name: str, tiny_corpus: Corpus, tmp_path: Path) -> None:
    before = fresh(tiny_corpus, {"optimizer.name": name})
    before.history.append(before.epoch(1))
    after = fresh(tiny_corpus, {"optimizer.name": name, "training.seed": 9})
    folder = save(before, tmp_path / "checkpoint")
    assert {path.name for path in folder.iterdir()} == {*ALL_FILES, CHECKSUMS}
    assert load_checkpoint(folder, after.task.trained, after.optimizer).history == before.history
    for one, other in zip(before.model.parameters(), after.model.parameters(), strict=True):
        assert torch.equal(one, other)
        states = before.optimizer.state[one], after.optimizer.state[other]
        assert states[0].keys() == states[1].keys() and states[0]
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_tied_weights_stay_tied(tiny_corpus: Corpus, tmp_path: Path) -> None:
    leaves = {"model.tied_embeddings": True}
    before, after = fresh(tiny_corpus, leaves), fresh(tiny_corpus, {**leaves, "training.seed": 9})
    before.history.append(before.epoch(1))
    load_checkpoint(save(before, tmp_path / "checkpoint"), after.task.trained, after.optimizer)
    assert after.model.decoder.output.weight is after.model.decoder.embedding.weight
    assert torch.equal(after.model.decoder.output.weight, before.model.decoder.output.weight)


def test_saving_again_replaces_the_whole_checkpoint(trained: Trainer, tmp_path: Path) -> None:
    folder = save(trained, tmp_path / "run" / "checkpoint")
    (folder / "from_before").touch()
    save(trained, folder)
    assert {path.name for path in folder.iterdir()} == {*ALL_FILES, CHECKSUMS}
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize("victim", ALL_FILES)
def test_a_full_disk_leaves_the_previous_checkpoint_whole(victim: str, trained: Trainer, tmp_path: Path) -> None:
    folder = save(trained, tmp_path / "checkpoint")
    before = content(folder)
    with pytest.raises((OSError, SafetensorError)), full_disk((folder / victim).stat().st_size - 1):
        save(trained, folder)
    assert content(folder) == before
    assert list(tmp_path.iterdir()) == [folder]
    assert checkpoints_from(folder) == [folder]


def test_a_full_disk_at_the_first_checkpoint_leaves_nothing(trained: Trainer, tmp_path: Path) -> None:
    with pytest.raises((OSError, SafetensorError)), full_disk(100):
        save(trained, tmp_path / "checkpoint")
    assert list(tmp_path.iterdir()) == []
    assert checkpoints_from(tmp_path / "checkpoint") == []


KILLED_WHILE_SAVING = """
import os, sys
from pathlib import Path
from trainables.training.checkpoint import save_checkpoint
from trainables.training.optimizer import build_optimizer
from trainables.inference.recognizer import Recognizer

folder, deadly = Path(sys.argv[1]), int(sys.argv[2])
recognizer = Recognizer.load(folder if folder.is_dir() else folder.with_name(".checkpoint.previous"))
folders_renamed = 0

def kill(event, arguments):
    global folders_renamed
    if event == "os.rename" and Path(arguments[0]).is_dir():
        folders_renamed += 1
        if folders_renamed == deadly:
            os._exit(9)

sys.addaudithook(kill)
optimizer = build_optimizer(recognizer.config.optimizer, recognizer.model)
save_checkpoint(folder, recognizer, optimizer, [{"epoch": 1}, {"epoch": 2}])
"""


def test_a_kill_while_folders_are_swapped_loses_no_checkpoint(
    trained: Trainer, tiny_corpus: Corpus, tmp_path: Path
) -> None:
    """Killed before the first or the second rename, or once more after a kill that left the old folder aside."""
    cases = {"first": 1, "second": 2, "after_a_kill": 1}
    folders = {name: save(trained, tmp_path / name / "checkpoint") for name in cases}
    folders["after_a_kill"].rename(folders["after_a_kill"].with_name(".checkpoint.previous"))
    processes = [
        subprocess.Popen([sys.executable, "-c", KILLED_WHILE_SAVING, str(folders[name]), str(deadly)])
        for name, deadly in cases.items()
    ]
    assert [process.wait(timeout=300) for process in processes] == [9, 9, 9]
    for folder in folders.values():
        found, *_ = checkpoints_from(folder)
        run = fresh(tiny_corpus)
        assert load_checkpoint(found, run.task.trained, run.optimizer).history == trained.history
        # The next checkpoint replaces it.
        save(trained, folder)
        assert checkpoints_from(folder) == [folder]
        assert not folder.with_name(".checkpoint.previous").exists()


@pytest.mark.parametrize("missing", ALL_FILES)
def test_a_missing_file_is_named(missing: str, trained: Trainer, tiny_corpus: Corpus, tmp_path: Path) -> None:
    folder = save(trained, tmp_path / "checkpoint")
    (folder / missing).unlink()
    run = fresh(tiny_corpus)
    with pytest.raises(InputError, match=missing):
        load_checkpoint(folder, run.task.trained, run.optimizer)


@pytest.mark.parametrize("damaged", ALL_FILES)
def test_a_damaged_file_is_refused(damaged: str, trained: Trainer, tiny_corpus: Corpus, tmp_path: Path) -> None:
    folder = save(trained, tmp_path / "checkpoint")
    whole = (folder / damaged).read_bytes()
    (folder / damaged).write_bytes(whole[: len(whole) // 2])
    run = fresh(tiny_corpus)
    with pytest.raises(InputError) as error:
        load_checkpoint(folder, run.task.trained, run.optimizer)
    assert str(folder) in error.value.problem


@pytest.mark.parametrize(
    ("leaves", "named"),
    [
        ({"model.d_model": 16}, "model.d_model is 32 there and 16 here"),
        ({"model.encoder_layers": 1}, "model.encoder_layers is 2 there and 1 here"),
        ({"tokenizer.kind": "bpe", "tokenizer.vocab_size": 16}, "tokenizer.kind is char there and bpe here"),
        ({"features.num_feats": 4}, "features.num_feats is None there and 4 here"),
        ({"optimizer.name": "sgd"}, "optimizer.name is adamw there and sgd here"),
    ],
)
def test_a_checkpoint_of_another_configuration_is_refused(
    leaves: dict[str, Any], named: str, trained: Trainer, tiny_corpus: Corpus, tmp_path: Path
) -> None:
    folder = save(trained, tmp_path / "checkpoint")
    run = fresh(tiny_corpus, leaves)
    before = [parameter.clone() for parameter in run.model.parameters()]
    with pytest.raises(InputError) as error:
        load_checkpoint(folder, run.task.trained, run.optimizer)
    assert named in error.value.problem and str(folder) in error.value.problem
    assert all(torch.equal(one, other) for one, other in zip(before, run.model.parameters(), strict=True))


def test_a_checkpoint_of_another_corpus_is_refused(trained: Trainer, tiny_corpus: Corpus, tmp_path: Path) -> None:
    other = tiny.write_corpus(tmp_path / "other", {"train": tiny.SENTENCES, "dev": tiny.SENTENCES}, seed=1)
    run = fresh(other)
    with pytest.raises(InputError) as error:
        load_checkpoint(save(trained, tmp_path / "checkpoint"), run.task.trained, run.optimizer)
    assert tiny_corpus.hash[:12] in error.value.problem and other.hash[:12] in error.value.problem


def test_a_longer_run_may_go_on_from_a_shorter_one(trained: Trainer, tiny_corpus: Corpus, tmp_path: Path) -> None:
    run = fresh(tiny_corpus, {"training.epochs": 9, "optimizer.lr": 1e-4, "loss.ctc_weight": 0.1})
    assert (
        load_checkpoint(save(trained, tmp_path / "checkpoint"), run.task.trained, run.optimizer).history
        == trained.history
    )


def test_every_file_is_json_safetensors_or_sentencepiece(trained: Trainer, tmp_path: Path) -> None:
    for path in save(trained, tmp_path / "checkpoint").iterdir():
        match path.suffix:
            case ".json":
                json.loads(path.read_text(encoding="utf-8"))
            case ".safetensors":
                with safe_open(str(path), "pt") as file:
                    assert list(file.keys())
            case ".model":
                assert sentencepiece.SentencePieceProcessor(model_file=str(path)).get_piece_size()
            case _:
                raise AssertionError(path)


POISONED = """
import pickle, sys
from pathlib import Path
import torch
from trainables.training.checkpoint import load_checkpoint
from trainables.config.tree import Optimizer
from trainables.training.optimizer import build_optimizer
from trainables.inference.recognizer import Recognizer

# torch imports modules with its first optimizer, which this test is not about.
build_optimizer(Optimizer(), torch.nn.Linear(2, 2))

def poison(*arguments, **keywords):
    raise SystemExit("unpickled")

def refuse_classes(event, arguments):
    if event == "pickle.find_class":
        raise SystemExit("unpickled")

sys.addaudithook(refuse_classes)
pickle.load = pickle.loads = pickle.Unpickler = torch.load = torch.serialization.load = poison
folder = Path(sys.argv[1])
recognizer = Recognizer.load(folder)
optimizer = build_optimizer(recognizer.config.optimizer, recognizer.model)
history = load_checkpoint(folder, recognizer, optimizer).history
print(len(history), len(recognizer.transcribe([torch.zeros(30, len(recognizer.mean))])))
"""


def test_loading_never_unpickles(trained: Trainer, tmp_path: Path) -> None:
    folder = save(trained, tmp_path / "checkpoint")
    done = subprocess.run([sys.executable, "-c", POISONED, str(folder)], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout.split()) == (0, ["1", "1"]), done.stderr
