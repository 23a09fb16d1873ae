"""Which proposals of a space can become trials on a corpus: within the budget, with tokens that the text can give."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from search_spaces.budget import check_budget, feasible, remembered
from search_spaces.space import Space
from trainables.config import Tokenizer
from trainables.data.corpus import Corpus
from trainables.data.tokenizer import corpus_tokenizer


class Feasibility:
    """A space on a corpus: a proposal's values -> its exact parameter count, or None where it cannot be a trial.

    Raises:
        InputError: the corpus lacks a split to train or to validate on.
    """

    def __init__(self, space: Space, corpus: Corpus) -> None:
        self.space, self.corpus = space, corpus
        splits = space.config({}).data
        corpus.validation_split(splits.validation)  # where there is none, no trial need find out
        self.split = corpus.training_split(splits.train)
        self.vocab_size = remembered(self._vocab_size)

    def _vocab_size(self, tokenizer: Tokenizer) -> int:
        return corpus_tokenizer(self.corpus, self.split, tokenizer).vocab_size

    def __call__(self, values: Mapping[str, Any]) -> int | None:
        found = feasible(self.space, values, self.vocab_size, self.corpus.recipe.bins)
        return found[1] if found else None

    def check(self) -> list[str]:
        """Why some vocabularies of the space will not be tried: the text cannot give them.

        Raises:
            InputError: nothing in the space can be a trial.
        """
        return check_budget(self.space, self.vocab_size, self.corpus.recipe.bins)
