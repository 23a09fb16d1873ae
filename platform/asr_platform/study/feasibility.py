"""Decides which proposals of a space can be trials on a corpus, before anything is started.

A feasible proposal is within the budget, its tokenizer can be trained, the files that it names exist and fit, and it
keeps the rules of the space.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

from asr_platform.study.samplers import propose
from search_spaces.budget import OverBudgetError, check_budget, complete, remembered
from search_spaces.rules import REMEDY, Facts, check_rules, violations
from search_spaces.space import Proposal, Space
from trainables.config.model import Model
from trainables.config.tree import Config
from trainables.data.corpus import Corpus
from trainables.data.inspection.speakers import heard_voices
from trainables.data.text.token_batches import read_texts
from trainables.data.text.tokenizer import Vocabulary, corpus_tokenizer
from trainables.decoding.hotwords import Hotwords
from trainables.document import Document
from trainables.errors import InputError
from trainables.inference.language_model import check_tokenizers, load_language_model
from trainables.inference.model_directory import read_info
from trainables.inference.recognizer import LANGUAGE_MODEL
from trainables.models.speech_transformer import make_model
from trainables.shapes import shapes_only
from trainables.training.pretrained import KEY, check_pretrained, fitting_weights, load_initial_model, pretrained_names
from trainables.training.stages import check_phases


class Feasibility:
    """Feasibility of a space's proposals on a corpus.

    A call with the values of a proposal returns the trial, or None if the proposal is not feasible.

    Attributes:
        refusal: last error of an infeasible proposal that was not over the budget.

    Raises:
        InputError: the corpus has no training or no validation split.
    """

    def __init__(self, space: Space, corpus: Corpus) -> None:
        self.space, self.corpus = space, corpus
        splits = space.config({}).data
        corpus.validation_split(splits)  # an error now rather than in the first trial
        self.split = corpus.training_split(splits)
        self.tokenizer = cache(partial(corpus_tokenizer, corpus, self.split))
        self.vocabulary = remembered(lambda config: self.tokenizer(config).vocabulary)
        self.language_model = cache(load_language_model)
        self.initial_model = cache(load_initial_model)
        self.texts = cache(read_texts)
        self.refusal: InputError | None = None
        self.refused: set[tuple[tuple[str, Any], ...]] = set()

    def heard_voices(self) -> list[str]:
        """A sentence about the speakers of the validation split who are trained on too; empty where there are none."""
        config = self.space.config({})
        if not config.model.is_recogniser:
            return []
        heard = [self.split.name]
        if config.pretrained.model is not None:
            source = read_info(Path(config.pretrained.model))
            if source.corpus_hash == self.corpus.hash:
                heard.append(self.corpus.training_name(source.config.data))
        sentence = heard_voices(self.corpus, self.corpus.validation_name(config.data), list(dict.fromkeys(heard)))
        return [sentence] if sentence else []

    def __call__(self, values: Mapping[str, Any]) -> Proposal | None:
        tried = tuple(sorted(values.items()))
        if tried in self.refused:
            return None  # a grid proposes it again each time
        try:
            return self.trial(values)
        except OverBudgetError:
            pass
        except InputError as error:
            self.refusal = error
        self.refused.add(tried)
        return None

    def trial(self, values: Mapping[str, Any]) -> Proposal:
        """The trial of a proposal with these values.

        Raises:
            InputError: the proposal is not feasible.
        """
        proposal = complete(self.space, values, self.vocabulary, self.corpus.recipe.bins)
        self._check(proposal.config)
        check_rules(self.space.settings.rules, proposal.config, self._facts(proposal.parameters))
        return proposal

    def check(self) -> list[str]:
        """Checks that the space has a feasible proposal, and that all entries of `start` are feasible.

        Returns:
            For each tokenizer of the space that cannot be trained on the text, a line with the reason.

        Raises:
            InputError: the base breaks the space's rules, the space has no feasible proposal, or an entry of `start` is
                not feasible.
        """
        self._check_rules_of_base()
        left_out = check_budget(self.space, self.vocabulary, self.corpus.recipe.bins)
        for number, values in enumerate(self.space.start):
            try:
                self.trial(values)
            except InputError as error:
                place = f"{self.space.source}: start.{number}"
                problem = error.problem.removeprefix(f"{self.space.source}: ")
                raise InputError(f"{place}: {problem}", f"Change or remove the entry. {error.remedy}") from None
        try:
            propose(replace(self.space, start=()), [], self)
        except InputError as error:
            raise self.refusal or error from None
        return left_out

    def _check_rules_of_base(self) -> None:
        """Raises an InputError, with lines of the space's file, if its base or the corpus breaks its rules."""
        if not Path(self.space.source).is_file():
            check_rules(self.space.settings.rules, self.space.config({}), self._facts())
            return
        document = Document(self.space.text, self.space.source)
        for key, reason in violations(self.space.settings.rules, self.space.config({}), self._facts()):
            document.mistake(f"base.{key}" if key else "rules", reason)
        try:
            document.check()
        except InputError as error:
            raise InputError(error.problem, REMEDY) from None

    def _facts(self, parameters: int | None = None) -> Facts:
        return Facts(self.corpus, self.corpus.hash, parameters)

    def _check(self, config: Config) -> None:
        """Raises the InputError that a trial with this configuration would raise at its start."""
        bins = self.corpus.kept_bins(config.features.num_feats)
        pretrained: set[str] = set()
        tokenizer = self.tokenizer(config.tokenizer)
        if config.pretrained.model is not None:
            source = self.initial_model(config.pretrained.model)
            pretrained = set(fitting_weights(source, config.pretrained.model, config.model, tokenizer, bins).names)
        if config.pretrained.decoder is not None:
            language = self.language_model(config.pretrained.decoder, KEY)
            check_pretrained(language, config.pretrained.decoder, config.model, tokenizer)
            pretrained |= set(pretrained_names(language, config.model))
        if config.decoding.language_model is not None:
            language = self.language_model(config.decoding.language_model, LANGUAGE_MODEL)
            check_tokenizers(tokenizer, language.tokenizer, config.decoding.language_model, LANGUAGE_MODEL)
        if phrases := config.decoding.hotword_phrases:
            Hotwords.of(self.corpus.preparation.text.apply(phrases), tokenizer)
        if config.data.text is not None:
            self.texts(Path(config.data.text))
        if config.optimizer.groups or config.training.stages or pretrained:
            check_phases(config, parameter_names(config.model, tokenizer.vocabulary, bins), pretrained)


@lru_cache(maxsize=256)
def parameter_names(model: Model, vocabulary: Vocabulary, num_feats: int) -> list[str]:
    """Names of a model's parameters, without allocating them."""
    with shapes_only():
        return [name for name, _ in make_model(model, vocabulary, num_feats).named_parameters()]
