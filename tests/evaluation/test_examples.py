"""What a validation keeps is right: attention as the model pays it, errors as CER counts them."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from trainables.config.tree import Decoding
from trainables.data.corpus import Corpus
from trainables.evaluation import examples
from trainables.evaluation.examples import (
    ATTENTION,
    EXAMPLES,
    SLOT,
    Example,
    Examples,
    captured_attention,
    causal_mask,
    most_frequent,
    select,
)
from trainables.evaluation.metrics import align_characters, align_words, character_error_rate, word_error_rate
from trainables.inference.model_files import ERRORS
from trainables.models.attention import CrossAttention, SelfAttention, attention_weights
from trainables.training.loop import Trainer, train

CPU = torch.device("cpu")
texts = st.text(st.sampled_from("AB C"), max_size=12)


@pytest.fixture(scope="module")
def trained(tiny_corpus: Corpus) -> Trainer:
    """A run after its first epoch."""
    trainer = Trainer(tiny.config({"tokenizer.kind": "bpe", "tokenizer.vocab_size": 16}), tiny_corpus, CPU)
    trainer.history.append(trainer.epoch(1))
    return trainer


@pytest.fixture(scope="module")
def kept(trained: Trainer) -> Examples:
    assert trained.task.examples is not None
    return trained.task.examples


# Alignments


@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=5))
def test_marks_add_up_to_the_errors_that_are_counted(pairs: list[tuple[str, str]]) -> None:
    references, hypotheses = [one for one, _ in pairs], [other for _, other in pairs]
    characters = sum(len(reference.strip()) for reference in references)
    words = sum(len(reference.split()) for reference in references)
    for aligned, rate, length in (
        (align_characters(references, hypotheses), character_error_rate, characters),
        (align_words(references, hypotheses), word_error_rate, words),
    ):
        errors = sum(pair.operation != "equal" for alignment in aligned for pair in alignment)
        if length:
            assert errors / length == pytest.approx(rate(references, hypotheses))


@given(texts, texts)
def test_an_alignment_holds_both_texts_whole(reference: str, hypothesis: str) -> None:
    (alignment,) = align_characters([reference], [hypothesis])
    assert "".join(pair.reference for pair in alignment) == reference.strip()
    assert "".join(pair.hypothesis for pair in alignment) == hypothesis.strip()
    for pair in alignment:
        lengths = len(pair.reference), len(pair.hypothesis)
        expected = {(0, 1): "insert", (1, 0): "delete", (1, 1): "substitute"}[lengths]
        assert pair.operation == ("equal" if pair.reference == pair.hypothesis else expected)


def test_word_errors_are_counted_over_the_whole_split() -> None:
    found = most_frequent(align_words(["A CAT SAT", "A CAT", "THE CAT", "A"], ["A BAT SAT", "THE BAT", "THE", "A A"]))
    assert [(row.reference, row.hypothesis, row.count) for row in found] == [
        ("CAT", "BAT", 2), ("", "A", 1), ("A", "THE", 1), ("CAT", "", 1),
    ]  # fmt: skip


@pytest.mark.parametrize("count", [0, 1, 50, 51, 60, 100, 101, 2703])
def test_the_worst_are_kept_and_others_evenly_spread(count: int) -> None:
    rows = [Example(str(number), 1.0, "", "", count - number) for number in range(count)]
    found = select(rows)
    assert len(found) == min(count, examples.WORST + examples.SPREAD)
    assert found[: examples.WORST] == rows[: examples.WORST]
    numbers = [int(row.id) for row in found[examples.WORST :]]
    assert len(set(np.diff(numbers, n=2))) <= 3, "the distances differ by rounding alone"
    assert numbers == sorted(set(numbers))
    if numbers:
        assert numbers[-1] == count - 1


# Attention


def test_self_attention_equals_torch() -> None:
    """The weights of torch.nn.MultiheadAttention with the same parameters, each head's."""
    torch.manual_seed(0)
    ours = SelfAttention(tiny.shape())
    reference = nn.MultiheadAttention(32, 2, batch_first=True)
    reference.load_state_dict(
        {
            "in_proj_weight": ours.qkv.weight.detach(),
            "in_proj_bias": ours.qkv.bias.detach(),
            "out_proj.weight": ours.output.weight.detach(),
            "out_proj.bias": ours.output.bias.detach(),
        }
    )
    x_BSD = torch.randn(3, 7, 32)
    mask = torch.ones(7, 7, dtype=torch.bool).triu(1)
    expected = reference(x_BSD, x_BSD, x_BSD, attn_mask=mask, average_attn_weights=False)[1]
    query, key, _ = ours.project(x_BSD)
    torch.testing.assert_close(attention_weights(query, key, causal_mask(query)), expected, atol=1e-6, rtol=0)


