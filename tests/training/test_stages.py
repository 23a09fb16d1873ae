"""Progressive training: the phase of each epoch, the parameters that it freezes, and its effect on a run."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import Recorder, assert_same_weights

from trainables.config.tree import Config
from trainables.data.corpus import Corpus
from trainables.errors import InputError
from trainables.inference.language_model import TextModel
from trainables.inference.recognizer import Recognizer
from trainables.training.loop import Trainer, train
from trainables.training.stages import enter, phase_of, subset, trained_names

CPU = torch.device("cpu")
STAGES: list[dict[str, Any]] = [
    {"epochs": 1, "encoder_layers": 1, "decoder_layers": 1, "dropout": 0.0, "data": 0.5},
    {"epochs": 2, "encoder_layers": 1, "freeze": ["encoder.layers.0.*", "ctc_head.*"], "label_smoothing": 0.2},
]
STAGED: dict[str, Any] = {**tiny.RANDOM, "training.epochs": 5, "training.stages": STAGES, "optimizer.lr": 1e-2}


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}


def names_of(leaves: dict[str, Any], epoch: int) -> set[str]:
    """Names of the parameters that a tiny model trains in an epoch."""
    config = tiny.config(leaves)
    return trained_names(config, phase_of(config, epoch), [name for name, _ in tiny.model().named_parameters()])


def test_phases_follow_one_another() -> None:
    config = tiny.config(STAGED)
    phases = [phase_of(config, epoch) for epoch in range(1, 6)]
    assert [phase.number for phase in phases] == [0, 1, 1, None, None]
    assert [phase.encoder_layers for phase in phases] == [1, 1, 1, None, None]
    assert [phase.decoder_layers for phase in phases] == [1, None, None, None, None]
    assert [phase.dropout for phase in phases] == [0.0, 0.1, 0.1, 0.1, 0.1]
    assert [phase.label_smoothing for phase in phases] == [0.0, 0.2, 0.2, 0.0, 0.0]
    assert [phase.data for phase in phases] == [0.5, 1.0, 1.0, 1.0, 1.0]


def test_without_stages_every_epoch_is_the_full_model() -> None:
    config = tiny.config({"training.epochs": 3})
    (phase,) = {phase_of(config, epoch) for epoch in (1, 2, 3)}
    assert phase.number is phase.encoder_layers is phase.decoder_layers is None
    assert (phase.dropout, phase.data) == (config.model.dropout, 1.0)
    assert names_of({}, 1) == {name for name, _ in tiny.model().named_parameters()}


def test_a_stage_freezes_patterns_and_layers_that_take_no_part() -> None:
    everything = names_of({}, 1)
    frozen = [everything - names_of(STAGED, epoch) for epoch in (1, 2, 4)]

    def under(*prefixes: str) -> set[str]:
        return {name for name in everything if name.startswith(prefixes)}

    assert frozen[0] == under("encoder.layers.1.", "decoder.layers.1.")
    assert frozen[1] == under("encoder.layers.0.", "encoder.layers.1.", "ctc_head.")
    assert frozen[2] == set()


def test_a_rate_of_zero_freezes_in_every_phase() -> None:
    leaves = {**STAGED, "optimizer.groups": [{"pattern": "encoder.subsampling.*", "lr_scale": 0}]}
    assert all(
        not any(name.startswith("encoder.subsampling") for name in names_of(leaves, epoch)) for epoch in range(1, 6)
    )


def test_entering_says_whether_other_parameters_are_trained() -> None:
    config, model = tiny.config(STAGED), tiny.model()
    names = [name for name, _ in model.named_parameters()]
    changes = []
    for epoch in range(1, 6):
        phase = phase_of(config, epoch)
        trained = trained_names(config, phase, names)
        changes.append(enter(phase, model, trained))
        assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == trained
        assert (model.encoder.active_layers, model.decoder.active_layers) == (
            phase.encoder_layers,
            phase.decoder_layers,
        )
        assert {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)} == {phase.dropout}
    assert changes == [True, True, False, True, False]


def test_layers_that_take_no_part_are_skipped() -> None:
    """A model with its second layers inactive equals a model without second layers."""
    small, large = tiny.model(encoder_layers=1, decoder_layers=1), tiny.model(seed=1)
    large.load_state_dict(small.state_dict(), strict=False)
    large.encoder.active_layers = large.decoder.active_layers = 1
    features, lengths = torch.randn(2, 40, tiny.BINS), torch.tensor([40, 31])
    tokens = torch.randint(5, tiny.VOCABULARY, (2, 6))
    for one, other in zip(small(features, lengths, tokens)[:3], large(features, lengths, tokens)[:3], strict=True):
        assert torch.equal(one, other)
    states, state_lengths = large.encoder(features, lengths)
    searches = [model.decoder.start(states, state_lengths, 6) for model in (small, large)]
    for step in range(6):
        one, other = (
            model.decoder.step(tokens[:, step], search) for model, search in zip((small, large), searches, strict=True)
        )
        assert torch.equal(one, other)


@given(st.integers(1, 200), st.integers(0, 2**31), st.floats(0.01, 1), st.floats(0.01, 1))
def test_a_larger_share_contains_a_smaller_one(utterances: int, seed: int, one: float, other: float) -> None:
    small, large = (subset(share, utterances, seed) for share in sorted((one, other)))
    assert set(small) <= set(large) <= set(range(utterances))
    assert len(small) == len(set(small)) >= min(one, other) * utterances
    assert list(subset(1.0, utterances, seed)) == list(range(utterances))


@pytest.mark.parametrize(
    ("leaves", "expected"),
    [
        (
            {"training.stages": [{"freeze": ["encoder.*", "encoder.layer.*"]}]},
            "training.stages.0.freeze.1: no parameter's name matches 'encoder.layer.*'",
        ),
        ({"training.stages": [{}, {"freeze": ["*"]}]}, "training.stages.1: every parameter is frozen"),
        ({"optimizer.groups": [{"pattern": "*", "lr_scale": 0}]}, "optimizer.groups: every parameter is frozen"),
    ],
)
def test_mistakes_are_found_before_training(leaves: dict[str, Any], expected: str, tiny_corpus: Corpus) -> None:
    with pytest.raises(InputError) as error:
        Trainer(tiny.config(leaves), tiny_corpus, CPU)
    assert expected in error.value.problem


def test_only_what_a_phase_trains_changes(tiny_corpus: Corpus) -> None:
    """Frozen parameters do not change by weight decay or by momentum from an earlier phase either."""
    trainer = Trainer(tiny.config(STAGED), tiny_corpus, CPU)
    before = weights(trainer)
    for epoch in range(1, 6):
        trainer.history.append(trainer.epoch(epoch))
        after = weights(trainer)
        changed = {name for name in after if not torch.equal(before[name], after[name])}
        assert changed == trainer.trained_names[trainer.phases[epoch - 1]]
        before = after


def test_the_schedule_spans_all_stages(tiny_corpus: Corpus) -> None:
    """An epoch of half the utterances has fewer updates, and the very last update has the lowest learning rate."""
    leaves = {**STAGED, "training.update_seconds": 1.0, "optimizer.final_lr": 0.1}
    trainer = Trainer(tiny.config(leaves), tiny_corpus, CPU)
    made = [len(list(trainer.updates_of(epoch))) for epoch in range(1, 6)]
    assert made == trainer.updates
    assert made[0] < made[1] == made[4]
    found = {index for update in trainer.updates_of(1) for batch in update for index in batch.indices}
    assert found == set(subset(0.5, 20, 0))
    recorder = Recorder()
    train(tiny.config(leaves), tiny_corpus, recorder)
    assert recorder.history[-1]["learning_rate"] == pytest.approx(0.1 * 1e-2)
    hours = [0.0] + [row["audio_hours"] for row in recorder.history]
    steps = [after - before for before, after in itertools.pairwise(hours)]
    assert steps[0] == pytest.approx(tiny_corpus.training_split().seconds[subset(0.5, 20, 0)].sum() / 3600, rel=1e-4)
    assert steps[0] < 0.7 * steps[1] and steps[1:] == pytest.approx([steps[1]] * 4)


def test_a_stage_smooths_its_labels_and_validation_does_not(tiny_corpus: Corpus) -> None:
    def first(stage: dict[str, Any]) -> dict[str, Any]:
        trainer = Trainer(tiny.config({"training.stages": [stage], "optimizer.lr": 1e-9}), tiny_corpus, CPU)
        return trainer.epoch(1)

    plain, smooth = first({}), first({"label_smoothing": 0.5})
    assert smooth["train_cross_entropy"] != pytest.approx(plain["train_cross_entropy"], rel=1e-3)
    assert smooth["val_loss"] == pytest.approx(plain["val_loss"], rel=1e-5)


def test_a_model_of_a_stage_transcribes_as_it_was_validated(tiny_corpus: Corpus, tmp_path: Path) -> None:
    trainer = Trainer(tiny.config(STAGED), tiny_corpus, CPU)
    trainer.history.append(trainer.epoch(1))
    trainer.save(tmp_path / "model")
    loaded = Recognizer.load(tmp_path / "model")
    assert (loaded.model.encoder.active_layers, loaded.model.decoder.active_layers) == (1, 1)
    features, lengths = torch.randn(1, 40, tiny.BINS), torch.tensor([40])
    trainer.model.eval()
    assert torch.equal(loaded.model.encoder(features, lengths)[0], trainer.model.encoder(features, lengths)[0])


@pytest.mark.parametrize("stop", [1, 2, 3, 4])
def test_a_resumed_run_equals_an_uninterrupted_one(stop: int, tiny_corpus: Corpus, tmp_path: Path) -> None:
    config: Config = tiny.config(STAGED)
    straight, first, second = Recorder(), Recorder(tmp_path), Recorder()
    whole = train(config, tiny_corpus, straight)
    trainer = Trainer(config, tiny_corpus, CPU)
    for epoch in range(1, stop + 1):
        trainer.history.append(trainer.epoch(epoch))
        first(trainer.history[-1], trainer.saver())
    torch.manual_seed(12345)
    resumed = train(config, tiny_corpus, second, checkpoint=tmp_path / f"epoch_{stop}")
    assert first.comparable() + second.comparable() == straight.comparable()
    assert_same_weights(resumed, whole)


def test_a_language_model_has_stages_too(tiny_corpus: Corpus, tmp_path: Path) -> None:
    stages = [{"decoder_layers": 1, "freeze": ["embedding.*"]}]
    trainer = Trainer(
        tiny.config({"model.kind": "language_model", "training.stages": stages, "training.epochs": 2}), tiny_corpus, CPU
    )
    before = weights(trainer)
    trainer.history.append(trainer.epoch(1))
    changed = {name for name, weight in weights(trainer).items() if not torch.equal(weight, before[name])}
    assert changed == {name for name in before if not name.startswith(("layers.1.", "embedding."))}
    trainer.save(tmp_path / "model")
    assert TextModel.load(tmp_path / "model").model.active_layers == 1
    trainer.history.append(trainer.epoch(2))
    trainer.save(tmp_path / "model")
    assert TextModel.load(tmp_path / "model").model.active_layers is None


def test_dropouts_with_a_probability_of_their_own_stay_in_every_phase() -> None:
    config = tiny.config({**STAGED, "model.input_dropout": 0.3, "model.position_dropout": 0.2})
    model = tiny.model(dropout=0.1, input_dropout=0.3, position_dropout=0.2)
    for epoch in (1, 2, 4):
        enter(phase_of(config, epoch), model, set())
        assert (model.encoder.dropout.probability, model.encoder.position_dropout.probability) == (0.3, 0.2)
        assert model.decoder.dropout.p == phase_of(config, epoch).dropout
