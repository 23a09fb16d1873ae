"""What is said of a configuration before it is trained is what its training then shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch.utils.flop_counter import FlopCounterMode

from trainables.config import Config
from trainables.data.corpus import Corpus
from trainables.data.text.tokenizer import corpus_tokenizer
from trainables.models.speech_transformer import make_model
from trainables.training import profile as profiles
from trainables.training.loop import Trainer
from trainables.training.profile import Watched, profile, validation_seconds
from trainables.training.workload import Workload, Workloads, checkpoint_bytes, multiplications

CPU = torch.device("cpu")
FEATURES, TOKENS = (2, 13, tiny.BINS), (2, 5)
HEADERS = 100_000  # bytes: of names and shapes in the files


def torch_says(config: Config) -> int:
    """Multiplications in torch's own count of a forward pass, without those of attention between states."""
    with torch.device("meta"):
        model = make_model(config.model, tiny.VOCABULARY, tiny.BINS)
        inputs_BU = torch.zeros(TOKENS, dtype=torch.long)
        with FlopCounterMode(display=False) as counter:
            if config.model.kind == "language_model":
                model(inputs_BU)
            else:
                model(torch.zeros(FEATURES), torch.full(FEATURES[:1], FEATURES[1]), inputs_BU)
    products = ("aten.convolution", "aten.addmm", "aten.mm")
    return sum(count for name, count in counter.get_flop_counts()["Global"].items() if str(name) in products) // 2


@pytest.mark.parametrize(
    "leaves",
    [
        {},
        {"model.reduction": "conv2d", "model.gated": True, "model.reduction_factor": 3},
        {"model.reduction": "both"},
        {"model.reduction": "stack"},
        {"model.kind": "language_model"},
    ],
)
def test_multiplications_are_those_that_torch_counts(leaves: dict[str, Any]) -> None:
    config = tiny.config(leaves)
    assert multiplications(config, tiny.VOCABULARY, FEATURES, TOKENS) == torch_says(config)


@pytest.mark.parametrize(
    "leaves",
    [
        {},
        {"data.speed_perturbation": 0.2, "training.batch_seconds": 2.0},
        {"model.kind": "language_model", "training.batch_tokens": 32},
    ],
)
def test_the_batches_of_an_epoch_are_the_trainers(leaves: dict[str, Any], tiny_corpus: Corpus) -> None:
    config = tiny.config(leaves)
    split = tiny_corpus.training_split()

    def of(workers: int) -> Workload:
        return Workloads(tiny_corpus, split, lambda section: corpus_tokenizer(tiny_corpus, split, section), workers)(
            config
        )

    (plan,) = Trainer(config, tiny_corpus, CPU).plans.values()
    assert of(1).batches == of(2).batches == plan.batches > 1
    assert of(1).multiplications == pytest.approx(2 * of(2).multiplications)


@pytest.mark.parametrize(
    "leaves",
    [
        {},
        {"optimizer.name": "sgd", "model.tied_embeddings": True},
        {"training.ema": 0.9},
        {"training.average": 2, "training.epochs": 4},
        {"training.ema": 0.9, "training.average": 2, "training.epochs": 4},
    ],
)
def test_the_size_of_a_checkpoint(leaves: dict[str, Any], tiny_corpus: Corpus, tmp_path: Path) -> None:
    config = tiny.config({"model.d_model": 128, "model.heads": 2, **leaves})
    trainer = Trainer(config, tiny_corpus, CPU)
    for epoch in (1, 2):
        trainer.history.append(trainer.epoch(epoch))
    trainer.save(tmp_path / "checkpoint")
    size = sum(path.stat().st_size for path in (tmp_path / "checkpoint").glob("*.safetensors"))
    said = checkpoint_bytes(config, trainer.task.trained.parameters)
    assert said == pytest.approx(size, abs=HEADERS)


@pytest.mark.parametrize("kind", ["encoder_decoder", "language_model"])
def test_a_profile_of_everything(kind: str, tiny_corpus: Corpus) -> None:
    found = profile(tiny.config({"model.kind": kind}), tiny_corpus.path, 1, False)
    assert min(found.start, found.batch, found.validation, found.first_validation, found.checkpoint) > 0
    assert 10**8 < found.memory < 10**11
    assert found.gpu_memory == 0 and found.others == ()


def test_other_configurations_are_watched_as_well(tiny_corpus: Corpus) -> None:
    others = [tiny.config({"model.d_model": width}) for width in (32, 64)]
    found = profile(tiny.config(), tiny_corpus.path, 1, False, others)
    assert len(found.others) == 2 and min(found.others) > 0


def test_what_takes_long_is_watched_in_part(tiny_corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two updates at least, for the first one is discarded."""
    monkeypatch.setattr(profiles, "SECONDS", 1e-6)
    trainer = Watched(tiny.config({"training.batch_seconds": 2.0, "training.accumulation": 2}), tiny_corpus, CPU)
    assert trainer.updates_in(trainer.phases[0]) > 2
    trainer.train_epoch(1)
    assert [batches for _, batches in trainer.marks] == [0, 2, 4]
    (_, _), (second, _), (third, _) = trainer.marks
    assert trainer.seconds_of_a_batch() == (third - second) / 2
    validation_seconds(trainer)
    assert trainer.task.examples is not None
    assert 0 < len(trainer.task.examples.transcripts) < len(tiny_corpus.validation_split().ids)


def test_an_untrained_model_never_ends_by_itself(tiny_corpus: Corpus) -> None:
    """The last validation of the profile is that with the shortest limit."""
    trainer = Watched(tiny.config(), tiny_corpus, CPU)
    validation_seconds(trainer)
    assert trainer.task.examples is not None
    lengths = [len(row.hypothesis) for row in trainer.task.examples.transcripts]
    assert lengths == [profiles.SPARE_TOKENS] * len(tiny_corpus.validation_split().ids)