def test_cross_attention_equals_torch() -> None:
    torch.manual_seed(0)
    ours = CrossAttention(tiny.shape())
    reference = nn.MultiheadAttention(32, 2, batch_first=True)
    reference.load_state_dict(
        {
            "in_proj_weight": torch.cat([ours.query.weight, ours.key_value.weight]).detach(),
            "in_proj_bias": torch.cat([ours.query.bias, ours.key_value.bias]).detach(),
            "out_proj.weight": ours.output.weight.detach(),
            "out_proj.bias": ours.output.bias.detach(),
        }
    )
    x_BUD, states_BSD = torch.randn(3, 5, 32), torch.randn(3, 9, 32)
    expected = reference(x_BUD, states_BSD, states_BSD, average_attn_weights=False)[1]
    found = attention_weights(ours.project_query(x_BUD), ours.project(states_BSD)[0])
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("qk_norm", ["none", "rms"])
def test_the_weights_are_those_that_the_model_used(qk_norm: str) -> None:
    """Weights times values give each layer's output, through all layers, and watching changes nothing."""
    model = tiny.model(qk_norm=qk_norm, decoder_layers=3)
    tokens_BU, states_BSD = torch.randint(5, tiny.VOCABULARY, (1, 6)), torch.randn(1, 11, 32)
    arguments = tokens_BU, states_BSD, torch.tensor([11])
    outputs: list[torch.Tensor] = []
    hooks = [
        layer.self_attention.register_forward_hook(lambda module, given, output: outputs.append(output))
        for layer in model.decoder.stack
    ]
    values: list[torch.Tensor] = []
    hooks += [
        layer.self_attention.register_forward_hook(lambda module, given, _: values.append(module.project(given[0])[2]))
        for layer in model.decoder.stack
    ]
    with torch.no_grad(), captured_attention(model.decoder) as (to_tokens, to_states):
        logits = model.decoder(*arguments)
    for hook in hooks:
        hook.remove()
    assert len(to_tokens) == len(to_states) == 3
    with torch.no_grad():
        for layer, (query, key), value, output in zip(model.decoder.stack, to_tokens, values, outputs, strict=True):
            heads = attention_weights(query, key, causal_mask(query)) @ value
            joined = layer.self_attention.output(heads.transpose(1, 2).flatten(-2))
            torch.testing.assert_close(joined, output, atol=1e-5, rtol=1e-5)
        assert torch.equal(model.decoder(*arguments), logits)
    assert len(to_tokens) == 3, "no longer watched"


def test_rows_sum_to_one_and_nothing_looks_ahead(kept: Examples) -> None:
    attention = kept.attention
    layers, heads, tokens = attention.states_LHUS.shape[:3]
    assert (layers, heads) == (2, 2)
    assert attention.tokens_LHUU.shape == (layers, heads, tokens, tokens)
    assert tokens == len(attention.inputs) == len(attention.targets)
    for weights in (attention.tokens_LHUU, attention.states_LHUS):
        torch.testing.assert_close(weights.sum(-1), torch.ones(layers, heads, tokens), atol=1e-5, rtol=0)
    assert torch.equal(attention.tokens_LHUU, attention.tokens_LHUU.tril())
    assert bool((attention.tokens_LHUU.diagonal(dim1=-2, dim2=-1) > 0).all())


