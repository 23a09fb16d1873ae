"""A transcript editor in training: what it learns from, what is reported, how it goes on after an interruption."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from tiny import Recorder, assert_same_weights

from trainables.config.tree import Config, Decoding
from trainables.data.batch_plan import PassBatch, Rows
from trainables.data.corpus import Corpus
from trainables.evaluation.metrics import character_error_rate
from trainables.inference.language_model import TextModel
from trainables.inference.recognizer import Recognizer
from trainables.models.editing.slots import TokenRows
from trainables.models.speech_transformer import LanguageModel
from trainables.training.loop import Trainer, train
from trainables.training.tasks import EditingTask

CPU = torch.device("cpu")
BLOCKS: dict[str, Mapping[str, Any]] = {"transformer": {}, "conformer": tiny.CONFORMER}
# Everything that draws random numbers; the encoder's drafts are below the threshold after some epochs.
RANDOM = {
    **tiny.RANDOM,
    **tiny.EDITING,
    "model.editor.dropout": 0.1,
    "model.mid_head.dropout": 0.1,
    "drafts.corrupted_share": 0.5,
    "drafts.threshold": 0.9,
    "training.epochs": 5,
    "optimizer.lr": 1e-2,
}


def test_it_learns_and_edits(learned_editor: tiny.Learned) -> None:
    first, last = learned_editor.history[0], learned_editor.history[-1]
    assert last["val_cer"] <= 0.05 and last["val_loss"] < 0.1 * first["val_loss"]
    for name in ("train_editing", "train_drafting", "train_spelling"):
        assert last[name] < 0.2 * first[name], name
    assert last["train_copying"] < 0.5 * first["train_copying"]
    assert (first["own_drafts"], last["own_drafts"]) == (0, 1)


def test_the_loss_is_the_weighted_sum_of_its_parts(learned_editor: tiny.Learned) -> None:
    loss = learned_editor.recognizer.config.loss
    for row in learned_editor.history:
        weighted = loss.copy_weight * row["train_copying"] + loss.draft_weight * row["train_drafting"]
        weighted += loss.mid_weight * row["train_spelling"]
        assert row["train_loss"] == pytest.approx(row["train_editing"] + weighted, rel=1e-4)


def test_validation_scores_the_draft_one_step_and_the_steps_asked_for(
    learned_editor: tiny.Learned, tiny_corpus: Corpus
) -> None:
    config = learned_editor.recognizer.config
    decoding = Decoding(editing_steps=3)
    trainer = Trainer(config.model_copy(update={"decoding": decoding}), tiny_corpus, CPU)
    trainer.model.load_state_dict(learned_editor.recognizer.model.state_dict())
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():  # noise, so that steps differ
        for weight in trainer.model.editor.layers.parameters():
            weight += 0.3 * torch.randn(weight.shape, generator=random)
    found = trainer.validate()
    split, trained = tiny_corpus.validation_split(), trainer.task.trained
    frames = [split.features[start : start + count] for start, count in zip(split.offsets, split.frames, strict=True)]
    searches = {"val_ctc_cer": {"method": "ctc"}, "val_one_step_cer": {}, "val_cer": {"editing_steps": 3}}
    for name, leaves in searches.items():
        texts = trained.transcribe(frames, trained.search(Decoding.model_validate(leaves)))
        assert found[name] == pytest.approx(character_error_rate(split.texts or [], texts)), name
    assert len({found[name] for name in searches}) == 3
    assert found["real_time_factor"] > 0 and found["real_time_factor_alone"] > 0


def test_it_edits_corrupted_references_until_drafts_are_below_the_threshold(tiny_corpus: Corpus) -> None:
    trainer = Trainer(
        tiny.config({**tiny.EDITING, "drafts.threshold": 0.5, "drafts.corruption_rate": 0.0}), tiny_corpus, CPU
    )
    task = trainer.task
    assert isinstance(task, EditingTask)
    edited: list[TokenRows] = []
    task.network.editor.join = _noting(edited, task.network.editor.join)  # type: ignore[method-assign]
    rows = Rows.of(np.arange(4))
    edge = int(tiny_corpus.training_split().frames[:4].max())
    for rates, own in [([], False), ([0.5], False), ([0.49], True), ([0.49, 0.7], True), ([0.7], False)]:
        task.start_epoch(2, [{"val_ctc_cer": rate} for rate in rates])
        batch = task.train_data.gather(rows, edge)
        planned = PassBatch(rows.indices, edge, batch.targets_BU.shape[1], rows)
        task.losses(trainer.model.eval(), trainer.config.loss, planned)
        draft = task.network.tokens(task.network.encode(batch.features_BTF, batch.lengths_B))
        references = TokenRows(batch.targets_BU, batch.target_lengths_B - 1)
        assert draft.lists() != references.lists()
        expected = task.network.positions(draft if own else references)
        assert edited.pop().lists() == expected.lists()
        assert task.own_drafts == own


def _noting(found: list[TokenRows], join: Any) -> Any:
    def noted(audio: Any, lengths: Any, text: TokenRows) -> Any:
        found.append(text)
        return join(audio, lengths, text)

    return noted


@pytest.mark.parametrize("block", BLOCKS)
def test_a_resumed_run_equals_an_uninterrupted_one(block: str, tiny_corpus: Corpus, tmp_path: Path) -> None:
    """Metrics and weights are equal bit by bit, also where the drafts become the encoder's own after the resume."""
    config, straight = tiny.config({**RANDOM, **BLOCKS[block]}), Recorder(tmp_path)
    whole = train(config, tiny_corpus, straight)
    switches = [row["own_drafts"] for row in straight.history]
    assert switches[0] == 0 and switches[-1] == 1
    for stop in {1, switches.index(1), 4}:  # before, at and after the switch
        second = Recorder()
        torch.manual_seed(12345)  # another process begins with another random state
        resumed = train(config, tiny_corpus, second, checkpoint=tmp_path / f"epoch_{stop}")
        assert second.comparable() == straight.comparable()[stop:]
        assert_same_weights(resumed, whole)


