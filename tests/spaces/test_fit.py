"""A width that is solved for fills the budget, and suits heads and hardware."""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import Any

import pytest
import yaml
from hypothesis import event, given, settings
from hypothesis import strategies as st
from proposals import NUM_FEATS, Drawn, feasible

from search_spaces.budget import FILLED, check_budget, complete, extreme
from search_spaces.counting import count_parameters
from search_spaces.distributions import Fit
from search_spaces.reader import parse_space
from search_spaces.space import Proposal, Space
from search_spaces.vary import FITTED
from trainables.config.tree import Config, Tokenizer
from trainables.data.text.tokenizer import Vocabulary
from trainables.errors import InputError


def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    return Vocabulary(tokenizer.vocab_size or 33, 28)


@st.composite
def spaces(draw: st.DrawFn) -> Space:
    """Spaces of every kind of model that fit a width, with or without bounds and a step."""
    key = draw(st.sampled_from(FITTED))
    section = key.rpartition(".")[0]
    editors = section == "model.editor"
    kinds = ["transcript_editor"] if editors else ["encoder_decoder", "transcript_editor", "language_model"]
    entry: Any = "fit"
    if draw(st.booleans()):
        entry = {"fit": sorted([draw(st.integers(16, 400)), draw(st.integers(16, 4000))])}
        if draw(st.booleans()):
            entry["step"] = draw(st.sampled_from([1, 5, 16, 100]))
    vary: dict[str, Any] = {
        "model.encoder_layers": {"int": [1, 18]},
        "model.gated": {"choice": [False, True]},
        "model.norm": {"choice": ["layer", "rms"]},
        "model.encoder_positions": {"choice": ["sinusoidal", "rotary", "relative"]},
        "model.reduction": {"choice": ["conv", "lstm", "stack"]},
        "tokenizer.kind": {"choice": ["char", "bpe"]},
        "tokenizer.vocab_size": {"choice": [100, 5000], "when": {"tokenizer.kind": "bpe"}},
        key: entry,
    }
    base: dict[str, Any] = {
        "kind": draw(st.sampled_from(kinds)),
        "tied_embeddings": draw(st.booleans()),
        "projector": {"heads": draw(st.sampled_from([None, 4, 6])), "d_model": draw(st.sampled_from([None, 48]))},
        "editor": {"d_model": 24 * 8},
    }
    own = base["editor"] if editors else base
    if base["kind"] == "transcript_editor":
        vary["model.editor.layers"] = {"int": [1, 6]}
    else:
        vary["model.decoder_layers"] = {"int": [1, 6]}
    if key.endswith("d_model"):
        vary[f"{section}.heads"] = {"choice": [1, 2, 3, 4, 8]}
        vary[f"{section}.feed_forward"] = {"int": [8, 2048]}
        own["ff_expansion"] = draw(st.sampled_from([None, 2.7]))
        own["d_model"] = 24 * 8
    else:
        vary[f"{section}.d_model"] = {"choice": [48, 192, 336] if editors else [64, 200, 320]}
    tree = {"base": {"model": base}, "vary": vary, "budget": draw(st.integers(100_000, 100_000_000))}
    return parse_space(yaml.safe_dump(tree), "my.yaml")


@settings(max_examples=50)
@given(spaces(), st.integers(0, 2**32))
def test_a_fitted_model_fills_the_budget(space: Space, seed: int) -> None:
    values, fit, budget = space.propose(Drawn(seed)), space.fit, space.settings.budget
    assert fit is not None and fit.key not in values
    found = feasible(space, values, vocabulary_of)
    event("filled" if found else "no width does")
    if found is None:
        return  # rightly so: see below
    width = found.fitted[fit.key]
    assert FILLED * budget <= found.parameters <= budget
    assert found.config == space.config({**values, fit.key: width})
    assert found.parameters == count_parameters(found.config, vocabulary_of(found.config.tokenizer), NUM_FEATS)
    assert (fit.low or 8) <= width <= (fit.high or budget)
    assert width % (fit.step or 1) == 0
    assert not fit.key.endswith("d_model") or width % unit_of(found.config, fit) == 0


def unit_of(config: Config, fit: Fit) -> int:
    """A fitted d_model is a multiple of twice the heads, and of those of the projector where it has this width."""
    stack, projector = (config.model if fit.key == "model.d_model" else config.model.editor), config.model.projector
    shares = stack is config.model.editor and projector.d_model is None
    return 2 * math.lcm(stack.heads, (projector.heads or 1) if shares else 1)


