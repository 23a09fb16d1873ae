"""A recogniser: log-mel features in, text and the times of words out.

Its model directory has `features.json` beside the files of every model (model_directory.py): the feature recipe and
statistics of the training split.

Shapes: B batch, T frames, S states with CTC logits, F mel bins, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, NamedTuple, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from trainables.config.tree import Decoding
from trainables.data.batch_plan import in_batches
from trainables.data.batching import Normalizer
from trainables.data.features import FeatureRecipe
from trainables.data.text.tokenizer import Tokenizer
from trainables.decoding import Search, Word, ctc_greedy
from trainables.decoding.hotwords import Hotwords
from trainables.errors import DamagedError
from trainables.inference.language_model import check_tokenizers, load_language_model
from trainables.inference.model_directory import (
    DAMAGED,
    TrainedModel,
    load_network,
    read_checked_info,
    read_json,
    validated,
)
from trainables.inference.model_files import FEATURES, TOKENIZER
from trainables.inference.words import Confidence, confidence_of, words_of
from trainables.models.speech_transformer import (
    Encoded,
    LanguageModel,
    SpeechModel,
    SpeechTransformer,
    make_speech_model,
)

LANGUAGE_MODEL = "decoding.language_model"
CTC_WEIGHTS = {"encoder_decoder": "ctc_weight", "transcript_editor": "draft_weight"}
"""Key, of the section `loss`, of the weight of the CTC loss whose logits `ctc_logits` gives, by `model.kind`."""
RECOGNIZERS = tuple(CTC_WEIGHTS)
# A hypothesis has at most SPARE_RATE x frames x the highest token rate of the training split + SPARE_TOKENS tokens.
SPARE_RATE, SPARE_TOKENS = 1.25, 10
USUAL_SECONDS = 30.0  # default for models without `usual_seconds` in `features.json`
BATCH_FRAMES = 20_000


class Alternative(NamedTuple):
    """A hypothesis of a beam search: its text, and the score that ranks it (see `beam_search` and `ctc_beam`)."""

    text: str
    score: float


class TimedText(NamedTuple):
    """Text of an utterance, its words with times in seconds from the start, and the best hypotheses.

    Words and hypotheses are empty where they were not asked for.
    """

    text: str
    words: list[Word]
    alternatives: Sequence[Alternative] = ()


class FeatureStatistics(BaseModel):
    """Content of `features.json`.

    Attributes:
        mean, std: mean and standard deviation of each mel bin over the training split.
        tokens_per_frame: highest token rate of an utterance in the training split.
        usual_seconds: duration that 90% of the training utterances do not exceed; absent in early models.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    recipe: FeatureRecipe
    mean: list[float]
    std: list[Annotated[float, Field(ge=0)]]
    tokens_per_frame: float = Field(ge=0)
    usual_seconds: float = Field(USUAL_SECONDS, gt=0)

    @model_validator(mode="after")
    def _as_many_as_bins(self) -> FeatureStatistics:
        if not self.recipe.bins == len(self.mean) == len(self.std):
            raise ValueError(f"{len(self.mean)} means and {len(self.std)} deviations of {self.recipe.bins} bins")
        return self