def test_labels_and_seconds_are_those_of_the_median_utterance(kept: Examples, tiny_corpus: Corpus) -> None:
    split = tiny_corpus.validation_split()
    attention = kept.attention
    index = split.ids.index(attention.id)
    assert sorted(split.frames)[len(split) // 2] == split.frames[index]
    assert attention.inputs == ["<sos>", *attention.targets[:-1]]
    assert attention.targets[-1] == "<eos>"
    assert "".join(attention.targets[:-1]) == f" {(split.texts or [])[index]}", "subwords, with the space before each"
    end = attention.states_LHUS.shape[-1] * attention.seconds_per_state
    assert split.seconds[index] <= end < split.seconds[index] + attention.seconds_per_state


def test_labels_name_what_a_tokenizer_does_not_know(tiny_corpus: Corpus, tmp_path: Path) -> None:
    corpus = tiny.write_corpus(tmp_path / "corpus", {"train": tiny.SENTENCES, "dev": ["A Z"]})
    trainer = Trainer(tiny.config(), corpus, CPU)
    trainer.validate()
    assert trainer.task.examples is not None
    assert trainer.task.examples.attention.targets == ["A", " ", "<unk>", "<eos>"]


# What a run keeps


def test_transcripts_are_those_of_the_validation(trained: Trainer, kept: Examples, tiny_corpus: Corpus) -> None:
    split = tiny_corpus.validation_split()
    assert (kept.epoch, kept.split) == (1, "dev")
    assert {row.id: row.reference for row in kept.transcripts} == dict(zip(split.ids, split.texts or [], strict=True))
    errors = [row.errors for row in kept.transcripts]
    assert errors == sorted(errors, reverse=True)
    characters = sum(len(row.reference) for row in kept.transcripts)
    assert sum(errors) / characters == pytest.approx(trained.history[0]["val_cer"])
    frames = {id: split.features[start : start + count] for id, start, count in
              zip(split.ids, split.offsets, split.frames, strict=True)}  # fmt: skip
    for row in kept.transcripts[:2]:
        assert trained.task.trained.transcribe([frames[row.id]]) == [row.hypothesis]


def test_an_editors_attention_is_that_of_its_first_step(learned_editor: tiny.Learned, tiny_corpus: Corpus) -> None:
    """A row has all its weights in text and audio; inputs are the draft with slots, targets what the step writes."""
    recognizer, split = learned_editor.recognizer, tiny_corpus.validation_split()
    trainer = Trainer(recognizer.config, tiny_corpus, CPU)
    trainer.model.load_state_dict(recognizer.model.state_dict())
    trainer.validate()
    kept = trainer.task.examples
    assert kept is not None
    attention, spans = kept.attention, zip(split.offsets, split.frames, strict=True)
    features = [split.features[start : start + count] for start, count in spans]
    index = split.ids.index(attention.id)
    draft, edited = (
        recognizer.transcribe(features, recognizer.search(Decoding.model_validate(search)))
        for search in ({"method": "ctc"}, {})
    )
    assert attention.edits and attention.inputs[::2] == [SLOT] * (len(attention.inputs) // 2 + 1)
    assert "".join(attention.inputs[1::2]).rstrip(SLOT) == draft[index]
    written = [token for token, _ in groupby(attention.targets) if token != SLOT]
    assert "".join(written) == edited[index]
    sums = attention.tokens_LHUU.sum(-1) + attention.states_LHUS.sum(-1)
    torch.testing.assert_close(sums, torch.ones_like(sums), atol=1e-5, rtol=0)
    end = attention.states_LHUS.shape[-1] * attention.seconds_per_state
    assert split.seconds[index] <= end < split.seconds[index] + 2 * attention.seconds_per_state
    expected = dict(zip(split.ids, zip(draft, edited, strict=True), strict=True))
    assert {row.id: (row.draft, row.hypothesis) for row in kept.transcripts} == expected


def test_a_checkpoint_keeps_it(trained: Trainer, kept: Examples, tmp_path: Path) -> None:
    save = trained.saver()
    assert save is not None
    save(tmp_path / "checkpoint")
    names = {path.name for path in (tmp_path / "checkpoint").iterdir()}
    assert names > {"model.safetensors", EXAMPLES, ATTENTION, ERRORS}
    found = Examples.load(tmp_path / "checkpoint")
    assert found is not None
    assert (found.epoch, found.split) == (kept.epoch, kept.split)
    assert (found.transcripts, found.word_errors, found.errors) == (kept.transcripts, kept.word_errors, kept.errors)
    assert (found.attention.inputs, found.attention.targets) == (kept.attention.inputs, kept.attention.targets)
    torch.testing.assert_close(found.attention.states_LHUS, kept.attention.states_LHUS, atol=1e-3, rtol=0)
    torch.testing.assert_close(found.attention.tokens_LHUU, kept.attention.tokens_LHUU, atol=1e-3, rtol=0)


def test_examples_from_before_there_were_drafts_are_read(kept: Examples, tmp_path: Path) -> None:
    kept.save(tmp_path)
    tree = json.loads((tmp_path / EXAMPLES).read_text(encoding="utf-8"))
    for row in tree["transcripts"]:
        assert row.pop("draft") is None
    assert tree["attention"].pop("edits") is False
    (tmp_path / EXAMPLES).write_text(json.dumps(tree), encoding="utf-8")
    found = Examples.load(tmp_path)
    assert found is not None and found.transcripts == kept.transcripts and not found.attention.edits


@pytest.mark.parametrize("name", [EXAMPLES, ATTENTION, ERRORS])
def test_nothing_depends_on_it(name: str, trained: Trainer, tiny_corpus: Corpus, tmp_path: Path) -> None:
    """A checkpoint without it, or with half of it, is gone on with."""
    save = trained.saver()
    assert save is not None
    folder = tmp_path / "checkpoint"
    save(folder)
    whole = (folder / name).read_bytes()
    for content in (whole[: len(whole) // 2], None):
        (folder / name).unlink()
        if content is not None:
            (folder / name).write_bytes(content)
        assert Examples.load(folder) is None
        tree = trained.config.model_dump()
        tree["training"]["epochs"] = 1
        train(trained.config.model_validate(tree), tiny_corpus, lambda metrics, save: None, checkpoint=folder)


def test_a_repeated_report_keeps_it_too(trained: Trainer, tiny_corpus: Corpus, tmp_path: Path) -> None:
    save = trained.saver()
    assert save is not None
    save(tmp_path / "first")
    tree = trained.config.model_dump()
    tree["training"]["epochs"] = 1
    train(
        trained.config.model_validate(tree),
        tiny_corpus,
        lambda metrics, save: save(tmp_path / "second") if save else None,
        checkpoint=tmp_path / "first",
        reported_epochs=0,
    )
    for name in (EXAMPLES, ATTENTION, ERRORS):
        assert (tmp_path / "second" / name).read_bytes() == (tmp_path / "first" / name).read_bytes()
