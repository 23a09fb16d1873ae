"""The computed work of a configuration is that of its training, and a profile measures a part of that training."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from trainables.data.corpus import Corpus
from trainables.data.text.tokenizer import Vocabulary, corpus_tokenizer
from trainables.inference.recognizer import SPARE_RATE, SPARE_TOKENS
from trainables.models.editing.slots import TokenRows
from trainables.models.speech_transformer import make_model
from trainables.training.loop import Trainer
from trainables.training.profile import TimedTrainer, UpdateCost, parts_of, profile
from trainables.training.tasks import RecognitionTask, recognition
from trainables.training.workload import Workload, Workloads, forward_flops

CPU = torch.device("cpu")
FEATURES, TOKENS = (2, 13, tiny.BINS), (2, 5)
VOCABULARY = Vocabulary(tiny.VOCABULARY, 20)
HEADERS = 100_000  # bytes: of names and shapes in the files


def test_the_operations_of_a_language_model_are_those_that_one_counts_by_hand() -> None:
    """Two for each weight of a product and token, and of attention two products of the width for each two tokens."""
    config = tiny.config({"model.kind": "language_model"})
    width, layers, feed_forward = config.model.d_model, config.model.decoder_layers, config.model.feed_forward
    weights = layers * (4 * width**2 + 2 * width * feed_forward) + width * tiny.VOCABULARY
    (items, length), attention = TOKENS, layers * 2 * width
    assert forward_flops(config, VOCABULARY, FEATURES, TOKENS) == 2 * items * length * (weights + attention * length)


@pytest.mark.parametrize("reduction", ["conv", "conv2d", "both", "stack", "lstm"])
def test_operations_grow_with_the_batch_and_with_the_model(reduction: str) -> None:
    config = tiny.config({"model.reduction": reduction})
    one = forward_flops(config, VOCABULARY, FEATURES, TOKENS)
    items, *rest = FEATURES
    assert forward_flops(config, VOCABULARY, (3 * items, *rest), (3 * items, TOKENS[1])) == 3 * one
    larger = tiny.config({"model.reduction": reduction, "model.encoder_layers": config.model.encoder_layers + 1})
    assert forward_flops(larger, VOCABULARY, FEATURES, TOKENS) > one


@pytest.mark.parametrize("leaves", [{}, {"model.slots.minimum": 40}, {"model.projector.last_window": "drop"}])
def test_the_operations_of_an_editor_are_those_of_an_editing_step(leaves: dict[str, Any]) -> None:
    """Counted in a forward pass; with the one kernel of attention whose operations torch counts on a CPU."""
    config = tiny.config({"model.kind": "transcript_editor", **leaves})
    (items, frames, bins), (_, tokens) = FEATURES, TOKENS
    draft = TokenRows(torch.full((1, tokens - 1), 7), torch.tensor([tokens - 1]))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        make_model(config.model, VOCABULARY, bins)(
            torch.zeros(1, frames, bins), torch.tensor([frames]), lambda _: draft
        )
    assert forward_flops(config, VOCABULARY, FEATURES, TOKENS) == items * counter.get_total_flops()


@pytest.mark.parametrize(
    "leaves",
    [
        {},
        {"data.speed_perturbation": 0.2, "training.update_seconds": 2.0},
        {"model.kind": "language_model", "training.update_tokens": 32},
    ],
)
def test_the_updates_of_an_epoch_are_the_trainers(leaves: dict[str, Any], tiny_corpus: Corpus) -> None:
    config = tiny.config(leaves)
    split = tiny_corpus.training_split()

    def of(workers: int) -> Workload:
        return Workloads(tiny_corpus, split, lambda section: corpus_tokenizer(tiny_corpus, split, section), workers)(
            config
        )

    (plan,) = Trainer(config, tiny_corpus, CPU).plans.values()
    assert of(1).updates == of(2).updates == plan.batches > 1
    assert of(1).flops == pytest.approx(2 * of(2).flops)


@pytest.mark.parametrize("kind", ["encoder_decoder", "transcript_editor", "language_model"])
def test_a_profile_of_everything(kind: str, tiny_corpus: Corpus) -> None:
    found = profile(tiny.config({"model.kind": kind}), tiny_corpus.path, 1, 1, 0)
    assert min(found.start, found.update, found.validation, found.checkpoint) > 0
    assert 10**8 < found.memory < 10**11
    assert found.gpu_memory == 0
    assert 3 * found.model_bytes == pytest.approx(found.checkpoint_bytes, abs=HEADERS), "weights and AdamW's two copies"


def test_workers_share_an_update(tiny_corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[TimedTrainer] = []
    monkeypatch.setattr(TimedTrainer, "update", lambda trainer: seen.append(trainer) or UpdateCost(1.0, 1.0, 1, 1))
    for workers in (1, 2):
        profile(tiny.config({"training.update_seconds": 4.0}), tiny_corpus.path, workers, 1, 0)
    one, two = (next(iter(trainer.plans.values())).budget for trainer in seen)
    assert one == 2 * two


def test_a_long_epoch_and_a_long_validation_are_run_in_part(
    tiny_corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two updates at least, for the first one is not timed."""
    monkeypatch.setattr(recognition, "VALIDATION_SECONDS", {True: 2.0, False: 2.0})
    leaves = {"training.update_seconds": 4.0, "training.pass_seconds": 2.0}
    trainer = TimedTrainer(tiny.config(leaves), tiny_corpus, CPU, seconds=1e-6)
    assert trainer.updates[0] > 2
    found = trainer.timed_updates()
    _, (second, before), (third, after) = trainer.marks
    assert (found.seconds, found.frames) == (third - second, after - before)
    trainer.validation_seconds()
    assert trainer.task.examples is not None
    assert 0 < len(trainer.task.examples.transcripts) < len(tiny_corpus.validation_split().ids)