@dataclass
class Recognizer(TrainedModel):
    """A trained recogniser with its feature recipe, normalisation and tokenizer.

    Args:
        mean, std: mean and standard deviation of each mel bin over the training split, (F,).
        tokens_per_frame: highest token rate of an utterance in the training split; it bounds the length of hypotheses.
        usual_seconds: duration that 90% of the training utterances do not exceed.
        confidence: calibration of the confidence of words; None: there is none, so that words have no confidence.
    """

    FILES: ClassVar[tuple[str, ...]] = (*TrainedModel.FILES, FEATURES)

    model: SpeechModel
    recipe: FeatureRecipe
    mean: Tensor
    std: Tensor
    tokens_per_frame: float
    usual_seconds: float = USUAL_SECONDS
    confidence: Confidence | None = None

    def normalizer(self) -> Normalizer:
        """Feature normalisation as in training."""
        return Normalizer(self.config.features, self.mean, self.std, self.device, self.recipe.decibel)

    @property
    def ctc_weight(self) -> str:
        """Key of the weight of the CTC loss in training: `loss.ctc_weight`, or of an editor `loss.draft_weight`."""
        return f"loss.{CTC_WEIGHTS[self.config.model.kind]}"

    @property
    def has_times(self) -> bool:
        """Whether words have times: the model was trained with CTC."""
        return bool(getattr(self.config.loss, CTC_WEIGHTS[self.config.model.kind]))

    def search(self, decoding: Decoding | None = None) -> Search:
        """Search of a section `decoding` (None: that of the configuration), with its language model loaded.

        Raises:
            InputError: the language model cannot be loaded, or has another tokenizer; or a hotword has characters that
                the tokenizer does not know.
        """
        decoding = decoding or self.config.decoding
        fused = decoding.lm_weight and decoding.language_model
        return self.search_with(decoding, self.language_model(fused) if fused else None)

    def search_with(self, decoding: Decoding, language_model: LanguageModel | None) -> Search:
        """Search of a section `decoding` with a loaded language model, which is used if it has a weight.

        Raises:
            InputError: a hotword has characters that the tokenizer does not know.
        """
        phrases = self.text.apply(decoding.hotword_phrases)
        hotwords = Hotwords.of(phrases, self.tokenizer).to(self.device) if phrases else None
        return Search(decoding, language_model if decoding.lm_weight else None, hotwords, ends_repetition=True)

    def language_model(self, folder: str) -> LanguageModel:
        """The language model of a model directory, for a search.

        Raises:
            InputError: it cannot be loaded, or has another tokenizer.
        """
        found = load_language_model(folder, LANGUAGE_MODEL, self.device)
        check_tokenizers(self.tokenizer, found.tokenizer, folder, LANGUAGE_MODEL)
        return found.model

    def decode(self, search: Search, encoded: Encoded, frames_B: Tensor) -> list[str]:
        """Texts decoded by `search` from `model.encode`; `frames_B` are the lengths of the features in frames."""
        found = search(self.model, encoded, self._most_tokens(frames_B))
        return [self.tokenizer.decode(ids) for ids in found]

    def decode_nbest(self, search: Search, encoded: Encoded, frames_B: Tensor, count: int) -> list[list[Alternative]]:
        """The `count` best different texts of each utterance; other arguments as in `decode`.

        Token sequences with the same text count once, so that there may be fewer.
        """
        rows = []
        for row in search.nbest(self.model, encoded, self._most_tokens(frames_B), count):
            scores: dict[str, float] = {}
            for hypothesis in row:
                scores.setdefault(self.tokenizer.decode(hypothesis.tokens), hypothesis.score)
            rows.append([Alternative(text, score) for text, score in scores.items()])
        return rows

    def _most_tokens(self, frames_B: Tensor) -> Tensor:
        """The largest number of tokens of utterances by their lengths in frames."""
        return (frames_B * (SPARE_RATE * self.tokens_per_frame)).ceil().long() + SPARE_TOKENS

    def decode_ctc(self, encoded: Encoded) -> list[str]:
        """Texts by greedy CTC decoding; of a transcript editor, its drafts."""
        return [self.tokenizer.decode(ids) for ids in ctc_greedy(*self.model.ctc_logits(encoded))]

    def transcribe(
        self, features: Sequence[np.ndarray | Tensor], search: Search | None = None, batch_frames: int = BATCH_FRAMES
    ) -> list[str]:
        """Texts of utterances, in the order given.

        Args:
            features: a (T, F) array of the model's recipe for each utterance.
            search: a search made by `self.search`; None: the search of the configuration.
            batch_frames: the largest number of frames, padding included, that are encoded at once.
        """
        return [found.text for found in self.transcribe_timed(features, search, False, batch_frames)]

    @torch.no_grad()
    def transcribe_timed(
        self,
        features: Sequence[np.ndarray | Tensor],
        search: Search | None = None,
        timed: bool = True,
        batch_frames: int = BATCH_FRAMES,
        nbest: int = 0,
    ) -> list[TimedText]:
        """Texts of utterances and, if `timed`, their words with times (see `words_of`), in the order given.

        Args:
            features: a (T, F) array of the model's recipe for each utterance.
            search: a search made by `self.search`; None: the search of the configuration.
            nbest: number of best hypotheses of each utterance, for a beam search; 0: none.
            batch_frames: the largest number of frames, padding included, that are encoded at once.
        """
        search = search or self.search()
        found = [TimedText("", [])] * len(features)
        for indices, encoded, lengths_B in self.encode(features, batch_frames):
            with self.autocast():
                best: list[list[Alternative]] = [[] for _ in indices]
                if nbest:
                    best = self.decode_nbest(search, encoded, lengths_B, nbest)
                    texts = [row[0].text if row else "" for row in best]
                else:
                    texts = self.decode(search, encoded, lengths_B)
            words = words_of(self, texts, encoded) if timed else [[] for _ in texts]
            for index, text, row, alternatives in zip(indices, texts, words, best, strict=True):
                found[index] = TimedText(text, row, alternatives)
        return found

    def encode(
        self, features: Sequence[np.ndarray | Tensor], batch_frames: int = BATCH_FRAMES
    ) -> Iterator[tuple[list[int], Encoded, Tensor]]:
        """Encodes utterances in batches of similar length; yields (indices, result of `model.encode`, frames_B)."""
        self.model.eval()
        normalize = self.normalizer()
        for indices in in_batches([len(item) for item in features], batch_frames):
            items = [torch.as_tensor(features[index]) for index in indices]
            lengths_B = torch.tensor([len(item) for item in items], device=self.device)
            padded_BTF = torch.nn.utils.rnn.pad_sequence(items, batch_first=True).to(self.device)
            with self.autocast():
                encoded = self.model.encode(normalize(padded_BTF, lengths_B), lengths_B)
            yield indices.tolist(), encoded, lengths_B

    def write(self, folder: Path) -> None:
        """Writes `FILES` into an existing folder, without checksums."""
        super().write(folder)
        statistics = FeatureStatistics(
            recipe=self.recipe,
            mean=self.mean.tolist(),
            std=self.std.tolist(),
            tokens_per_frame=self.tokens_per_frame,
            usual_seconds=self.usual_seconds,
        )
        (folder / FEATURES).write_text(statistics.model_dump_json(), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu", language_model: Path | None = None) -> Self:
        """Loads a model directory.

        Args:
            language_model: directory of a language model that replaces `decoding.language_model` of the configuration.

        Raises:
            InputError: the directory is of another format or kind.
            DamagedError: a file is missing, or differs from its checksum, or the files do not fit together.
        """
        info = read_checked_info(folder, RECOGNIZERS, cls.FILES)
        config = info.config
        if language_model is not None:
            decoding = config.decoding.model_copy(update={"language_model": str(language_model)})
            config = config.model_copy(update={"decoding": decoding})
        path = folder / FEATURES
        statistics = validated(read_json(path), FeatureStatistics, path)
        bins = len(statistics.mean)
        num_feats = config.features.num_feats or bins
        if num_feats > bins:
            raise DamagedError(f"{folder}: features.num_feats is {num_feats}, but {FEATURES} has {bins} bins", DAMAGED)
        tokenizer = Tokenizer.load(folder / TOKENIZER)
        model = load_network(
            lambda: make_speech_model(config.model, tokenizer.vocabulary, num_feats), folder, info.active_layers
        )
        if isinstance(model, SpeechTransformer):
            model.decoder.lay_out_for_steps()
        return cls(
            config=config,
            model=model.to(device).eval(),
            tokenizer=tokenizer,
            corpus_hash=info.corpus_hash,
            recipe=statistics.recipe,
            mean=torch.tensor(statistics.mean),
            std=torch.tensor(statistics.std),
            tokens_per_frame=statistics.tokens_per_frame,
            usual_seconds=statistics.usual_seconds,
            text=info.text,
            confidence=confidence_of(folder, model),
        )