def test_averages_hold_the_statistics_of_batch_norm(tiny_corpus: Corpus, tmp_path: Path) -> None:
    """Statistics of other weights than those averaged would make the averaged model another one."""
    leaves = {**RANDOM, **tiny.CONFORMER, "training.ema": 0.8, "training.average": 2}
    config, straight, second = tiny.config(leaves), Recorder(tmp_path), Recorder()
    whole = train(config, tiny_corpus, straight)
    resumed = train(config, tiny_corpus, second, checkpoint=tmp_path / "epoch_3")
    assert second.comparable() == straight.comparable()[3:]
    assert_same_weights(resumed, whole)
    loaded = Recognizer.load(tmp_path / "epoch_5")
    assert_same_weights(loaded, whole)
    trainer = Trainer(config, tiny_corpus, CPU)
    trainer.resume(tmp_path / "epoch_5")
    names = {name for name, _ in trainer.model.named_buffers() if "running" in name}
    assert names and names <= set(trainer.averages.running)
    trained = trainer.model.state_dict()
    assert all(not torch.equal(loaded.model.state_dict()[name], trained[name]) for name in names)


def test_stages_train_fewer_layers_of_encoder_and_editor(tiny_corpus: Corpus, tmp_path: Path) -> None:
    stages = [{"encoder_layers": 1, "decoder_layers": 1, "data": 0.5}, {"freeze": ["encoder.*", "mid_head.*"]}]
    config = tiny.config({**tiny.EDITING, "training.stages": stages, "training.epochs": 4, "optimizer.lr": 1e-2})
    trainer, recorder = Trainer(config, tiny_corpus, CPU), Recorder(tmp_path)
    unchanged = [("encoder.layers.1.", "editor.layers.1."), ("encoder.", "mid_head."), ()]
    for epoch, still in enumerate(unchanged, start=1):
        before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
        trainer.history.append(trainer.epoch(epoch))
        recorder(trainer.history[-1], trainer.saver())
        same = {name for name, weight in trainer.model.named_parameters() if torch.equal(weight, before[name])}
        assert same == {name for name in before if name.startswith(still)}
    assert Recognizer.load(tmp_path / "epoch_1").model.editor.active_layers == 1
    trainer.history.append(trainer.epoch(4))
    second = Recorder()
    resumed = train(config, tiny_corpus, second, checkpoint=tmp_path / "epoch_1")
    assert second.comparable() == [tiny.timeless(row) for row in trainer.history[1:]]
    assert_same_weights(resumed, trainer.task.trained)


def test_an_editor_begins_as_a_language_model_which_is_frozen_at_first(tiny_corpus: Corpus, tmp_path: Path) -> None:
    plain = Trainer(tiny.config(tiny.EDITING), tiny_corpus, CPU)
    shape = plain.config.model.editor.language_model()
    torch.manual_seed(7)
    language_model = LanguageModel(shape, plain.task.trained.tokenizer.vocab_size)
    tree = {**plain.config.model_dump(), "model": shape.model_dump()}
    (tmp_path / "lm").mkdir()
    TextModel(Config.model_validate(tree), language_model, plain.task.trained.tokenizer, tiny_corpus.hash).save(
        tmp_path / "lm"
    )
    leaves = {"pretrained.decoder": str(tmp_path / "lm"), "pretrained.frozen_epochs": 1, "training.epochs": 2}
    trainer = Trainer(tiny.config({**tiny.EDITING, **leaves}), tiny_corpus, CPU)
    begun = {f"editor.{name}": weight.detach().clone() for name, weight in language_model.named_parameters()}
    for epoch, still in ((1, True), (2, False)):
        trainer.history.append(trainer.epoch(epoch))
        weights = dict(trainer.model.named_parameters())
        assert all(torch.equal(weights[name], weight) == still for name, weight in begun.items())


def test_an_update_of_several_batches_is_the_mean_of_their_losses_by_tokens(tiny_corpus: Corpus) -> None:
    """Gradients of the accumulated batches equal those of the mean of their losses, weighted with their tokens."""
    trainer = Trainer(
        tiny.config({**tiny.EDITING, "training.update_seconds": 6.0, "training.pass_seconds": 2.0}), tiny_corpus, CPU
    )
    trainer.task.start_epoch(1, [])
    trainer.enter(trainer.phases[0])
    batches = next(trainer.updates_of(1))
    assert len(batches) > 2
    sums, loss = torch.zeros(len(trainer.task.SUMS), dtype=torch.float64), trainer.config.loss
    trainer.accumulate_gradients(batches, loss, sums)
    found = {name: weight.grad.clone() for name, weight in trainer.model.named_parameters()}
    trainer.optimizer.zero_grad()
    tokens = [int(trainer.task.target_tokens[batch.indices].sum()) for batch in batches]
    for (indices, edge, _, rows, _), count in zip(batches, tokens, strict=True):
        batch, task = trainer.task.train_data.gather(rows, edge), trainer.task
        references = TokenRows(batch.targets_BU, batch.target_lengths_B - 1)
        corrupted = task.corruption.corrupt(references, torch.from_numpy(indices))
        edited = trainer.model(batch.features_BTF, batch.lengths_B, lambda own, texts=corrupted: texts)
        (task.summed(edited, batch).total(loss) * (count / sum(tokens))).backward()
    for name, weight in trainer.model.named_parameters():
        torch.testing.assert_close(found[name], weight.grad, atol=1e-5, rtol=1e-4)
