"""Which models of a space are within its budget, the smallest among them, and the width that fills it."""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from itertools import combinations, islice, product
from typing import Any, TypeAlias

from search_spaces.counting import count_parameters
from search_spaces.distributions import Fit
from search_spaces.space import Proposal, Space
from trainables.bounds import LARGEST_WIDTH
from trainables.config import SMALLEST_FLEX_HEAD, Config, Tokenizer
from trainables.errors import InputError

VocabSizeOf: TypeAlias = Callable[[Tokenizer], int]
"""Tokens that a tokenizer of this configuration has on the corpus; an InputError where the text cannot give it."""

FILLED = 0.98  # of the budget: what a fitted model has at least
SAFE_HEAD = 64  # a head size that every other key of a model goes with
STARTS = 1000  # combinations tried in the search for those that are not refused
DESCENTS = 4  # how many of these the search for the smallest model starts from


class OverBudgetError(InputError):
    """A model has more parameters than its space allows."""


def complete(space: Space, values: Mapping[str, Any], vocab_size_of: VocabSizeOf, num_feats: int) -> Proposal:
    """A proposal as a trial: its width solved for where the space fits one and `values` has none.

    Raises:
        InputError: it cannot be a trial: the values do not go together, the text cannot give the vocabulary, no width
            fills the budget (between its bounds).
        OverBudgetError: nor can it with so many parameters.
    """
    fit, budget = space.fit, space.settings.budget
    if fit is not None and fit.key not in values:
        values = {**values, fit.key: _fitted(space, fit, values, vocab_size_of, num_feats)}
    config, parameters = _measure(space, values, vocab_size_of, num_feats)
    if parameters > budget:
        raise OverBudgetError(
            f"{space.source}: budget: a model of {parameters:,} parameters is over the {budget:,} allowed",
            "Make it smaller, or raise the budget.",
        )
    return Proposal(config, parameters, {} if fit is None else {fit.key: values[fit.key]})


def _fitted(space: Space, fit: Fit, values: Mapping[str, Any], vocab_size_of: VocabSizeOf, num_feats: int) -> int:
    """The width with which a model has at least `FILLED` of the budget and no more than all of it.

    The count grows with the width, so the widest that the budget allows is found by bisection among the multiples of
    the smallest step. Of the steps, the largest counts that still has a multiple in the window.
    """
    heads, budget = space.value("model.heads", values), space.settings.budget
    steps = _steps(fit, heads)
    widths = _widths(fit, heads, budget)
    config = space.config({**values, fit.key: SAFE_HEAD * heads})
    vocab_size = vocab_size_of(config.tokenizer)
    section, name = fit.key.split(".")

    def count(width: int) -> int:
        model = config.model.model_copy(update={name: width})
        return count_parameters(config.model_copy(update={section: model}), vocab_size, num_feats)

    place = bisect_right(widths, budget, key=count)
    for step in steps if place else ():
        width = widths[place - 1] // step * step
        if width >= widths[0] and count(width) >= FILLED * budget:
            return width
    near = ", ".join(f"{width} gives {count(width):,}" for width in widths[max(place - 1, 0) : place + 1])
    raise InputError(
        f"{space.source}: vary.{fit.key}: no width fills {FILLED:.0%} of the budget of {budget:,} parameters: "
        f"{near or 'none is between the bounds'}",
        "Widen the bounds, take a smaller step, or let more vary beside it.",
    )


def _steps(fit: Fit, heads: int) -> list[int]:
    """Steps between widths, the most welcome first; each is a multiple of the last.

    Matrix products want multiples of 8 and better of 64, attention kernels head sizes that are multiples of 8. But
    four heads of 64, 72, 80 are a fifth of the parameters apart, and the window is a fiftieth: so where no multiple of
    8 is in it, a head may be a multiple of 4 or of 2 (rotary positions turn pairs), which kernels pad. A feed-forward
    sublayer's steps are small: 64 serve a model of 100 million, a few a tiny one.
    """
    if fit.key == "model.d_model":
        return [math.lcm(fit.step, 2 * heads)] if fit.step else [heads * size for size in (8, 4, 2)]
    return [fit.step] if fit.step else [64, 32, 16, 8, 4, 2, 1]


