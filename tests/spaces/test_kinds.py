"""Spaces in which editors and encoder-decoders compete, and keys that only one of them has."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from proposals import NUM_FEATS, Drawn, feasible
from reading import mistakes

from search_spaces.budget import FILLED, check_budget
from search_spaces.kinds import KIND, NOT_OF_EDITORS, OF_EDITORS
from search_spaces.reader import parse_space
from search_spaces.space import DEFAULTS, Space
from trainables.config.model import RECOGNISERS
from trainables.config.tree import Tokenizer
from trainables.data.text.tokenizer import Vocabulary
from trainables.errors import InputError

SPACE = """
base:
  model:
    decoder_layers: 3
    editor: {d_model: 96, heads: 6}
    projector: {window: 8, reduction_factor: 4}
  decoding: {editing_steps: 2}
vary:
  model.editor.d_model: {choice: [48, 96], when: {model.kind: transcript_editor}}
  model.editor.gated: {choice: [false, true], when: {model.kind: transcript_editor}}
  model.editor.qk_norm: {choice: [rms, none], when: {model.editor.gated: true}}
  model.decoder_layers: {int: [1, 3], when: {model.kind: encoder_decoder}}
  model.kind: {choice: [encoder_decoder, transcript_editor]}
  model.feed_forward: fit
