"""Exact parameter counts without allocating a weight, and whether a space can stay within its budget."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from itertools import combinations, islice, product
from typing import Any, TypeAlias

import torch

from search_spaces.space import Space
from trainables.config import Config, Model, Tokenizer
from trainables.errors import InputError
from trainables.models.speech_transformer import make_model

VocabSizeOf: TypeAlias = Callable[[Tokenizer], int]
"""Tokens that a tokenizer of this configuration has on the corpus; an InputError where the text cannot give it."""

STARTS = 1000  # combinations tried in the search for those that are not refused
DESCENTS = 4  # how many of these the search for the smallest model starts from


def count_parameters(config: Config, vocab_size: int, num_feats: int) -> int:
    """Every parameter of the model, shared ones once.

    Args:
        config: the run; of it the model section and `features.num_feats` matter.
        vocab_size: tokens, special ones included.
        num_feats: mel bins of the corpus, of which the configuration may keep fewer.
    """
    return _count(config.model, vocab_size, min(num_feats, config.features.num_feats or num_feats))


@lru_cache(maxsize=4096)
def _count(model: Model, vocab_size: int, num_feats: int) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in make_model(model, vocab_size, num_feats).parameters())


def feasible(
    space: Space, values: Mapping[str, Any], vocab_size_of: VocabSizeOf, num_feats: int
) -> tuple[Config, int] | None:
    """The configuration of a proposal and its parameter count.

    None where it cannot be a trial: the values do not go together, the text cannot give the vocabulary, or the model
    is over the budget.
    """
    try:
        config, count = _measure(space, values, vocab_size_of, num_feats)
    except InputError:
        return None
    return (config, count) if count <= space.settings.budget else None


def check_budget(space: Space, vocab_size_of: VocabSizeOf, num_feats: int) -> list[str]:
    """Refuses, before any trial, a space that has no feasible proposal.

    Returns:
        What to tell the user of a space that can do with less: why each vocabulary that the text cannot give
        will not be tried.

    Raises:
        InputError: the budget is impossible (the message says the smallest model), or the values do not go
            together, or the text gives none of the vocabularies.
    """
    vocab_size_of = remembered(vocab_size_of)
    if any(count <= space.settings.budget for _, count in _shrinking(space, vocab_size_of, num_feats)):
        return _missing_vocabularies(space, vocab_size_of)
    values, count = smallest(space, vocab_size_of, num_feats)
    chosen = ", ".join(f"{key}={value}" for key, value in values.items())
    raise InputError(
        f"{space.source}: budget: {space.settings.budget:,} parameters are impossible: the smallest model that this "
        f"space can make has {count:,} ({chosen or 'nothing varies'})",
        f"Set budget to {count} or more, or let the space make smaller models.",
    )


def smallest(space: Space, vocab_size_of: VocabSizeOf, num_feats: int) -> tuple[dict[str, Any], int]:
    """The values with the fewest parameters that the space can propose, and how many these are.

    Raises:
        InputError: every combination tried is refused, by the configuration or by `vocab_size_of`.
    """
    *_, last = _shrinking(space, remembered(vocab_size_of), num_feats)
    return last


def _shrinking(space: Space, vocab_size_of: VocabSizeOf, num_feats: int) -> Iterator[tuple[dict[str, Any], int]]:
    """Ever smaller models of the space, down to the smallest: values and number of parameters.

    Coordinate descent over the values that can be extreme (all choices, the ends of ranges), from several starts.
    Where no change of one key helps, changes of two are tried: a width may need other heads, a smaller vocabulary
    another kind of tokenizer.
    """

    def count(point: Mapping[str, Any]) -> float:
        try:
            return _measure(space, point, vocab_size_of, num_feats)[1]
        except InputError:
            return math.inf

    changes = [{key: value} for key, values in _candidates(space).items() for value in values]
    least = math.inf
    for start in islice((point for point in _starts(space) if count(point) < math.inf), DESCENTS):
        point: dict[str, Any] | None = start
        while point is not None:
            best = count(point)
            if best < least:
                least = best
                yield {key: value for key, value in point.items() if space.is_active(key, point)}, int(best)
            near = ({**point, **one, **other} for one, other in [*product(changes, [{}]), *combinations(changes, 2)])
            point = next((candidate for candidate in near if count(candidate) < best), None)
    if least == math.inf:
        _measure(space, next(_starts(space)), vocab_size_of, num_feats)  # raises what is wrong with it


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