def _widths(fit: Fit, heads: int, budget: int) -> range:
    """All widths that may be tried: a model has more parameters than any of its widths, and there is a largest one."""
    step = _steps(fit, heads)[-1]
    least = SMALLEST_FLEX_HEAD * heads if fit.key == "model.d_model" else 8
    low = least if fit.low is None else fit.low
    return range(-(-low // step) * step, (fit.high or min(budget, LARGEST_WIDTH)) + 1, step)


def check_budget(space: Space, vocab_size_of: VocabSizeOf, num_feats: int) -> list[str]:
    """Refuses, before any trial, a space that has no feasible proposal.

    Returns:
        What to tell the user of a space that can do with less: why each vocabulary that the text cannot give
        will not be tried.

    Raises:
        InputError: the budget is impossible (the message says the smallest model, or the largest where a width is to
            fill it), or the values do not go together, or the text gives none of the vocabularies.
    """
    vocab_size_of, budget = remembered(vocab_size_of), space.settings.budget
    if all(count > budget for _, count in _shrinking(space, vocab_size_of, num_feats)):
        values, count = smallest(space, vocab_size_of, num_feats)
        raise InputError(
            f"{space.source}: budget: {budget:,} parameters are impossible: the smallest model that this space can "
            f"make has {count:,} ({_chosen(values)})",
            f"Set budget to {count} or more, or let the space make smaller models.",
        )
    if space.fit is not None:
        *_, (values, count) = _shrinking(space, vocab_size_of, num_feats, growing=True)
        if count < FILLED * budget:
            raise InputError(
                f"{space.source}: vary.{space.fit.key}: {budget:,} parameters are out of reach: the largest model that "
                f"this space can make has {count:,} ({_chosen(values)})",
                f"Raise the upper bound, or set budget to {count} or less.",
            )
    return _missing_vocabularies(space, vocab_size_of)


def _chosen(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in values.items()) or "nothing varies"


def smallest(space: Space, vocab_size_of: VocabSizeOf, num_feats: int) -> tuple[dict[str, Any], int]:
    """The values with the fewest parameters that the space can propose, and how many these are.

    Raises:
        InputError: every combination tried is refused, by the configuration or by `vocab_size_of`.
    """
    *_, last = _shrinking(space, remembered(vocab_size_of), num_feats)
    return last


def _shrinking(
    space: Space, vocab_size_of: VocabSizeOf, num_feats: int, growing: bool = False
) -> Iterator[tuple[dict[str, Any], int]]:
    """Ever smaller models of the space, down to the smallest: values and number of parameters. Or ever larger ones.

    Coordinate descent over the values that can be extreme (all choices, the ends of ranges), from several starts.
    Where no change of one key helps, changes of two are tried: a width may need other heads, a smaller vocabulary
    another kind of tokenizer. A fitted width is at its end.
    """

    def whole(point: Mapping[str, Any]) -> dict[str, Any]:
        values = {key: value for key, value in point.items() if space.is_active(key, point)}
        if space.fit is not None:
            values[space.fit.key] = _end(space, space.fit, values, -1 if growing else 0)
        return values

    def height(point: Mapping[str, Any]) -> float:
        try:
            parameters = _measure(space, whole(point), vocab_size_of, num_feats)[1]
        except InputError:
            return math.inf
        return -parameters if growing else parameters

    changes = [{key: value} for key, values in _candidates(space).items() for value in values]
    least = math.inf
    for start in islice((point for point in _starts(space) if height(point) < math.inf), DESCENTS):
        point: dict[str, Any] | None = start
        while point is not None:
            best = height(point)
            if best < least:
                least = best
                yield whole(point), abs(int(best))
            near = ({**point, **one, **other} for one, other in [*product(changes, [{}]), *combinations(changes, 2)])
            point = next((candidate for candidate in near if height(candidate) < best), None)
    if least == math.inf:
        _measure(space, whole(next(_starts(space))), vocab_size_of, num_feats)  # raises what is wrong with it


def _end(space: Space, fit: Fit, values: Mapping[str, Any], place: int) -> int:
    """The narrowest (0) or the widest (-1) width that may be tried beside these values."""
    widths = _widths(fit, space.value("model.heads", values), space.settings.budget)
    if not widths:
        step = f"no multiple of {widths.step} is between {fit.low} and {fit.high}"
        raise InputError(f"{space.source}: vary.{fit.key}: {step}", "Widen the bounds, or take a smaller step.")
    return widths[place]


def remembered(vocab_size_of: VocabSizeOf) -> VocabSizeOf:
    """Asks once for each tokenizer; unlike functools.cache it also remembers the InputErrors."""
    outcomes: dict[Tokenizer, int | InputError] = {}

    def vocab_size(tokenizer: Tokenizer) -> int:
        if tokenizer not in outcomes:
            try:
                outcomes[tokenizer] = vocab_size_of(tokenizer)
            except InputError as error:
                outcomes[tokenizer] = error
        outcome = outcomes[tokenizer]
        if isinstance(outcome, InputError):
            raise outcome
        return outcome

    return vocab_size


def _measure(space: Space, values: Mapping[str, Any], vocab_size_of: VocabSizeOf, num_feats: int) -> tuple[Config, int]:
    config = space.config(values)
    return config, count_parameters(config, vocab_size_of(config.tokenizer), num_feats)


def _candidates(space: Space) -> dict[str, list[Any]]:
    return {key: variable.distribution.candidates() for key, variable in space.vary.items()}


def _starts(space: Space) -> Iterator[dict[str, Any]]:
    """Values for every key, active or not: the first of each, then random ones."""
    candidates = _candidates(space)
    yield {key: values[0] for key, values in candidates.items()}
    draw = random.Random(0)
    for _ in range(STARTS):
        yield {key: draw.choice(values) for key, values in candidates.items()}


def _missing_vocabularies(space: Space, vocab_size_of: VocabSizeOf) -> list[str]:
    """Why the text cannot give some of the space's tokenizers; of a range of sizes, the two ends are asked for."""
    candidates = {key: values for key, values in _candidates(space).items() if key.startswith("tokenizer.")}
    reasons = []
    for values in product(*candidates.values()):
        try:
            vocab_size_of(space.config(dict(zip(candidates, values, strict=True))).tokenizer)
        except InputError as error:
            reasons.append(error.problem)
    return list(dict.fromkeys(reasons))