start: [{}, {model.kind: transcript_editor}]
budget: 8000000
"""
EDITOR, DECODER = {KIND: "transcript_editor"}, {KIND: "encoder_decoder"}


def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    return Vocabulary(tokenizer.vocab_size or 33, 28)


def kinds_space() -> Space:
    return parse_space(SPACE, "my.yaml")


def test_each_kind_has_its_own_keys_and_fills_the_budget() -> None:
    space = kinds_space()
    assert space.kinds == RECOGNISERS and space.is_recogniser
    seen = set()
    for seed in range(40):
        values = space.propose(Drawn(seed))
        found = feasible(space, values, vocabulary_of)
        assert found is not None
        edits = values[KIND] == "transcript_editor"
        assert ("model.editor.d_model" in values) == edits == ("model.decoder_layers" not in values)
        assert ("model.editor.qk_norm" in values) == values.get("model.editor.gated", False)
        assert FILLED * 8_000_000 <= found.parameters <= 8_000_000
        assert found.config.model.kind == values[KIND]
        seen.add(values[KIND])
    assert seen == set(RECOGNISERS)
    assert check_budget(space, vocabulary_of, NUM_FEATS) == []


def test_the_base_is_tried_as_both_kinds() -> None:
    first, second = kinds_space().start
    assert first == {**DECODER, "model.decoder_layers": 3}
    assert second == {
        **EDITOR,
        "model.editor.d_model": 96,
        "model.editor.gated": True,
        "model.editor.qk_norm": "none",
    }


@given(st.integers(0, 2**32))
def test_sections_of_the_other_kind_stay_as_in_the_base(seed: int) -> None:
    """So they stay valid: with its default width, this editor would not go with its six heads."""
    space = kinds_space()
    values = space.propose(Drawn(seed))
    config = space.config(values)
    if values[KIND] == "encoder_decoder":
        assert config.model.editor == space.config({}).model.editor
        assert space.value("model.editor.d_model", {**values, "model.editor.d_model": 48}) == 96
        assert space.config({**values, "model.editor.d_model": 48}) == config
    else:
        assert config.model.decoder_layers == 3
        assert config.model.editor.qk_norm == values.get("model.editor.qk_norm", "none")


def test_a_base_may_have_sections_of_another_kind() -> None:
    space = parse_space("base: {model: {kind: transcript_editor, decoder_layers: 5, editor: {layers: 3}}}", "my.yaml")
    assert space.config({}).model.decoder_layers == 5 and space.kinds == ("transcript_editor",)


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        (
            "vary: {model.editor.layers: {int: [1, 2]}}",
            "vary.model.editor.layers",
            "has no meaning with model.kind=encoder_decoder: leave it out, or set another model.kind in base",
        ),
        (
            "{base: {model: {kind: transcript_editor}}, vary: {model.decoder_layers: {int: [1, 2]}}}",
            "vary.model.decoder_layers",
            "has no meaning with model.kind=transcript_editor: leave it out",
        ),
        (
            f"vary: {{model.kind: {{choice: [{', '.join(RECOGNISERS)}]}}, loss.copy_weight: {{float: [0, 1]}}}}",
            "vary.loss.copy_weight",
            "has no meaning with model.kind=encoder_decoder: give it when: {model.kind: transcript_editor}",
        ),
        (
            f"vary: {{model.kind: {{choice: [{', '.join(RECOGNISERS)}]}}, model.editor.feed_forward: fit}}",
            "vary.model.editor.feed_forward",
            "fit a width that both kinds have, such as model.feed_forward",
        ),
        (
            "{base: {model: {kind: transcript_editor}}, vary: {decoding.repeat_penalty: {float: [1, 2]}}}",
            "vary.decoding.repeat_penalty",
            "has no meaning with model.kind=transcript_editor: leave it out",
        ),
        (
            "vary: {model.kind: {choice: [encoder_decoder, language_model]}}",
            "vary.model.kind",
            "language models are ranked by perplexity and recognisers by CER, so they cannot share a sweep",
        ),
        (
            "{base: {model: {kind: language_model}}, vary: {model.kind: {choice: [encoder_decoder]}}}",
            "vary.model.kind",
            "encoder_decoder and transcript_editor can vary; set language_model in base",
        ),
    ],
)
def test_keys_that_do_not_go_with_a_kind(text: str, place: str, reason: str) -> None:
    (found,) = mistakes(text)
    assert f"{place}: " in found and reason in found


BOTH = f"model.kind: {{choice: [{', '.join(RECOGNISERS)}]}}"


@pytest.mark.parametrize(
    ("base", "place", "remedy"),
    [
        (
            "decoding: {method: joint}",
            "base.decoding.method",
            '{choice: ["joint"], when: {model.kind: encoder_decoder}}',
        ),
        ("decoding: {method: beam}", "base.decoding.method", '{choice: ["beam"], when: {model.kind: encoder_decoder}}'),
        (
            "decoding: {language_model: lm, lm_weight: 0.3}",
            "base.decoding.lm_weight",
            "decoding.lm_weight: {choice: [0.3], when: {model.kind: encoder_decoder}}",
        ),
        (
            "training: {stages: [{label_smoothing: 0}]}",
            "base.training.stages",
            'training.stages: {choice: [[{"label_smoothing": 0}]], when: {model.kind: encoder_decoder}}',
        ),
        ("decoding: {method: ctc, editing_steps: 2}", "base.decoding.editing_steps", "use greedy"),
    ],
)
def test_a_base_that_only_encoder_decoders_can_have(base: str, place: str, remedy: str) -> None:
    """Reading the space refuses the value; with the condition that the message names, it is accepted."""
    (found,) = mistakes(f"base: {{{base}}}\nvary:\n  {BOTH}\nstart: [{{model.kind: transcript_editor}}]")
    assert f"{place}: " in found and remedy in found
    if ", in vary instead of base: " in found:
        line = found.partition(", in vary instead of base: ")[2]
        rest = "decoding: {language_model: lm}" if "lm_weight" in line else ""
        space = parse_space(f"base: {{{rest}}}\nvary:\n  {BOTH}\n  {line}", "my.yaml")
        for kind in RECOGNISERS:
            key = place.removeprefix("base.")
            proposed = space.of_kind(kind).propose(Drawn(0))
            assert (key in proposed) == (kind == "encoder_decoder") and space.config(proposed).model.kind == kind


def test_a_method_of_encoder_decoders_among_others_is_no_mistake() -> None:
    joint = "{{choice: [{}, joint]}}"
    parse_space(f"vary:\n  {BOTH}\n  decoding.method: {joint.format('greedy')}", "my.yaml")
    (found,) = mistakes(f"vary:\n  {BOTH}\n  decoding.method: {joint.format('beam')}")
    assert "vary.decoding.method: decoding.method=beam has no meaning" in found
    assert "or give it when: {model.kind: encoder_decoder}" in found


def test_every_kind_must_have_a_model_within_the_budget() -> None:
    """And each is checked by itself: one that is never possible would never be tried, without a word."""
    wide = SPACE.replace("[48, 96]", "[960]").replace("[{}, {model.kind: transcript_editor}]", "[{}]")
    with pytest.raises(InputError, match=r"the smallest model .* has [\d,]+ \(.*model.kind=transcript_editor"):
        check_budget(parse_space(wide, "my.yaml"), vocabulary_of, NUM_FEATS)


def test_the_keys_of_one_kind_exist() -> None:
    for section in (*OF_EDITORS, *NOT_OF_EDITORS):
        assert any(f"{key}.".startswith(f"{section}.") for key in DEFAULTS), section
