"""The assembled transcript editor: padding, editing steps, gradients and initial values."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import pytest
import tiny
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from trainables.config.model import STRIDES
from trainables.data.text.tokenizer import BLANK, SPECIAL_IDS
from trainables.models.editing.editor import unflattened
from trainables.models.editing.slots import TokenRows
from trainables.models.editing.transcript_editor import Edited, TranscriptEditor

CPU = torch.device("cpu")
# Choices of an encoder; each utterance of a batch is padded behind the last of its frames, states and pooled states.
CHOICES: dict[str, list[Any]] = {
    key: tiny.choices(key)
    for key in (
        "encoder_block", "encoder_positions", "reduction", "norm", "qk_norm", "conv_norm", "gated",
        "embedding_norm", "encoder_causal", "sinusoids",
    )
} | {
    "reduction_factor": sorted(STRIDES),
    "context_size": [None, 1, 5, 64],
    "conv_kernel": [1, 4, 15],
    "conv_channels": [8],
    "kv_heads": [None, 1],
    "max_distance": [2, 64],
}  # fmt: skip
SECTIONS: dict[str, dict[str, list[Any]]] = {
    "mid_head": {"layer": [1, 2]},
    "pooling": {"window": [1, 3, 4], "epsilon": [0.0, 1e-8]},
    "projector": {"last_window": ["mask", "drop"], "window": [2, 6], "reduction_factor": [1, 2]},
    "editor": {"positions": ["none", "sinusoidal", "rotary"], "norm": ["rms", "layer"]},
    "slots": {"minimum": [1, 8]},
}


def options(keys: dict[str, list[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({key: st.sampled_from(values or [False, True]) for key, values in keys.items()})


def possible(whole: dict[str, Any], parts: dict[str, Any]) -> dict[str, Any]:
    """A shape; a conformer that must not look ahead has a convolution of one state."""
    blind = whole["encoder_causal"] and whole["encoder_block"] == "conformer"
    return {**whole, **parts, **({"conv_kernel": 1} if blind else {})}


shapes = st.builds(
    possible, options(CHOICES), st.fixed_dictionaries({name: options(keys) for name, keys in SECTIONS.items()})
)
BLOCKS = pytest.mark.parametrize("block", tiny.choices("encoder_block"))


def batch(frames: list[int], extra: int = 0, loudness: float = 1.0) -> tuple[Tensor, Tensor]:
    """Features and lengths; what lies behind an utterance is random, and may be loud."""
    features_BTF = torch.randn(len(frames), max(frames) + extra, tiny.BINS) * loudness
    for row, length in zip(features_BTF, frames, strict=True):
        row[:length] /= loudness
    return features_BTF, torch.tensor(frames)


def hypotheses(counts: list[int]) -> TokenRows:
    return TokenRows.of([torch.randint(len(SPECIAL_IDS), tiny.VOCABULARY, (n,)).tolist() for n in counts], CPU)


def row_of(rows: TokenRows, number: int) -> TokenRows:
    length = rows.lengths_B[number : number + 1]
    return TokenRows(rows.ids_BU[number : number + 1, : max(1, int(length))], length)


def text_logits(edited: Edited, number: int) -> Tensor:
    return edited.logits_NV.split(edited.positions.lengths_B.tolist())[number]


@settings(max_examples=40)
@given(
    shapes,
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 6)), min_size=1, max_size=4),
    st.integers(0, 25),
    st.sampled_from([1.0, 100.0]),
)
def test_a_padded_batch_gives_what_its_utterances_give_alone(
    fields: dict[str, Any], sizes: list[tuple[int, int]], extra: int, loudness: float
) -> None:
    """Every choice of the encoder; the tokens to edit are given, since rounding may turn a token of the draft."""
    model = tiny.editor(**fields)
    features_BTF, lengths_B = batch([size[0] for size in sizes], extra, loudness)
    tokens = hypotheses([size[1] for size in sizes])
    close = {"atol": 1e-4, "rtol": 1e-4}
    with torch.no_grad():
        found = model(features_BTF, lengths_B, lambda draft: tokens)
        for number, (length, _) in enumerate(sizes):
            row = features_BTF[number : number + 1, :length], lengths_B[number : number + 1]
            alone = model(*row, lambda draft, number=number: row_of(tokens, number))
            states, pooled = int(alone.draft.lengths_B), int(alone.draft.pooled_lengths_B)
            assert states == found.draft.lengths_B[number] == -(-length // fields["reduction_factor"])
            assert pooled == found.draft.pooled_lengths_B[number] == -(-states // fields["pooling"]["window"])
            for one, other in zip(found.draft.states, alone.draft.states, strict=True):
                torch.testing.assert_close(one[number, :states], other[0], **close)
            torch.testing.assert_close(
                found.draft.mid_logits_BSC[number, :states], alone.draft.mid_logits_BSC[0], **close
            )
            torch.testing.assert_close(found.draft.logits_BPV[number, :pooled], alone.draft.logits_BPV[0], **close)
            torch.testing.assert_close(text_logits(found, number), alone.logits_NV, **close)


@settings(max_examples=15)
@given(shapes, st.lists(st.integers(1, 40), min_size=2, max_size=4), st.integers(1, 25))
def test_padding_changes_nothing_in_training(fields: dict[str, Any], frames: list[int], extra: int) -> None:
    """Outputs, gradients and the running statistics of BatchNorm, which leave padding out."""
    features_BTF, lengths_B = batch(frames, extra, loudness=100.0)
    tokens = hypotheses([3] * len(frames))
    models = [tiny.editor(**fields).train() for _ in range(2)]
    longest = max(frames)
    found = []
    for model, width in zip(models, (longest, longest + extra), strict=True):
        edited = model(features_BTF[:, :width], lengths_B, lambda draft: tokens)
        draft = unflattened_rows(edited)
        sum(row.square().mean() for row in (edited.logits_NV, *draft)).backward()
        found.append(torch.cat([edited.logits_NV, *draft]))
    torch.testing.assert_close(*found, atol=1e-4, rtol=1e-4)
    for (name, one), other in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None), name
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, atol=2e-3, rtol=2e-3, msg=name)
    for (name, one), other in zip(models[0].named_buffers(), models[1].buffers(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5, msg=name)


def unflattened_rows(edited: Edited) -> list[Tensor]:
    """Valid logits of the draft of each utterance."""
    lengths = edited.draft.pooled_lengths_B.tolist()
    return [row[:length] for row, length in zip(edited.draft.logits_BPV, lengths, strict=True)]


@BLOCKS
def test_without_given_tokens_the_draft_is_edited(block: str) -> None:
    model = tiny.editor(encoder_block=block)
    features_BTF, lengths_B = batch([50, 31, 3])
    with torch.no_grad():
        draft = model.encode(features_BTF, lengths_B)
        tokens = model.tokens(draft)
        one, other = model(features_BTF, lengths_B), model(features_BTF, lengths_B, lambda _: tokens)
    assert max(tokens.lengths_B) > 0
    assert one.positions.lists() == other.positions.lists() == model.positions(tokens).lists()
    assert torch.equal(one.logits_NV, other.logits_NV)
    seen: list[TokenRows] = []
    with torch.no_grad():
        model(features_BTF, lengths_B, lambda drafted: (seen.append(drafted), tokens)[1])
    assert seen[0].lists() == tokens.lists()


def test_training_needs_one_pass_of_each_part() -> None:
    """`tests/decoding/test_edit.py` counts those of editing steps."""
    model, counted = tiny.editor().train(), Counter[str]()
    parts = {"mid_head": model.mid_head, "projector": model.projector, "editor": model.editor.layers[-1]}
    for name, module in {"encoder": model.encoder.layers[0], **parts}.items():
        module.register_forward_hook(lambda *_, name=name: counted.update([name]))
    model(*batch([50, 31]))
    assert counted == {"encoder": 1, "mid_head": 1, "projector": 1, "editor": 1}


def test_a_step_is_the_best_token_of_each_position_collapsed() -> None:
    model = tiny.editor()
    features_BTF, lengths_B = batch([50, 31, 3])
    with torch.no_grad():
        edited = model(features_BTF, lengths_B)
        audio = model.projector(edited.draft.states, edited.draft.lengths_B)
        found = model.step(*audio, model.tokens(edited.draft)).lists()
    for number, tokens in enumerate(found):
        best = text_logits(edited, number).index_fill(-1, torch.tensor(model.suppressed), -torch.inf).argmax(-1)
        expected = [token for token in best.unique_consecutive().tolist() if token != BLANK]
        assert tokens == expected and not set(tokens) & set(SPECIAL_IDS)


def test_a_bias_towards_special_tokens_does_not_write_any() -> None:
    """Neither in a draft nor in an edit; the slot, which is the blank, stays possible."""
    model = tiny.editor(editor={"tied_embeddings": False})
    model.ctc_head.bias.data[list(SPECIAL_IDS)] = 100.0
    model.ctc_head.bias.data[BLANK] = 0.0
    logits = torch.zeros(tiny.VOCABULARY)
    logits[list(SPECIAL_IDS)] = 100.0
    assert model.best(logits).item() == BLANK
    draft = model.encode(*batch([50, 31]))
    assert not {token for row in model.tokens(draft).lists() for token in row} & set(SPECIAL_IDS)


def test_rows_of_what_was_computed_at_text_positions() -> None:
    positions = TokenRows(torch.zeros(2, 3).long(), torch.tensor([1, 3]))
    x_N2 = torch.arange(8.0).view(4, 2).requires_grad_()
    found = unflattened(x_N2, positions)
    assert found.tolist() == [[[0, 1], [0, 0], [0, 0]], [[2, 3], [4, 5], [6, 7]]]
    assert unflattened(x_N2[:, 0], positions).tolist() == [[0, 0, 0], [2, 4, 6]]
    (gradient,) = torch.autograd.grad(found.sum(), x_N2)
    assert torch.equal(gradient, torch.ones(4, 2))


@settings(max_examples=15)
@given(shapes, st.booleans(), st.sampled_from([0.0, 0.1]))
def test_every_parameter_has_a_finite_gradient(fields: dict[str, Any], active_one: bool, layer_drop: float) -> None:
    """Every parameter of an active layer has a finite gradient.

    It is zero only where a layer is dropped for every utterance of the batch.
    """
    assume(fields["context_size"] != 1)  # a state that sees itself alone learns no attention
    model = tiny.editor(**fields, dropout=0.1, layer_drop=layer_drop).train()
    if active_one:
        model.encoder.active_layers = model.editor.active_layers = 1
    edited = model(*batch([40, 13, 22]), lambda draft: hypotheses([8, 2, 5]))
    draft = edited.draft
    (
        edited.logits_NV.square().mean() + draft.logits_BPV.square().mean() + draft.mid_logits_BSC.square().mean()
    ).backward()
    inactive = ("encoder.layers.1.", "editor.layers.1.") if active_one else ()
    for name, parameter in model.named_parameters():
        if name.startswith(inactive or "-"):
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
            assert layer_drop or parameter.grad.any(), name


def test_initial_values() -> None:
    """Embeddings have variance 1/D, tied or not; linear layers Glorot's matrices and biases of 0."""
    for tied in (False, True):
        torch.manual_seed(0)
        shape = tiny.editor_shape(editor={"d_model": 64, "tied_embeddings": tied})
        model = TranscriptEditor(shape, 500, tiny.CHARACTERS, tiny.BINS)
        assert model.editor.embedding.weight.std().item() == pytest.approx(64**-0.5, rel=0.05)
        assert 0.9 < model.ctc_head.weight.abs().max() * ((32 + 500) / 6) ** 0.5 <= 1
        linear = [module for module in model.modules() if isinstance(module, nn.Linear) and module.bias is not None]
        assert linear and not any(module.bias.any() for module in linear)


def test_a_copy_gives_the_same_results() -> None:
    model = tiny.editor(encoder_block="conformer")
    other = copy.deepcopy(model)
    inputs = batch([50, 31, 3])
    assert torch.equal(model(*inputs).logits_NV, other(*inputs).logits_NV)
