"""Decoding beside transformers' `generate`: the same weights, the same utterances, one process. Run by hand.

python tests/benchmarks/decoding_speed.py [--rounds 3] [--threads 2] [--only 1x1 32x5]

The default shape of Speech2Text (29.5M parameters) with random weights, float32; utterances of 12 s (1200
frames), 40 output tokens forced: EOS is never said. Each round measures theirs and ours in turn, encoder included; the
best of the rounds counts, and only the ratio means anything on another machine.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import Speech2TextConfig, Speech2TextForConditionalGeneration

from trainables.data.text.tokenizer import EOS
from trainables.decoding import beam_search, greedy
from trainables.decoding.scorers import DecoderScorer
from trainables.models.decoder import Decoder, DecoderCache
from trainables.models.speech2text import from_speech2text, speech2text_shape
from trainables.models.speech_transformer import SpeechTransformer

FRAMES, TOKENS = 1200, 40
CASES = [(1, 1), (1, 5), (32, 1), (32, 5), (32, 10)]  # utterances, beam


class NeverEnding(Decoder):
    """Never says EOS, as `min_new_tokens` makes theirs."""

    def step(self, tokens: Tensor, cache: DecoderCache, parents_BK: Tensor | None = None) -> Tensor:
        logits = super().step(tokens, cache, parents_BK)
        logits[..., EOS] = -torch.inf
        return logits


def build() -> tuple[Speech2TextForConditionalGeneration, SpeechTransformer]:
    """Theirs, and ours with its weights."""
    torch.manual_seed(0)
    config = Speech2TextConfig()
    theirs = Speech2TextForConditionalGeneration(config).eval()
    ours = SpeechTransformer(speech2text_shape(config), config.vocab_size, config.input_feat_per_channel).eval()
    ours.load_state_dict(from_speech2text(theirs.state_dict(), ours.state_dict()))
    ours.decoder.lay_out_for_steps()
    ours.decoder.__class__ = NeverEnding
    return theirs, ours


@torch.inference_mode()
def decode(model: SpeechTransformer, features_BTF: Tensor, beam: int) -> list[list[int]]:
    batch = len(features_BTF)
    states_BSD, lengths_B = model.encoder(features_BTF, torch.full((batch,), FRAMES))
    limits_B = torch.full((batch,), TOKENS)
    if beam == 1:
        return greedy(model.decoder, states_BSD, lengths_B, limits_B)
    scorer = DecoderScorer(model.decoder, model.decoder.start(states_BSD, lengths_B, TOKENS))
    return beam_search([(1.0, scorer)], limits_B, beam).best()


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", help="such as 1x1 32x5: utterances x beam")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    theirs, ours = build()
    features_BTF = torch.randn(32, FRAMES, 80)
    print("utterances  beam   theirs     ours   theirs / ours   (encoder: theirs, ours)")
    for utterances, beam in CASES:
        if arguments.only and f"{utterances}x{beam}" not in arguments.only:
            continue
        some_BTF = features_BTF[:utterances]
        rounds = arguments.rounds if utterances > 1 else 4 * arguments.rounds

        def generate(some_BTF: Tensor = some_BTF, beam: int = beam) -> Tensor:
            return theirs.generate(
                some_BTF, num_beams=beam, do_sample=False, min_new_tokens=TOKENS, max_new_tokens=TOKENS
            )

        def search(some_BTF: Tensor = some_BTF, beam: int = beam) -> list[list[int]]:
            return decode(ours, some_BTF, beam)

        def encode(some_BTF: Tensor = some_BTF) -> Tensor:
            with torch.inference_mode():
                return theirs.model.encoder(some_BTF).last_hidden_state

        def encode_ours(some_BTF: Tensor = some_BTF) -> Tensor:
            with torch.inference_mode():
                return ours.encoder(some_BTF, torch.full((len(some_BTF),), FRAMES))[0]

        times = [tuple(map(timed, (generate, search, encode, encode_ours))) for _ in range(rounds)]
        their_time, our_time, their_encoder, our_encoder = map(min, zip(*times, strict=True))
        print(
            f"{utterances:10} {beam:5} {their_time:7.2f} s {our_time:7.2f} s {their_time / our_time:13.2f}   "
            f"({their_encoder:.3f}, {our_encoder:.3f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
