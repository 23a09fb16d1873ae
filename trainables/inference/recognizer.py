"""A recogniser: everything between feature frames and text.

Its model directory has one file more than every model's (model_directory.py): `features.json`, with the feature recipe,
the training statistics and how fast people spoke.

Shapes: B batch, T frames, S subsampled frames, F mel bins, D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor

from trainables.config import Decoding
from trainables.config_parsing import problems
from trainables.data.batching import Normalizer, in_batches
from trainables.data.features import Recipe
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
    read_about,
    read_json,
)
from trainables.models.speech_transformer import SpeechTransformer

LANGUAGE_MODEL = "decoding.language_model"
SPARE_TOKENS = 10  # how far a hypothesis may run past the fastest speech heard in training
SPARE_RATE = 1.25
USUAL_SECONDS = 30.0  # where a model does not say how long its training utterances were


class FeatureStatistics(BaseModel):
    """Content of `features.json`.

    Attributes:
        mean, std: of each bin over the training split.
        tokens_per_frame, usual_seconds: see `Recognizer`; earlier models do not have the second.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    recipe: Recipe
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
    """A model with what it needs around it.

    Args:
        tokens_per_frame: the fastest speech in the training split, which bounds the length of a hypothesis.
        usual_seconds: nine of ten utterances in the training split are no longer.
    """

    FILES: ClassVar[tuple[str, ...]] = (*TrainedModel.FILES, FEATURES)

    model: SpeechTransformer
    recipe: Recipe
    mean: Tensor
    std: Tensor
    tokens_per_frame: float
    usual_seconds: float = USUAL_SECONDS

    def normalizer(self) -> Normalizer:
        return Normalizer(self.config.features, self.mean, self.std, self.device)

    def search(self, decoding: Decoding | None = None) -> Search:
        """How `decoding` searches; None: the configuration's own. Its language model is loaded here.

        Raises:
            InputError: the language model cannot be loaded, or has another tokenizer.
        """
        decoding = decoding or self.config.decoding
        if decoding.language_model is None or not decoding.lm_weight:
            return Search(decoding)
        language_model = load_language_model(decoding.language_model, LANGUAGE_MODEL, self.device)
        check_tokenizers(self.tokenizer, language_model.tokenizer, decoding.language_model, LANGUAGE_MODEL)
        return Search(decoding, language_model.model)

    def decode(self, search: Search, states_BSD: Tensor, state_lengths_B: Tensor, frames_B: Tensor) -> list[str]:
        """Texts from encoder states; `frames_B` are the utterances' input lengths."""
        limit_B = (frames_B * (SPARE_RATE * self.tokens_per_frame)).ceil().long() + SPARE_TOKENS
        return [self.tokenizer.decode(ids) for ids in search(self.model, states_BSD, state_lengths_B, limit_B)]

    def decode_ctc(self, ctc_logits_BSV: Tensor, state_lengths_B: Tensor) -> list[str]:
        """Greedy CTC decoding."""
        return [self.tokenizer.decode(ids) for ids in ctc_greedy(ctc_logits_BSV, state_lengths_B)]

    @torch.no_grad()
    def transcribe(
        self,
        features: Sequence[np.ndarray | Tensor],
        search: Search | None = None,
        batch_frames: int = 20_000,
    ) -> list[str]:
        """Texts of utterances given as (T, F) arrays of this model's recipe, in the order given.

        Args:
            search: of `self.search`; None: as the configuration says.
        """
        search = search or self.search()
        texts = [""] * len(features)
        for indices, states_BSD, state_lengths_B, lengths_B in self._encoded(features, batch_frames):
            with self.autocast():
                found = self.decode(search, states_BSD, state_lengths_B, lengths_B)
            for index, text in zip(indices, found, strict=True):
                texts[index] = text
        return texts

    @torch.no_grad()
    def align(
        self, features: Sequence[np.ndarray | Tensor], texts: Sequence[str], batch_frames: int = 20_000
    ) -> list[list[Word]]:
        """When each word of a text was said, by the CTC head: seconds from the start of its utterance.

        A word is what stands between white space. The times mean nothing where CTC was not trained
        (`loss.ctc_weight` of 0).
        """
        words = [text.split() for text in texts]
        tokens = [self._tokens(row) for row in words]
        seconds = self.config.model.reduction_factor * self.recipe.hop_seconds  # of an encoder state
        found: list[list[Word]] = [[] for _ in features]
        for indices, states_BSD, state_lengths_B, _ in self._encoded(features, batch_frames):
            with self.autocast():
                ctc_logits_BSV = self.model.ctc_head(states_BSD)
            spans = ctc_align(ctc_logits_BSV, state_lengths_B, [tokens[index][0] for index in indices])
            for index, said in zip(indices, spans, strict=True):
                found[index] = [
                    Word(text, said[first][0] * seconds, said[last][1] * seconds)
                    for text, (first, last) in zip(words[index], tokens[index][1], strict=True)
                ]
        return found

    def _tokens(self, words: list[str]) -> tuple[list[int], list[tuple[int, int]]]:
        """The tokens of a text of these words, and which are the first and the last of each word."""
        between = self.tokenizer.encode([" "])[0] if self.tokenizer.kind == "char" else []
        tokens: list[int] = []
        places = []
        for word in self.tokenizer.encode(words):
            tokens += between if tokens else []
            places.append((len(tokens), len(tokens) + len(word) - 1))
            tokens += word
        return tokens, places

    def _encoded(
        self, features: Sequence[np.ndarray | Tensor], batch_frames: int
    ) -> Iterator[tuple[list[int], Tensor, Tensor, Tensor]]:
        """Batches of utterances: their numbers, encoder states, states and frames of each."""
        self.model.eval()
        normalize = self.normalizer()
        for indices in in_batches([len(item) for item in features], batch_frames):
            items = [torch.as_tensor(features[index]) for index in indices]
            lengths_B = torch.tensor([len(item) for item in items], device=self.device)
            padded_BTF = torch.nn.utils.rnn.pad_sequence(items, batch_first=True).to(self.device)
            with self.autocast():
                states_BSD, state_lengths_B = self.model.encoder(normalize(padded_BTF, lengths_B), lengths_B)
            yield indices.tolist(), states_BSD, state_lengths_B, lengths_B

    def write(self, folder: Path) -> None:
        """Writes `FILES` into an existing folder, without their checksums."""
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
        """Reads a model directory.

        Args:
            language_model: a language model's directory, which replaces `decoding.language_model` of the configuration.

        Raises:
            InputError: the directory is of another format or kind.
            DamagedError: a file is missing, is not what was saved, or does not fit the others.
        """
        about = read_about(folder, "encoder_decoder", cls.FILES)
        config = about.config
        if language_model is not None:
            decoding = config.decoding.model_copy(update={"language_model": str(language_model)})
            config = config.model_copy(update={"decoding": decoding})
        try:
            found = FeatureStatistics.model_validate(read_json(folder / FEATURES))
        except ValidationError as error:
            reasons = "; ".join(problems(error, FeatureStatistics))
            raise DamagedError(f"{folder / FEATURES}: {reasons}", DAMAGED) from None
        num_feats = config.features.num_feats or len(found.mean)
        if num_feats > len(found.mean):
            raise DamagedError(
                f"{folder}: features.num_feats is {num_feats}, but {FEATURES} has {len(found.mean)} bins", DAMAGED
            )
        tokenizer = Tokenizer.load(folder / TOKENIZER)
        model = load_network(
            lambda: SpeechTransformer(config.model, tokenizer.vocab_size, num_feats), folder, about.active_layers
        )
        model.decoder.lay_out_for_steps()
        return cls(
            config,
            model.to(device).eval(),
            tokenizer,
            about.corpus_hash,
            found.recipe,
            torch.tensor(found.mean),
            torch.tensor(found.std),
            found.tokens_per_frame,
            found.usual_seconds,
        )
