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

from trainables.config import Decoding
from trainables.data.batching import Normalizer, in_batches
from trainables.data.features import FeatureRecipe
from trainables.data.text.tokenizer import Tokenizer
from trainables.decoding import Search, Word, ctc_align, ctc_greedy
from trainables.errors import DamagedError
from trainables.inference.language_model import check_tokenizers, load_language_model
from trainables.inference.model_directory import (
    DAMAGED,
    FEATURES,
    TOKENIZER,
    TrainedModel,
    load_network,
    read_checked_info,
    read_json,
    validated,
)
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


class TimedText(NamedTuple):
    """Text of an utterance or recording, and its words with times in seconds from the start."""

    text: str
    words: list[Word]


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
    """

    FILES: ClassVar[tuple[str, ...]] = (*TrainedModel.FILES, FEATURES)

    model: SpeechModel
    recipe: FeatureRecipe
    mean: Tensor
    std: Tensor
    tokens_per_frame: float
    usual_seconds: float = USUAL_SECONDS

    def normalizer(self) -> Normalizer:
        """Feature normalisation as in training."""
        return Normalizer(self.config.features, self.mean, self.std, self.device)

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
            InputError: the language model cannot be loaded, or has another tokenizer.
        """
        decoding = decoding or self.config.decoding
        if decoding.language_model is None or not decoding.lm_weight:
            return Search(decoding)
        return Search(decoding, self.language_model(decoding.language_model))

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
        limit_B = (frames_B * (SPARE_RATE * self.tokens_per_frame)).ceil().long() + SPARE_TOKENS
        return [self.tokenizer.decode(ids) for ids in search(self.model, encoded, limit_B)]

    def decode_ctc(self, encoded: Encoded) -> list[str]:
        """Texts by greedy CTC decoding; of a transcript editor, its drafts."""
        return [self.tokenizer.decode(ids) for ids in ctc_greedy(*self.model.ctc_logits(encoded))]

    def align(self, texts: Sequence[str], encoded: Encoded) -> list[list[Word]]:
        """Words of each text with their times in seconds, from `model.encode`.

        The times are those of the likeliest CTC alignment. A model trained without CTC has none: the words are then
        spread evenly over the utterance.
        """
        seconds = self.config.model.ctc_reduction * self.recipe.hop_seconds  # of a state with CTC logits
        rows = [text.split() for text in texts]
        with self.autocast():
            ctc_logits_BSV, state_lengths_B = self.model.ctc_logits(encoded)
        if not self.has_times:
            return [_spread(row, length * seconds) for row, length in zip(rows, state_lengths_B.tolist(), strict=True)]
        tokens, places = zip(*map(self._tokens, rows), strict=True)
        found = []
        for row, ends, spans in zip(rows, places, ctc_align(ctc_logits_BSV, state_lengths_B, tokens), strict=True):
            times = [(spans[first][0] * seconds, spans[last][1] * seconds) for first, last in ends]
            found.append([Word(word, *time) for word, time in zip(row, times, strict=True)])
        return found

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
    ) -> list[TimedText]:
        """Texts of utterances and, if `timed`, their words with times (see `align`), in the order given.

        Args:
            features: a (T, F) array of the model's recipe for each utterance.
            search: a search made by `self.search`; None: the search of the configuration.
            batch_frames: the largest number of frames, padding included, that are encoded at once.
        """
        search = search or self.search()
        found = [TimedText("", [])] * len(features)
        for indices, encoded, lengths_B in self.encode(features, batch_frames):
            with self.autocast():
                texts = self.decode(search, encoded, lengths_B)
            words = self.align(texts, encoded) if timed else [[] for _ in texts]
            for index, text, row in zip(indices, texts, words, strict=True):
                found[index] = TimedText(text, row)
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

    def _tokens(self, words: list[str]) -> tuple[list[int], list[tuple[int, int]]]:
        """Tokens of a text, and indices of the first and the last token of each word."""
        between = self.tokenizer.encode([" "])[0] if self.tokenizer.kind == "char" else []
        tokens: list[int] = []
        places = []
        for word in self.tokenizer.encode(words):
            tokens += between if tokens else []
            places.append((len(tokens), len(tokens) + len(word) - 1))
            tokens += word
        return tokens, places

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
        )


def _spread(words: list[str], seconds: float) -> list[Word]:
    """Times for words, spread evenly over `seconds`."""
    each = seconds / max(1, len(words))
    return [Word(word, number * each, (number + 1) * each) for number, word in enumerate(words)]
