"""The search that a configuration describes.

Shapes: B batch, S encoder states, D model width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.config.tree import Decoding
from trainables.decoding.ctc import ctc_beam, ctc_greedy
from trainables.decoding.edit import edit
from trainables.decoding.greedy import greedy
from trainables.decoding.hotwords import Hotwords, HotwordScorer
from trainables.decoding.scorers import CTCPrefixScorer, DecoderScorer
from trainables.decoding.search import CandidateScorer, Hypotheses, Hypothesis, Scorer, beam_search
from trainables.models.editing.transcript_editor import TranscriptEditor
from trainables.models.speech_transformer import Encoded, LanguageModel, SpeechModel, SpeechTransformer

SMALLEST_WEIGHT = 1e-6  # of the decoder in joint search: with 0 it could not choose the candidates for CTC


@dataclass(frozen=True)
class Search:
    """The search that a `decoding` section describes.

    Args:
        language_model: the loaded `decoding.language_model`; None: it has no weight in the search.
        hotwords: the automaton of `decoding.hotwords`; None: there are none.
        ends_repetition: whether greedy search ends hypotheses that do nothing but repeat.
    """

    config: Decoding
    language_model: LanguageModel | None = None
    hotwords: Hotwords | None = None
    ends_repetition: bool = False

    @torch.inference_mode()
    def __call__(self, model: SpeechModel, encoded: Encoded, max_tokens_B: Tensor) -> list[list[int]]:
        """Encoded utterances (`model.encode`) -> the best token sequence of each, without SOS and EOS.

        Args:
            max_tokens_B: the largest number of tokens of each utterance; CTC alone cannot exceed its states.
        """
        config = self.config
        if config.method == "ctc":
            return ctc_greedy(*model.ctc_logits(encoded))
        if isinstance(model, TranscriptEditor) and config.method == "greedy":
            return edit(model, encoded, config.editing_steps, max_tokens_B).lists()
        if isinstance(model, SpeechTransformer) and config.method == "greedy" and self.language_model is None:
            states_BSD, state_lengths_B = encoded
            about = config.repeat_penalty, self.ends_repetition
            return greedy(model.decoder, states_BSD, state_lengths_B, max_tokens_B, *about)
        return self._hypotheses(model, encoded, max_tokens_B).best()

    @torch.inference_mode()
    def nbest(self, model: SpeechModel, encoded: Encoded, max_tokens_B: Tensor, count: int) -> list[list[Hypothesis]]:
        """The `count` best token sequences of each utterance with their scores, best first; see `__call__`.

        The method must be a beam search. Where it finds fewer, there are fewer.
        """
        found = self._hypotheses(model, encoded, max_tokens_B, min(count, self.config.beam)).lists()
        return [row[:count] for row in found]

    def _hypotheses(self, model: SpeechModel, encoded: Encoded, max_tokens_B: Tensor, exact: int = 1) -> Hypotheses:
        """Hypotheses by any beam search; `exact` of them are final."""
        config = self.config
        if config.method == "ctc_beam":
            return ctc_beam(*model.ctc_logits(encoded), config.beam)
        assert isinstance(model, SpeechTransformer)
        states_BSD, state_lengths_B = encoded
        steps = int(max_tokens_B.max())
        cache = model.decoder.start(states_BSD, state_lengths_B, steps)
        attention = DecoderScorer(model.decoder, cache, config.temperature)
        scorers: list[tuple[float, Scorer]] = [(1.0, attention)]
        candidate_scorers: list[tuple[float, CandidateScorer]] = []
        if config.method == "joint" and config.ctc_weight:
            log_probs_BSV = model.ctc_head(states_BSD).float().log_softmax(-1)
            scorers = [(max(1 - config.ctc_weight, SMALLEST_WEIGHT), attention)]
            candidate_scorers = [(config.ctc_weight, CTCPrefixScorer(log_probs_BSV, state_lengths_B))]
        if self.language_model is not None:
            language_cache = self.language_model.start(None, None, steps)
            scorers.append((config.lm_weight, DecoderScorer(self.language_model, language_cache)))
        bonus = 0.0
        if self.hotwords is not None:
            scorers.append((config.hotword_weight, HotwordScorer(self.hotwords)))
            bonus = config.hotword_weight * self.hotwords.longest  # one more hotword may follow
        greedy_fusion = config.method == "greedy"  # with a language model, greedy search is a beam of one
        return beam_search(
            scorers,
            max_tokens_B,
            beam=1 if greedy_fusion else config.beam,
            repeat_penalty=config.repeat_penalty,
            length_penalty=0.0 if greedy_fusion else config.length_penalty,
            candidate_scorers=candidate_scorers,
            candidates=config.candidates,
            exact=exact,
            bonus=bonus,
        )
