"""The editing pass: bidirectional, without padding between items, and the language model's network otherwise."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from trainables.models.editing.editor import Editor, Layout, within_items
from trainables.models.editing.slots import TokenRows
from trainables.models.speech_transformer import LanguageModel

WIDTH = 24
POSITIONS = ["none", "sinusoidal", "rotary"]
items = st.lists(st.tuples(st.integers(0, 7), st.integers(1, 9)), min_size=1, max_size=4)


def editor(**keys: Any) -> Editor:
    torch.manual_seed(0)
    return tiny.randomized(Editor(tiny.editor_shape(editor=keys), tiny.VOCABULARY))


def text(*counts: int) -> TokenRows:
    """Random text positions."""
    return TokenRows.of([torch.randint(tiny.VOCABULARY, (count,)).tolist() for count in counts], torch.device("cpu"))


def edited(model: Editor, audio_BAD: Tensor, audio_lengths_B: Tensor, positions: TokenRows) -> Tensor:
    with torch.no_grad():
        return model(*model.join(audio_BAD, audio_lengths_B, positions))


@settings(max_examples=60)
@given(items, st.sampled_from(POSITIONS), st.sampled_from(["rms", "layer"]), st.integers(0, 3))
def test_a_flat_batch_has_the_logits_of_its_items(
    sizes: list[tuple[int, int]], positions: str, norm: str, extra: int
) -> None:
    """Whatever lies behind the audio positions of an item in its row."""
    model = editor(positions=positions, norm=norm)
    audio_B, text_B = torch.tensor(sizes).T
    rows = text(*text_B.tolist())
    audio_BAD = torch.randn(len(sizes), int(audio_B.max()) + extra, WIDTH)
    found = edited(model, audio_BAD, audio_B, rows).split(text_B.tolist())
    for number, (audio, count) in enumerate(sizes):
        row = TokenRows(rows.ids_BU[number : number + 1, :count], torch.tensor([count]))
        alone = edited(model, audio_BAD[number : number + 1, :audio], torch.tensor([audio]), row)
        torch.testing.assert_close(found[number], alone, atol=1e-5, rtol=1e-5)


def test_the_layout_of_a_flat_batch() -> None:
    audio_BAD = torch.arange(6.0).view(2, 3, 1).expand(2, 3, WIDTH)
    x_1ND, layout = editor().join(
        audio_BAD, torch.tensor([2, 0]), TokenRows(torch.zeros(2, 2).long(), torch.tensor([1, 2]))
    )
    assert x_1ND.shape == (1, 5, WIDTH) and x_1ND[0, :2, 0].tolist() == [0, 1]
    assert layout.item_N.tolist() == [0, 0, 0, 1, 1]
    assert layout.position_N.tolist() == [0, 1, 2, 0, 1]
    assert layout.text_N.tolist() == [False, False, True, True, True]
    assert layout.lengths_B.tolist() == [3, 2]


@pytest.mark.parametrize("positions", POSITIONS)
def test_every_position_sees_every_other_of_its_item(positions: str) -> None:
    """The last token influences the first position, and nothing influences another item."""
    model = editor(positions=positions, layers=1)
    audio_BAD = torch.randn(2, 4, WIDTH, requires_grad=True)
    x_1ND, layout = model.join(audio_BAD, torch.tensor([4, 3]), text(5, 6))
    x_1ND = x_1ND.detach().requires_grad_()
    logits_NV = model(x_1ND, layout)
    item_N = layout.item_N[layout.text_N]
    for place, item in enumerate(item_N.tolist()):
        (gradient,) = torch.autograd.grad(logits_NV[place].square().sum(), x_1ND, retain_graph=True)
        assert torch.equal(gradient[0].any(-1), layout.item_N == item)


def test_positions_tell_the_order_of_text() -> None:
    rows = text(6)
    swapped = TokenRows(rows.ids_BU[:, [1, 0, 2, 3, 4, 5]], rows.lengths_B)
    audio_BAD, audio_B = torch.randn(1, 3, WIDTH), torch.tensor([3])
    for positions in POSITIONS:
        model = editor(positions=positions)
        one, other = (edited(model, audio_BAD, audio_B, x)[3:] for x in (rows, swapped))
        assert torch.allclose(one, other, atol=1e-5) == (positions == "none")


@pytest.mark.parametrize(
    "fields", [{}, {"kv_heads": 1, "residual_multiplier": 0.3}, {"norm": "layer", "qk_norm": "rms"}]
)
@pytest.mark.parametrize("positions", POSITIONS)
def test_with_a_causal_mask_it_is_the_language_model_of_its_shape(positions: str, fields: dict[str, Any]) -> None:
    """So a language model's weights are the editor's, by name and meaning."""
    fields = {**fields, "positions": positions, "embedding_multiplier": 3.0, "logits_scaling": 2.0}
    config = tiny.editor_shape(editor=fields)
    model = editor(**fields)
    language = LanguageModel(config.editor.language_model(), tiny.VOCABULARY).eval()
    assert {name: value.shape for name, value in language.state_dict().items()} == {
        name: value.shape for name, value in model.state_dict().items()
    }
    language.load_state_dict(model.state_dict())
    rows = text(7)
    x_1ND, layout = model.join(torch.zeros(1, 0, WIDTH), torch.tensor([0]), rows)
    causal = lambda *qkv: nn.functional.scaled_dot_product_attention(*qkv, is_causal=True)  # noqa: E731
    found = model.logits(model.run(x_1ND, layout.position_N, causal))
    torch.testing.assert_close(found, language(rows.ids_BU), atol=1e-5, rtol=1e-5)


def test_multipliers_act_where_their_formulas_say() -> None:
    """Logits are divided last; the embedding's multiplier also multiplies the audio positions."""
    rows, audio_BAD, audio_B = text(5), torch.randn(1, 4, WIDTH), torch.tensor([4])
    plain, scaled = editor(scale_embeddings=False), editor(scale_embeddings=False, logits_scaling=8.0)
    torch.testing.assert_close(edited(plain, audio_BAD, audio_B, rows), 8 * edited(scaled, audio_BAD, audio_B, rows))
    multiplied = editor(scale_embeddings=False, embedding_multiplier=5.0, tied_embeddings=False)
    other = editor(scale_embeddings=False, tied_embeddings=False)
    other.load_state_dict(multiplied.state_dict())
    other.embedding.weight.data *= 5
    torch.testing.assert_close(
        edited(multiplied, audio_BAD, audio_B, rows), edited(other, 5 * audio_BAD, audio_B, rows)
    )


