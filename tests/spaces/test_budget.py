"""Parameter counts are exact, and an impossible budget is known before any trial."""

from __future__ import annotations

import re
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces.budget import check_budget, count_parameters, feasible, remembered, smallest
from search_spaces.space import Space
from trainables.config import Config, Model, Tokenizer
from trainables.errors import InputError
from trainables.models.speech_transformer import SpeechTransformer


def vocab_size_of(tokenizer: Tokenizer) -> int:
    """A text with 28 characters that gives up to 2,000 subwords."""
    if (tokenizer.vocab_size or 0) > 2000:
        raise InputError(f"vocab_size={tokenizer.vocab_size}: the largest possible is 2000", "Set 2000 or less.")
    return tokenizer.vocab_size or 33


@settings(max_examples=20, deadline=None)
@given(
    model=st.builds(
        Model,
        d_model=st.sampled_from([16, 32]),
        heads=st.sampled_from([1, 2, 4]),
        encoder_layers=st.integers(1, 3),
        decoder_layers=st.integers(1, 3),
        feed_forward=st.integers(8, 64),
        conv_channels=st.integers(8, 32),
        reduction_factor=st.sampled_from([2, 3, 4, 6, 8]),
        tied_embeddings=st.booleans(),
    ),
    vocab_size=st.integers(8, 100),
    num_feats=st.integers(1, 80),
)
def test_the_count_is_that_of_the_model_itself(model: Model, vocab_size: int, num_feats: int) -> None:
    allocated = SpeechTransformer(model, vocab_size, num_feats)
    expected = sum(tensor.numel() for tensor in allocated.parameters())
    assert count_parameters(Config(model=model), vocab_size, num_feats) == expected


def test_sharing_the_embedding_saves_one_matrix() -> None:
    shared, separate = (Config(model=Model(tied_embeddings=tied)) for tied in (True, False))
    assert count_parameters(separate, 1000, 80) - count_parameters(shared, 1000, 80) == 1000 * 256


def test_fewer_bins_make_a_smaller_model() -> None:
    fewer = Config.model_validate({"features": {"num_feats": 40}})
    assert count_parameters(fewer, 100, 80) == count_parameters(Config(), 100, 40)
    assert count_parameters(fewer, 100, 20) == count_parameters(Config(), 100, 20)


def test_no_weight_is_allocated() -> None:
    model = Model(d_model=32768, heads=4, feed_forward=131072, encoder_layers=50)
    assert count_parameters(Config(model=model), 1000, 80) > 10**11


def test_feasible_proposals() -> None:
    space = Space.parse(
        """
vary:
  model.d_model: {choice: [256, 250, 1024]}
  tokenizer.kind: {choice: [char, bpe]}
  tokenizer.vocab_size: {choice: [1000, 5000], when: {tokenizer.kind: bpe}}
budget: 6000000
""",
        "my.yaml",
    )
    found = feasible(space, {"model.d_model": 256, "tokenizer.kind": "char"}, vocab_size_of, 80)
    assert found == (space.config({"model.d_model": 256}), count_parameters(Config(), 33, 80))
    values = {"model.d_model": 256, "tokenizer.kind": "bpe"}
    assert feasible(space, {**values, "tokenizer.vocab_size": 1000}, vocab_size_of, 80)
    assert feasible(space, {**values, "tokenizer.vocab_size": 5000}, vocab_size_of, 80) is None  # text too short
    assert feasible(space, {"model.d_model": 250, "tokenizer.kind": "char"}, vocab_size_of, 80) is None  # heads
    assert feasible(space, {"model.d_model": 1024, "tokenizer.kind": "char"}, vocab_size_of, 80) is None  # budget


def test_an_impossible_budget_names_the_smallest_model() -> None:
    text = """
vary:
  model.encoder_layers: {{int: [3, 6]}}
  model.d_model: {{choice: [128, 64, 96]}}
  tokenizer.kind: {{choice: [bpe, char]}}
  tokenizer.vocab_size: {{choice: [1000, 2000], when: {{tokenizer.kind: bpe}}}}
  model.dropout: {{float: [0.1, 0.2]}}
budget: {}
"""
    expected = count_parameters(Config(model=Model(encoder_layers=3, d_model=64)), 33, 80)
    assert check_budget(Space.parse(text.format(expected), "my.yaml"), vocab_size_of, 80) == []
    with pytest.raises(InputError) as error:
        check_budget(Space.parse(text.format(expected - 1), "my.yaml"), vocab_size_of, 80)
    for part in [
        f"my.yaml: budget: {expected - 1:,}",
        f"has {expected:,}",
        "model.encoder_layers=3",
        "model.d_model=64",
        "tokenizer.kind=char",
    ]:
        assert part in error.value.problem
    assert "vocab_size" not in error.value.problem
    assert f"budget to {expected}" in error.value.remedy