@settings(max_examples=25)
@given(spaces(), st.integers(0, 2**32))
def test_no_better_width_is_passed_over(space: Space, seed: int) -> None:
    """None that lands where none is said to, and none on more welcome multiples."""
    values, fit, budget = space.propose(Drawn(seed)), space.fit, space.settings.budget
    assert fit is not None
    widths_of_heads = fit.key.endswith("d_model")
    heads = unit_of(space.config(values), fit) // 2
    welcome = 8 * heads if widths_of_heads else 64
    found = feasible(space, values, vocabulary_of)
    unit = 2 * heads if widths_of_heads else 1
    if found is not None and (fit.step or found.fitted[fit.key] % welcome == 0):
        return
    step = welcome if found is not None else math.lcm(unit, fit.step or 1)
    low, high = max(fit.low or 0, 16 * heads if widths_of_heads else 8), min(fit.high or 3000, 3000)

    def count(width: int) -> int:
        config = space.config({**values, fit.key: width})
        return count_parameters(config, vocabulary_of(config.tokenizer), NUM_FEATS)

    widths = range(-(-low // step) * step, high + 1, step)
    place = bisect_right(widths, budget, key=count)
    assert place == 0 or count(widths[place - 1]) < FILLED * budget, widths[place - 1]


def space(fit: str, rest: str = "", budget: int = 5_000_000) -> Space:
    return parse_space(f"vary:\n  model.d_model: {fit}\n{rest}\nbudget: {budget}\n", "my.yaml")


def test_a_width_that_is_given_is_taken() -> None:
    """As an entry of `start` gives it: known to be good, wherever in the budget."""
    found = complete(space("fit"), {"model.d_model": 64}, vocabulary_of, NUM_FEATS)
    assert found.fitted == {"model.d_model": 64} and found.parameters < 5_000_000 / 2


def test_nothing_is_fitted_where_nothing_shall_be() -> None:
    given_ = parse_space("vary: {model.d_model: {choice: [64]}}", "my.yaml")
    assert complete(given_, {"model.d_model": 64}, vocabulary_of, NUM_FEATS).fitted == {}


def test_steps_of_heads_of_eight_come_first() -> None:
    """Of two budgets, the one that such a width fills, and one between two of these."""
    layers = "  model.encoder_layers: {choice: [6]}"
    exact = complete(space("fit", layers, 10**9), {"model.d_model": 256}, vocabulary_of, NUM_FEATS).parameters
    for budget, width in ((int(exact * 1.01), 256), (int(exact * 1.06), 264)):
        assert feasible(space("fit", layers, budget), {}, vocabulary_of) == Proposal(
            space(f"{{fit: [{width}, {width}]}}", layers, budget).config({"model.d_model": width}),
            count := complete(space("fit", layers, 10**9), {"model.d_model": width}, vocabulary_of, 80).parameters,
            {"model.d_model": width},
        )
        assert FILLED * budget <= count <= budget


@pytest.mark.parametrize(
    ("bounds", "reason"),
    [
        ("[300, 400]", "budget: 5,000,000 parameters are impossible: the smallest model"),
        ("[64, 128]", "vary.model.d_model: 5,000,000 parameters are out of reach: the largest model"),
        ("[65, 66]", "no multiple of 8 is between 65 and 66"),
    ],
)
def test_bounds_between_which_nothing_fills_the_budget(bounds: str, reason: str) -> None:
    narrow = space(f"{{fit: {bounds}}}", "  model.encoder_layers: {int: [2, 4]}")
    assert feasible(narrow, {"model.encoder_layers": 2}, vocabulary_of) is None
    with pytest.raises(InputError) as error:
        check_budget(narrow, vocabulary_of, NUM_FEATS)
    assert reason in error.value.problem


def test_a_width_between_two_steps_is_named() -> None:
    with pytest.raises(InputError) as error:
        complete(space("{fit: [100, 400], step: 100}"), {}, vocabulary_of, NUM_FEATS)
    assert "no width fills 98% of the budget of 5,000,000 parameters: 200 gives 3," in error.value.problem
    assert "400 gives " in error.value.problem  # 300 is no multiple of two for each head


def test_the_smallest_model_has_the_narrowest_width() -> None:
    values, count = extreme(space("{fit: [64, 400]}", "  model.heads: {choice: [2, 4]}"), vocabulary_of, NUM_FEATS)
    assert values["model.d_model"] == 64
    assert count == complete(space("fit", budget=10**9), {"model.d_model": 64}, vocabulary_of, NUM_FEATS).parameters


def test_how_a_fit_is_written() -> None:
    assert space("fit").fit == Fit("model.d_model")
    assert space("{fit: [64, 512]}").fit == Fit("model.d_model", 64, 512)
    assert space("{fit: [64, 512], step: 32}").fit == Fit("model.d_model", 64, 512, 32)
    assert list(space("fit").vary) == []


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("model.heads: fit", "fit solves for a width: model.d_model, model.feed_forward, model.editor.d_model or"),
        ("model.dropout: {fit: [0, 1]}", "fit solves for a width"),
        ("model.depth: fit", "unknown key"),
        ("model.d_model: {fit: 256}", "fit needs two whole numbers, [low, high], but got 256"),
        ("model.d_model: {fit: [512, 256]}", "low <= high must hold"),
        ("model.d_model: {fit: [0, 256]}", "greater than or equal to 1, but got 0"),
        ("model.d_model: {fit: [64, 256], step: 0}", "step must be a whole number above 0, but got 0"),
        ("model.d_model: {fit: [64, 256], when: {model.gated: true}}", "unknown option when; fit takes step"),
        ("model.d_model: {fit: [64, 256], int: [1, 2]}", "unknown option int; fit takes step"),
        ("model.d_model: fits", "needs a distribution (choice, int, float, log)"),
        ("model.d_model: fit\n  model.feed_forward: fit", "one width can be fitted, and model.d_model is already"),
        ("model.ff_expansion: {choice: [2, 4]}\n  model.feed_forward: fit", "model.ff_expansion stands in its place"),
        ("model.d_model: fit\n  model.gated: {choice: [true], when: {model.d_model: 64}}", "fitted after all others"),
    ],
)
def test_mistakes(entry: str, reason: str) -> None:
    with pytest.raises(InputError) as error:
        parse_space(f"vary:\n  {entry}\n", "my.yaml")
    (_, found) = error.value.problem.splitlines()
    assert found.startswith(f"  line {1 + len(entry.splitlines())}: vary.model.") and reason in found, found