LARGE = {"training.update_seconds": 30.0}  # an update of the whole tiny corpus


@pytest.mark.parametrize(("seconds", "in_part"), [(1e-6, True), (600.0, False)])
def test_of_a_long_update_a_part_is_run_and_scaled_up(seconds: float, in_part: bool, tiny_corpus: Corpus) -> None:
    trainer = TimedTrainer(tiny.config(LARGE), tiny_corpus, CPU, seconds)
    (plan,) = trainer.plans.values()
    update = trainer.update()
    assert (trainer.part < 1) == in_part and update.frames == np.mean([size * edge for size, edge in plan.shapes])
    run = trainer.marks[-1][1] / (len(trainer.marks) - 1)
    assert (run < update.frames) == in_part and list(trainer.plans.values()) == [plan]
    trainer.validation_seconds()
    assert trainer.task.examples is not None
    assert (len(trainer.task.examples.transcripts) < len(tiny_corpus.validation_split().ids)) == in_part


@given(
    longest=st.integers(1, 3000), more=st.floats(1, 500), slope=st.integers(0, 10**6), fixed=st.integers(0, 10**9),
    rate=st.floats(1e-6, 1), in_pass=st.floats(1, 10**6),
)  # fmt: skip
def test_a_scaled_part_is_the_whole_where_time_and_memory_grow_with_the_audio(
    longest: int, more: float, slope: int, fixed: int, rate: float, in_pass: float
) -> None:
    """Memory with the audio of a pass, which is that of the update or less."""
    frames = float(round(longest * more))
    first, *parts = parts_of(frames, longest)
    assert first == parts[0] and parts[-1] == 1 / 2 and all(2 * one == two for one, two in pairwise(parts))
    assert first == 1 / 2 or first * frames >= longest > first * frames / 2

    def of(size: float) -> UpdateCost:
        return UpdateCost(size, size * rate, int(fixed + slope * min(size, in_pass)), 0)

    found, whole = of(first * frames).scaled(frames, of(0.0), in_pass), of(frames)
    assert found == pytest.approx(whole, rel=1e-3, abs=1 / first)


def test_an_untrained_model_ends_no_hypothesis_before_its_limit(tiny_corpus: Corpus) -> None:
    trainer = TimedTrainer(tiny.config(), tiny_corpus, CPU)
    trainer.validation_seconds()
    assert isinstance(trainer.task, RecognitionTask) and trainer.task.examples is not None
    rate, frames = SPARE_RATE * trainer.task.trained.tokens_per_frame, tiny_corpus.validation_split().frames
    lengths = [len(row.hypothesis) for row in trainer.task.examples.transcripts]
    assert set(lengths) <= set(np.ceil(frames * rate) + SPARE_TOKENS) and len(lengths) > 1