def test_only_the_text_is_scaled_by_the_root_of_the_width() -> None:
    """As a language model's embeddings are; audio positions have the projector's scale."""
    rows, audio_BAD, audio_B = text(5), torch.randn(1, 4, WIDTH), torch.tensor([4])
    scaled, plain = (editor(scale_embeddings=scale).join(audio_BAD, audio_B, rows)[0][0] for scale in (True, False))
    assert torch.equal(scaled[:4], plain[:4])
    torch.testing.assert_close(scaled[4:], plain[4:] * WIDTH**0.5)


def test_a_tied_output_projection_is_the_embedding() -> None:
    assert (tied := editor()).output.weight is tied.embedding.weight
    assert (untied := editor(tied_embeddings=False)).output.weight is not untied.embedding.weight


@settings(max_examples=30)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_items_in_padded_rows_attend_as_under_a_block_mask(lengths: list[int]) -> None:
    item_N = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    position_N = torch.cat([torch.arange(length) for length in lengths])
    layout = Layout(item_N, position_N, torch.ones(len(item_N)).bool(), torch.tensor(lengths))
    query, key, value = torch.randn(3, 1, 2, len(item_N), 8)
    expected = nn.functional.scaled_dot_product_attention(query, key, value, item_N[:, None] == item_N)
    for kernel in ("sdpa", "flex"):  # flex: a GPU's choice
        torch.testing.assert_close(within_items(kernel, layout)(query, key, value), expected, atol=1e-6, rtol=1e-5)


def test_each_item_of_a_flat_batch_skips_a_layer_by_itself() -> None:
    model = tiny.editor(editor={"layer_drop": 0.5, "layers": 1}).train().editor
    item_N = torch.arange(200).repeat_interleave(3)
    factors_1N1 = model.layers[0].residual.draw(torch.zeros(1, 600, 8), item_N)
    of_items_N3 = factors_1N1.view(200, 3)
    assert (of_items_N3 == of_items_N3[:, :1]).all() and 60 < of_items_N3[:, 0].sum() < 140
