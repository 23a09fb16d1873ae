"""The budget of a space: the trial of a proposal, the width that fills the budget, the smallest possible model."""

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
from trainables.config.model import SMALLEST_FLEX_HEAD
from trainables.config.tree import Config, Tokenizer
from trainables.data.text.tokenizer import Vocabulary
from trainables.errors import InputError

VocabularyOf: TypeAlias = Callable[[Tokenizer], Vocabulary]
"""Returns the sizes that a tokenizer's vocabulary has once it is trained; an InputError if the text cannot give it."""

FILLED = 0.98  # smallest share of the budget that a fitted model has
SAFE_HEAD = 64  # a head size that every other key of a model goes with
STARTS = 1000  # random combinations, from which the search for the smallest or largest model may start
DESCENTS = 4  # number of valid combinations from which it starts


class OverBudgetError(InputError):
    """A model has more parameters than the budget of its space."""


def complete(space: Space, values: Mapping[str, Any], vocabulary_of: VocabularyOf, num_feats: int) -> Proposal:
    """Completes a proposal to a trial: its configuration, the fitted width, and the number of parameters.

    Args:
        values: values of all active searched keys. The width that fills the budget is computed if it is missing.
        num_feats: mel bins of the corpus.

    Raises:
        InputError: the values do not go together, the text cannot give the vocabulary, or no width between the bounds
            fills the budget.
        OverBudgetError: the model has more parameters than the budget allows.
    """
    fit, budget = space.fit, space.settings.budget
    heads = 1 if fit is None else _heads(space, fit, values)
    given = {} if fit is None or fit.key in values else {fit.key: SAFE_HEAD * heads}
    config = space.config({**values, **given})
    vocabulary = vocabulary_of(config.tokenizer)
    if fit is not None and given:
        given = {fit.key: _fitted_width(space, fit, heads, config, vocabulary, num_feats)}
        config = space.config({**values, **given})
    parameters = count_parameters(config, vocabulary, num_feats)
    if parameters > budget:
        raise OverBudgetError(
            f"{space.source}: budget: a model of {parameters:,} parameters is over the {budget:,} allowed",
            "Make it smaller, or raise the budget.",
        )
    return Proposal(config, parameters, {} if fit is None else {fit.key: {**values, **given}[fit.key]})


def _fitted_width(space: Space, fit: Fit, heads: int, config: Config, vocabulary: Vocabulary, num_feats: int) -> int:
    """Width for the key `fit` that gives the model at least 98% and at most 100% of the space's budget of parameters.

    The number of parameters grows with the width. Bisection finds the widest multiple of a step that is within the
    budget. If that model is below 98%, the search continues above this width with the next smaller step.

    Raises:
        InputError: no width fills the budget; the message has the nearest widths and their numbers of parameters.
    """
    budget = space.settings.budget

    def count(width: int) -> int:
        return count_parameters(_changed(config, fit.key, width), vocabulary, num_feats)

    low, high = _bounds(fit, heads, budget)
    for step in _steps(fit, heads):
        widths = _multiples(step, low, high)
        place = bisect_right(widths, budget, key=count)
        if place:
            low = widths[place - 1]
            if count(low) >= FILLED * budget:
                return low
        if place < len(widths):
            high = widths[place]
    near = ", ".join(f"{width} gives {count(width):,}" for width in _multiples(_steps(fit, heads)[-1], low, high))
    raise InputError(
        f"{space.source}: vary.{fit.key}: no width fills {FILLED:.0%} of the budget of {budget:,} parameters: "
        f"{near or 'none is between the bounds'}",
        "Widen the bounds, take a smaller step, or let more vary beside it.",
    )


def _changed(section: Any, key: str, value: Any) -> Any:
    """Copy of a section of a configuration in which `key`, such as `editor.d_model`, has an unchecked `value`."""
    name, _, rest = key.partition(".")
    return section.model_copy(update={name: _changed(getattr(section, name), rest, value) if rest else value})


def _heads(space: Space, fit: Fit, values: Mapping[str, Any]) -> int:
    """Number of attention heads by which a fitted `d_model` must be divisible; the projector may share the editor's."""
    heads = int(space.value(fit.key.rpartition(".")[0] + ".heads", values))
    if fit.key.startswith("model.editor.") and space.value("model.projector.d_model", values) is None:
        heads = math.lcm(heads, space.value("model.projector.heads", values) or heads)
    return heads


def _steps(fit: Fit, heads: int) -> list[int]:
    """Steps of which a fitted width is a multiple, in the order of preference; each is a multiple of the next.

    Matrix products are fast with multiples of 64 or 8, and attention kernels with head sizes that are multiples of 8.
    But models with head sizes of 64 and 72 differ by a fifth of their parameters, and a fit must be within a fiftieth
    of the budget. So multiples of 4 and 2 are tried last; kernels pad such heads, and rotary positions need even ones.
    """
    if fit.key.endswith(".d_model"):
        return [math.lcm(fit.step, 2 * heads)] if fit.step else [heads * size for size in (8, 4, 2)]
    return [fit.step] if fit.step else [64, 32, 16, 8, 4, 2, 1]


def _bounds(fit: Fit, heads: int, budget: int) -> tuple[int, int]:
    """Smallest and largest width to try; a d_model above sqrt(budget) exceeds the budget with its first matrix."""
    least, most = (SMALLEST_FLEX_HEAD * heads, math.isqrt(budget)) if fit.key.endswith(".d_model") else (8, budget)
    return least if fit.low is None else fit.low, fit.high or min(most, LARGEST_WIDTH)


