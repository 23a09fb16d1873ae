"""What is over the budget is no trial, and an impossible budget is known before any trial."""

from __future__ import annotations

import re
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from proposals import feasible

from search_spaces.budget import check_budget, extreme, remembered
from search_spaces.counting import count_parameters
from search_spaces.reader import parse_space
from search_spaces.space import Proposal
from trainables.config.tree import Config, Model, Tokenizer
from trainables.data.text.tokenizer import Vocabulary
from trainables.errors import InputError

CHARACTERS = Vocabulary(33, 28)


def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    """A text with 28 characters that gives up to 2,000 subwords."""
    if (tokenizer.vocab_size or 0) > 2000:
        raise InputError(f"vocab_size={tokenizer.vocab_size}: the largest possible is 2000", "Set 2000 or less.")
    return Vocabulary(tokenizer.vocab_size or 33, 28)


def test_feasible_proposals() -> None:
    space = parse_space(
        """
vary:
  model.d_model: {choice: [256, 250, 1024]}
  tokenizer.kind: {choice: [char, bpe]}
  tokenizer.vocab_size: {choice: [1000, 5000], when: {tokenizer.kind: bpe}}
budget: 6000000
""",
        "my.yaml",
    )
    found = feasible(space, {"model.d_model": 256, "tokenizer.kind": "char"}, vocabulary_of)
    assert found == Proposal(space.config({"model.d_model": 256}), count_parameters(Config(), CHARACTERS, 80))
    values = {"model.d_model": 256, "tokenizer.kind": "bpe"}
    assert feasible(space, {**values, "tokenizer.vocab_size": 1000}, vocabulary_of)
    assert feasible(space, {**values, "tokenizer.vocab_size": 5000}, vocabulary_of) is None  # text too short
    assert feasible(space, {"model.d_model": 250, "tokenizer.kind": "char"}, vocabulary_of) is None  # heads
    assert feasible(space, {"model.d_model": 1024, "tokenizer.kind": "char"}, vocabulary_of) is None  # budget


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
    expected = count_parameters(Config(model=Model(encoder_layers=3, d_model=64)), CHARACTERS, 80)
    assert check_budget(parse_space(text.format(expected), "my.yaml"), vocabulary_of, 80) == []
    with pytest.raises(InputError) as error:
        check_budget(parse_space(text.format(expected - 1), "my.yaml"), vocabulary_of, 80)
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
    space = parse_space("budget: 1000", "my.yaml")
    assert extreme(space, vocabulary_of, 80) == ({}, count_parameters(Config(), CHARACTERS, 80))
    with pytest.raises(InputError, match="nothing varies"):
        check_budget(space, vocabulary_of, 80)


def test_values_that_never_go_together() -> None:
    space = parse_space("vary: {model.d_model: {choice: [66, 70]}, model.heads: {choice: [4, 8]}}", "my.yaml")
    with pytest.raises(InputError, match="heads must divide d_model"):
        check_budget(space, vocabulary_of, 80)


def test_vocabularies_that_the_text_cannot_give() -> None:
    text = """
base: {{tokenizer: {{kind: bpe, vocab_size: 6000}}}}
vary:
  tokenizer.kind: {{choice: {}}}
  tokenizer.vocab_size: {{choice: [5000, {}], when: {{tokenizer.kind: [bpe]}}}}
"""
    some = parse_space(text.format("[char, bpe]", 1000), "my.yaml")
    assert check_budget(some, vocabulary_of, 80) == ["vocab_size=5000: the largest possible is 2000"]
    none = parse_space(text.format("[bpe]", 6000), "my.yaml")
    with pytest.raises(InputError, match="the largest possible is 2000"):
        check_budget(none, vocabulary_of, 80)


def test_sizes_and_refusals_are_remembered() -> None:
    asked: list[int | None] = []

    def sizes(tokenizer: Tokenizer) -> Vocabulary:
        asked.append(tokenizer.vocab_size)
        return vocabulary_of(tokenizer)

    remembering = remembered(sizes)
    for _ in range(3):
        assert remembering(Tokenizer(kind="bpe", vocab_size=1000)) == (1000, 28)
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
    space = parse_space(
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
        feasible(space, dict(zip(space.vary, values, strict=True)), vocabulary_of) for values in product(*candidates)
    ]
    counts = [proposal.parameters for proposal in found if proposal]
    if counts:
        values, count = extreme(space, vocabulary_of, 80)
        assert count == min(counts)
        assert feasible(space, values, vocabulary_of) == Proposal(space.config(values), count)
    else:
        with pytest.raises(InputError):
            extreme(space, vocabulary_of, 80)
