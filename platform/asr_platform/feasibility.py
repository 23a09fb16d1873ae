"""Which proposals of a space can become trials on a corpus.

They are within the budget, with tokens that the text can give, and fit the language models that they name.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from search_spaces.budget import check_budget, feasible, remembered
from search_spaces.space import Space
from trainables.config import Config, Tokenizer
from trainables.data.corpus import Corpus
from trainables.data.tokenizer import corpus_tokenizer
from trainables.errors import InputError
from trainables.pretrained import KEY, check_pretrained
from trainables.recognizer import LANGUAGE_MODEL
from trainables.text_model import check_tokenizers, load_language_model


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
        self.language_model = cache(load_language_model)

    def _vocab_size(self, tokenizer: Tokenizer) -> int:
        return corpus_tokenizer(self.corpus, self.split, tokenizer).vocab_size

    def __call__(self, values: Mapping[str, Any]) -> int | None:
        found = feasible(self.space, values, self.vocab_size, self.corpus.recipe.bins)
        if found is None:
            return None
        config, parameters = found
        try:
            self._check_language_models(config)
        except InputError:
            return None
        return parameters

    def check(self) -> list[str]:
        """Why some vocabularies of the space will not be tried: the text cannot give them.

        Raises:
            InputError: nothing in the space can be a trial, or it names a language model that is none.
        """
        left_out = check_budget(self.space, self.vocab_size, self.corpus.recipe.bins)
        for key in (KEY, LANGUAGE_MODEL):
            varied = self.space.vary.get(key)
            for folder in varied.distribution.candidates() if varied else [self.space.base.get(key)]:
                if folder is not None:
                    self.language_model(folder, key)
        if not any(key.startswith(("model.", "tokenizer.", "pretrained.")) for key in self.space.vary):
            self._check_language_models(self.space.config({}))  # no proposal will fit better than the base does
        return left_out

    def _check_language_models(self, config: Config) -> None:
        """Refuses a configuration whose language models are of another tokenizer or shape."""
        tokenizer = corpus_tokenizer(self.corpus, self.split, config.tokenizer)
        if config.pretrained.decoder is not None:
            language = self.language_model(config.pretrained.decoder, KEY)
            check_pretrained(language, config.pretrained.decoder, config.model, tokenizer)
        if config.decoding.language_model is not None:
            language = self.language_model(config.decoding.language_model, LANGUAGE_MODEL)
            check_tokenizers(tokenizer, language.tokenizer, config.decoding.language_model, LANGUAGE_MODEL)