def _multiples(step: int, low: int, high: int) -> range:
    return range(-(-low // step) * step, high + 1, step)


def check_budget(space: Space, vocabulary_of: VocabularyOf, num_feats: int) -> list[str]:
    """Checks that a space has models within its budget, of each kind that it proposes.

    Returns:
        For each tokenizer of the space that cannot be trained on the text, a line with the reason.

    Raises:
        InputError: every model of a kind is over the budget, or too small to fill it (the message has the smallest or
            largest model); or no combination of values is valid, or none of the tokenizers can be trained.
    """
    for kind in space.kinds:
        _check_budget(space.of_kind(kind), vocabulary_of, num_feats)
    return _missing_vocabularies(space, vocabulary_of)


def _check_budget(space: Space, vocabulary_of: VocabularyOf, num_feats: int) -> None:
    """Raises an InputError if no model of a space is within the budget, or none fills it."""
    budget, fit = space.settings.budget, space.fit
    values, count = extreme(space, vocabulary_of, num_feats, enough=budget)
    if count > budget:
        raise InputError(
            f"{space.source}: budget: {budget:,} parameters are impossible: the smallest model that this space can "
            f"make has {count:,} ({_chosen(values)})",
            f"Set budget to {count} or more, or let the space make smaller models.",
        )
    if fit is not None:
        values, count = extreme(space, vocabulary_of, num_feats, largest=True, enough=FILLED * budget)
        if count < FILLED * budget:
            raise InputError(
                f"{space.source}: vary.{fit.key}: {budget:,} parameters are out of reach: the largest model that "
                f"this space can make has {count:,} ({_chosen(values)})",
                f"Raise the upper bound, or set budget to {count} or less.",
            )


def _chosen(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in values.items()) or "nothing varies"


def extreme(
    space: Space, vocabulary_of: VocabularyOf, num_feats: int, largest: bool = False, enough: float | None = None
) -> tuple[dict[str, Any], int]:
    """Values of the smallest (or `largest`) model that a space can propose, and its number of parameters.

    The method is coordinate descent from several starts, over all choices and the ends of ranges. Where no change of
    one key helps, changes of two keys are tried: a width may need another number of heads.

    Args:
        enough: number of parameters at which the search ends early: at most as many, or with `largest` at least.

    Raises:
        InputError: no combination that was tried is a valid configuration with a tokenizer that can be trained.
    """
    sign = -1 if largest else 1
    goal = -math.inf if enough is None else sign * enough

    def values_at(point: Mapping[str, Any]) -> dict[str, Any]:
        values = {key: value for key, value in point.items() if space.is_active(key, point)}
        if space.fit is not None:
            values[space.fit.key] = _extreme_width(space, space.fit, values, largest)
        return values

    def count(point: Mapping[str, Any]) -> int:
        config = space.config(values_at(point))
        return count_parameters(config, vocabulary_of(config.tokenizer), num_feats)

    def size(point: Mapping[str, Any]) -> float:
        try:
            return sign * count(point)
        except InputError:
            return math.inf

    changes = [{key: value} for key, values in _candidates(space).items() for value in values]
    best = next(_starts(space))
    for start in islice((point for point in _starts(space) if size(point) < math.inf), DESCENTS):
        point: dict[str, Any] | None = start
        while point is not None and size(best) > goal:
            best, reached = min(best, point, key=size), size(point)
            near = ({**point, **one, **other} for one, other in [*product(changes, [{}]), *combinations(changes, 2)])
            point = next((candidate for candidate in near if size(candidate) < reached), None)
    return values_at(best), count(best)


def _extreme_width(space: Space, fit: Fit, values: Mapping[str, Any], largest: bool) -> int:
    """Smallest (or `largest`) width to try for the key `fit` in a model with these values of the other keys."""
    heads = _heads(space, fit, values)
    widths = _multiples(_steps(fit, heads)[-1], *_bounds(fit, heads, space.settings.budget))
    if not widths:
        step = f"no multiple of {widths.step} is between {fit.low} and {fit.high}"
        raise InputError(f"{space.source}: vary.{fit.key}: {step}", "Widen the bounds, or take a smaller step.")
    return widths[-1] if largest else widths[0]


def remembered(vocabulary_of: VocabularyOf) -> VocabularyOf:
    """`vocabulary_of` with a cache of its results and InputErrors by tokenizer."""
    outcomes: dict[Tokenizer, Vocabulary | InputError] = {}

    def vocabulary(tokenizer: Tokenizer) -> Vocabulary:
        if tokenizer not in outcomes:
            try:
                outcomes[tokenizer] = vocabulary_of(tokenizer)
            except InputError as error:
                outcomes[tokenizer] = error
        outcome = outcomes[tokenizer]
        if isinstance(outcome, InputError):
            raise outcome
        return outcome

    return vocabulary


def _candidates(space: Space) -> dict[str, list[Any]]:
    return {key: variable.distribution.candidates() for key, variable in space.vary.items()}


def _starts(space: Space) -> Iterator[dict[str, Any]]:
    """Yields values for every key, active or not: the first candidate of each key, then random ones."""
    candidates = _candidates(space)
    yield {key: values[0] for key, values in candidates.items()}
    draw = random.Random(0)
    for _ in range(STARTS):
        yield {key: draw.choice(values) for key, values in candidates.items()}


def _missing_vocabularies(space: Space, vocabulary_of: VocabularyOf) -> list[str]:
    """Reasons why tokenizers of the space cannot be trained; of a range of sizes, the two ends are tried."""
    candidates = {key: values for key, values in _candidates(space).items() if key.startswith("tokenizer.")}
    reasons = []
    for values in product(*candidates.values()):
        try:
            vocabulary_of(space.config(dict(zip(candidates, values, strict=True))).tokenizer)
        except InputError as error:
            reasons.append(error.problem)
    return list(dict.fromkeys(reasons))