def test_a_space_in_which_nothing_varies_has_one_model() -> None:
    space = Space.parse("budget: 1000", "my.yaml")
    assert smallest(space, vocab_size_of, 80) == ({}, count_parameters(Config(), 33, 80))
    with pytest.raises(InputError, match="nothing varies"):
        check_budget(space, vocab_size_of, 80)


def test_values_that_never_go_together() -> None:
    space = Space.parse("vary: {model.d_model: {choice: [66, 70]}, model.heads: {choice: [4, 8]}}", "my.yaml")
    with pytest.raises(InputError, match="heads must divide d_model"):
        check_budget(space, vocab_size_of, 80)


def test_vocabularies_that_the_text_cannot_give() -> None:
    text = """
base: {{tokenizer: {{kind: bpe, vocab_size: 6000}}}}
vary:
  tokenizer.kind: {{choice: {}}}
  tokenizer.vocab_size: {{choice: [5000, {}], when: {{tokenizer.kind: [bpe]}}}}
"""
    some = Space.parse(text.format("[char, bpe]", 1000), "my.yaml")
    assert check_budget(some, vocab_size_of, 80) == ["vocab_size=5000: the largest possible is 2000"]
    none = Space.parse(text.format("[bpe]", 6000), "my.yaml")
    with pytest.raises(InputError, match="the largest possible is 2000"):
        check_budget(none, vocab_size_of, 80)


def test_sizes_and_refusals_are_remembered() -> None:
    asked: list[int | None] = []

    def sizes(tokenizer: Tokenizer) -> int:
        asked.append(tokenizer.vocab_size)
        return vocab_size_of(tokenizer)

    remembering = remembered(sizes)
    for _ in range(3):
        assert remembering(Tokenizer(kind="bpe", vocab_size=1000)) == 1000
        with pytest.raises(InputError, match=re.escape("vocab_size=5000")):
            remembering(Tokenizer(kind="bpe", vocab_size=5000))
    assert asked == [1000, 5000]


def some(values: list[int]) -> st.SearchStrategy[list[int]]:
    return st.lists(st.sampled_from(values), min_size=1, max_size=3, unique=True)


@settings(max_examples=15, deadline=None)
@given(
    widths=some([32, 48, 54, 66]),
    heads=some([2, 3, 4]),
    feed_forward=some([8, 64, 32]),
    layers=some([1, 2, 3]),
    vocab_sizes=some([100, 50, 5000]),
)
def test_the_smallest_model_is_that_of_all_combinations(
    widths: list[int], heads: list[int], feed_forward: list[int], layers: list[int], vocab_sizes: list[int]
) -> None:
    space = Space.parse(
        f"""
vary:
  model.d_model: {{choice: {widths}}}
  model.heads: {{choice: {heads}}}
  model.feed_forward: {{choice: {feed_forward}}}
  model.encoder_layers: {{int: [{min(layers)}, {max(layers)}], when: {{tokenizer.kind: bpe}}}}
  tokenizer.kind: {{choice: [bpe, char]}}
  tokenizer.vocab_size: {{choice: {vocab_sizes}, when: {{tokenizer.kind: bpe}}}}
""",
        "my.yaml",
    )
    candidates = [variable.distribution.candidates() for variable in space.vary.values()]
    found = [
        feasible(space, dict(zip(space.vary, values, strict=True)), vocab_size_of, 80)
        for values in product(*candidates)
    ]
    counts = [count for result in found if result for count in [result[1]]]
    if counts:
        values, count = smallest(space, vocab_size_of, 80)
        assert count == min(counts)
        assert feasible(space, values, vocab_size_of, 80) == (space.config(values), count)
    else:
        with pytest.raises(InputError):
            smallest(space, vocab_size_of, 80)
