"""Transcribes WAV files with an exported recogniser: python transcribe.py FILE.wav ...

An example to copy from, beside the graphs that `platform export` wrote. It needs only numpy, onnxruntime and
sentencepiece (and kaldi-native-fbank, if `recognizer.json` says `"name": "kaldi"`). How it searches is said in
`recognizer.json`, under `config` and `decoding`: `method` (greedy, beam, joint, ctc), `beam`, `length_penalty`,
`temperature`, `repeat_penalty`, `ctc_weight`, `candidates`. A file is transcribed as one utterance.

Shapes: T frames, F mel bins, S encoder states, P pooled states, A audio positions, D width, U tokens (of an editor with
slots), V vocabulary; in a search K hypotheses, C candidates for the next token of each, N best continuations, L layers
with keys and values, H heads, E head width. A batch here is one utterance.
"""

from __future__ import annotations

import json
import math
import sys
import wave
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import sentencepiece

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]

SAMPLE_RATE = 16_000  # Hz


class Recognizer:
    """An exported recogniser: an encoder-decoder, or a transcript editor (`"kind"` in `recognizer.json`)."""

    def __init__(self, folder: Path) -> None:
        import onnxruntime

        self.about = json.loads((folder / "recognizer.json").read_text(encoding="utf-8"))
        self.graphs = {path.stem: onnxruntime.InferenceSession(path) for path in folder.glob("*.onnx")}
        self.tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))

    def transcribe(self, features_TF: Floats) -> str:
        """Text of log-mel features (T, F)."""
        features_1TF, lengths_1 = features_TF[None].astype(np.float32), np.array([len(features_TF)])
        encoded = self.graphs["encoder"].run(None, {"features": features_1TF, "lengths": lengths_1})
        is_editor = self.about["kind"] == "transcript_editor"
        longest = math.ceil(len(features_TF) * self.about["tokens_per_frame"]) + self.about["spare_tokens"]
        return self.text((self.edited if is_editor else self.decoded)(longest, *encoded))

    def decoded(
        self, longest: int, _states_1SD: Floats, lengths_1: Ints, ctc_logits_1SV: Floats, cross_L1HSE: Floats
    ) -> list[int]:
        """Tokens by the search that `recognizer.json` describes."""
        options = self.about["config"]["decoding"]
        if options["method"] == "ctc":
            blank, suppressed = self.about["blank"], [*self.about["suppress_tokens"], self.about["end"]]
            return collapsed(ctc_logits_1SV[0], [token for token in suppressed if token != blank], blank)
        decoder = Decoder(self.graphs["decoder"], cross_L1HSE, lengths_1)
        if options["method"] == "greedy":
            return greedy(decoder, self.about, longest)
        joint = options["method"] == "joint" and options["ctc_weight"]
        ctc = CTCPrefixes(log_softmax(ctc_logits_1SV[0]), self.about) if joint else None
        return beam_search(decoder, ctc, self.about, longest)[0]

    def edited(
        self, longest: int, states_1SD: Floats, state_lengths_1: Ints, draft_logits_1PV: Floats, _draft_lengths_1: Ints
    ) -> list[int]:
        """Tokens of the draft after the configured number of editing steps, each of which runs the editor once."""
        audio_1AD, (count,) = self.graphs["projector"].run(
            None, {"states": states_1SD, "state_lengths": state_lengths_1}
        )
        suppressed, slot = self.about["suppress_tokens"], self.about["slot"]
        tokens = collapsed(draft_logits_1PV[0], suppressed, slot)
        steps = 0 if self.about["config"]["decoding"]["method"] == "ctc" else self.about["editing_steps"]
        for _ in range(steps):
            inputs = {"audio": audio_1AD[:, :count], "tokens": self.with_slots(tokens)}
            (logits_UV,) = self.graphs["editor"].run(None, inputs)
            tokens = collapsed(logits_UV, suppressed, slot)[:longest]
        return tokens

    def with_slots(self, tokens: list[int]) -> Ints:
        """Tokens with a slot before, between and behind them, and more slots up to the fewest positions, (1, U)."""
        count = max(2 * len(tokens) + 1, self.about["fewest_positions"])
        positions_1U = np.full((1, count), self.about["slot"])
        positions_1U[0, 1 : 2 * len(tokens) : 2] = tokens
        return positions_1U

    def text(self, tokens: list[int]) -> str:
        """Text that a sequence of tokens stands for."""
        return text_of(tokens, self.tokenizer, self.about)

    def features(self, samples: Floats) -> Floats:
        """Log-mel features (T, F) of samples in [-1, 1], by the recipe of the recogniser's training."""
        recipe = self.about["recipe"]
        return (hw4_features if recipe["name"] == "hw4" else kaldi_features)(samples, recipe["bins"])


def text_of(tokens: list[int], tokenizer: Any, about: dict[str, Any]) -> str:
    """Text that a sequence of tokens stands for."""
    text = "".join(tokenizer.id_to_piece(token) for token in tokens).replace("▁", " ")
    return text if about["config"]["tokenizer"]["kind"] == "char" else text.removeprefix(" ")


def collapsed(logits_UV: Floats, suppressed: list[int], blank: int) -> list[int]:
    """The likeliest tokens that are not suppressed; equal neighbours are merged, then blanks (slots) are dropped."""
    logits_UV[:, suppressed] = -np.inf
    best_U = logits_UV.argmax(-1)
    merged = best_U[np.append(True, best_U[1:] != best_U[:-1])]
    kept: list[int] = merged[merged != blank].tolist()
    return kept


class Decoder:
    """A decoder's log-probabilities, step by step, with a cache of each hypothesis' keys and values."""

    def __init__(self, graph: Any, cross_L1HSE: Floats, state_lengths_1: Ints) -> None:
        self.graph, self.states = graph, {"cross": cross_L1HSE, "state_lengths": state_lengths_1}
        parts, _, heads, _, width = cross_L1HSE.shape
        self.cache_L1KHUE = np.zeros((parts, 1, 1, heads, 0, width), np.float32)

    def step(self, parents: list[int], tokens: list[int]) -> Floats:
        """Logits of the next token (K, V) of hypotheses, each of which adds a token to a hypothesis of the last step.

        Args:
            parents: number of the hypothesis that each one continues; at the first step 0.
            tokens: the token that it adds; at the first step the start token.
        """
        inputs = {"tokens": np.array([tokens]), "cache": self.cache_L1KHUE[:, :, parents], **self.states}
        logits_1KV, self.cache_L1KHUE = self.graph.run(None, inputs)
        logits_KV: Floats = logits_1KV[0].astype(np.float64)
        return logits_KV


def greedy(decoder: Decoder, about: dict[str, Any], longest: int) -> list[int]:
    """The likeliest token at each step, until the end token."""
    tokens: list[int] = []
    while len(tokens) < longest:
        (logits_V,) = penalized(decoder.step([0], [tokens[-1] if tokens else about["start"]]), [tokens], about)
        logits_V[about["suppress_tokens"]] = -np.inf
        token = int(logits_V.argmax())
        if token == about["end"]:
            break
        tokens.append(token)
    return tokens


def beam_search(
    decoder: Decoder, ctc: CTCPrefixes | None, about: dict[str, Any], longest: int
) -> tuple[list[int], float]:
    """The hypothesis with the highest score / length ^ length_penalty, and that number.

    A score is the sum of the log-probabilities of decoder and CTC, weighted; the end token counts. After each token,
    the `beam` best unfinished hypotheses are kept. A hypothesis is finished when the end token is among the `beam` best
    continuations. The search ends when no unfinished hypothesis can still become the best.
    """
    options, end = about["config"]["decoding"], about["end"]
    beam, penalty = options["beam"], options["length_penalty"]
    count, weight = (options["candidates"], max(1 - options["ctc_weight"], 1e-6)) if ctc else (2 * beam, 1.0)
    best: tuple[list[int], float] = [], -math.inf
    hypotheses: list[list[int]] = [[]]
    parents, latest, scores_K = [0], [about["start"]], np.zeros(1)
    for length in range(1, longest + 1):
        bound = scores_K.max(initial=-math.inf)
        if (bound / longest**penalty if bound < 0 else bound) <= best[1]:
            break
        scores_KV = weight * log_softmax(decoder.step(parents, latest) / options["temperature"])
        scores_KV = penalized(scores_KV, hypotheses, about)
        ends_K1 = scores_KV[:, [end]]
        scores_KV[:, [*about["suppress_tokens"], end]] = -np.inf
        ids_KC = np.argsort(-scores_KV, kind="stable")[:, :count]
        scores_KC = np.hstack([np.take_along_axis(scores_KV, ids_KC, 1), ends_K1])
        ids_KC = np.hstack([ids_KC, np.full_like(ends_K1, end, dtype=int)])
        if ctc:
            scores_KC += options["ctc_weight"] * ctc.scores(ids_KC)
        total_N = (scores_K[:, None] + scores_KC).ravel()
        order_N = np.argsort(-total_N, kind="stable")[: 2 * beam]
        parent_N, token_N, total_N = order_N // ids_KC.shape[1], ids_KC.ravel()[order_N], total_N[order_N]
        ends_N = (token_N == end) | (length == longest)
        for place in np.flatnonzero(ends_N[:beam]):
            if (ranked := total_N[place] / length**penalty) > best[1]:
                tokens = [*hypotheses[parent_N[place]], int(token_N[place])]
                best = [token for token in tokens if token != end], float(ranked)
        kept_K = np.flatnonzero(~ends_N & np.isfinite(total_N))[:beam]
        parents, latest, scores_K = parent_N[kept_K].tolist(), token_N[kept_K].tolist(), total_N[kept_K]
        hypotheses = [[*hypotheses[parent], token] for parent, token in zip(parents, latest, strict=True)]
        if ctc:
            ctc.extend(parents, latest)
    return best


def penalized(scores_KV: Floats, hypotheses: list[list[int]], about: dict[str, Any]) -> Floats:
    """Scores with the repeat penalty on the tokens that each hypothesis has."""
    penalty = about["config"]["decoding"]["repeat_penalty"]
    for scores_V, said in zip(scores_KV, hypotheses, strict=True):
        scores_V[said] = np.where(scores_V[said] > 0, scores_V[said] / penalty, scores_V[said] * penalty)
    return scores_KV


def log_softmax(logits: Floats) -> Floats:
    """Log-probabilities over the last axis."""
    normalized: Floats = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    return normalized


class CTCPrefixes:
    """CTC prefix scores of hypotheses (Watanabe et al., 2017, IEEE JSTSP 11(8), section IV-B).

    The probability of a prefix is that of all transcripts that begin with it; followed by the end token, that of the
    transcript alone. For each hypothesis and s = 0 ... S, the log-probability of all its alignments to the first s
    states is kept: of those that end in its last token (`token_KS`), and in a blank (`blank_KS`).
    """

    def __init__(self, log_probs_SV: Floats, about: dict[str, Any]) -> None:
        self.log_probs_VS, self.end = log_probs_SV.T.astype(np.float64), about["end"]
        self.blank_KS = self.blanks_1S = from_zero(self.log_probs_VS[[about["blank"]]].cumsum(-1))
        self.token_KS = np.full_like(self.blank_KS, -np.inf)
        self.prefix_K: Floats = np.zeros(1)
        self.last_K = np.array([about["start"]])

    def extend(self, parents: list[int], tokens: list[int]) -> None:
        """Replaces the hypotheses by those that add `tokens` (K) to the hypotheses number `parents` (K)."""
        self.token_KS, self.blank_KS = self.token_KS[parents], self.blank_KS[parents]
        self.last_K, tokens_K = self.last_K[parents], np.array(tokens, dtype=int)
        self.prefix_K = self.prefixes(tokens_K[:, None])[:, 0]
        before_KS = self.before(tokens_K[:, None])[:, 0]
        self.token_KS = summed(before_KS, from_zero(self.log_probs_VS[tokens_K].cumsum(-1)))
        self.blank_KS = summed(self.token_KS[:, :-1], self.blanks_1S)
        self.last_K = tokens_K

    def scores(self, candidates_KC: Ints) -> Floats:
        """Log-probability that each candidate comes next, (K, C)."""
        whole_K1 = np.logaddexp(self.token_KS, self.blank_KS)[:, -1:]
        scores_KC: Floats = np.where(candidates_KC == self.end, whole_K1, self.prefixes(candidates_KC))
        return scores_KC - self.prefix_K[:, None]

    def prefixes(self, candidates_KC: Ints) -> Floats:
        """Log-probability of each prefix with each candidate added, summed over the states at which it can begin."""
        begins_KCS = self.before(candidates_KC) + self.log_probs_VS[candidates_KC]
        sums_KC: Floats = np.logaddexp.reduce(begins_KCS, axis=-1)
        return sums_KC

    def before(self, candidates_KC: Ints) -> Floats:
        """Log-probability that the prefix ends before state 1 ... S and the candidate can begin there, (K, C, S).

        If the candidate repeats the last token, a blank must be between them.
        """
        repeats_KC1 = (candidates_KC == self.last_K[:, None])[..., None]
        either_KS = np.logaddexp(self.token_KS, self.blank_KS)
        before_KCS: Floats = np.where(repeats_KC1, self.blank_KS[:, None], either_KS[:, None])[..., :-1]
        return before_KCS


def from_zero(sums_KS: Floats) -> Floats:
    """Cumulative sums with the empty sum before them, (K, S + 1)."""
    return np.pad(sums_KS, ((0, 0), (1, 0)))


def summed(before_KS: Floats, products_KS: Floats) -> Floats:
    """log r(s), s = 0 ... S, of r(0) = 0 and r(s) = (r(s - 1) + before(s - 1)) x(s).

    Args:
        products_KS: log of x(1) ... x(s): divided by it, the recursion is a cumulative sum.
    """
    sums_KS = np.logaddexp.accumulate(before_KS - products_KS[..., :-1], axis=-1)
    return np.pad(sums_KS, ((0, 0), (1, 0)), constant_values=-np.inf) + products_KS


def hw4_features(samples: Floats, bins: int) -> Floats:
    """Log-mel features in decibels relative to the utterance's peak, 125 frames a second.

    Equal to librosa's power_to_db(melspectrogram(y=samples, sr=16000, n_fft=512, hop_length=128, n_mels=bins,
    pad_mode="constant"), ref=max).T
    """
    edge = np.zeros(256)
    frames = np.lib.stride_tricks.sliding_window_view(np.concatenate([edge, samples, edge]), 512)[::128]
    power = np.abs(np.fft.rfft(frames * np.hanning(513)[:-1])) ** 2
    mel = np.maximum(power @ slaney_filters(bins).T, 1e-10)
    return np.maximum(10 * np.log10(mel / mel.max()), -80).astype(np.float32)


def slaney_filters(bins: int) -> Floats:
    """Mel filters of equal area, (F, frequencies); Slaney's mel scale is linear below 1 kHz and logarithmic above."""
    mels = np.linspace(0, 15 + 27 * math.log(8) / math.log(6.4), bins + 2)
    edges = np.where(mels < 15, mels * 200 / 3, 1000 * 6.4 ** ((mels - 15) / 27))  # Hz
    frequencies = np.linspace(0, SAMPLE_RATE / 2, 257)
    rising = (frequencies - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - frequencies) / (edges[2:] - edges[1:-1])[:, None]
    filters: Floats = np.maximum(0, np.minimum(rising, falling)) * (2 / (edges[2:] - edges[:-2]))[:, None]
    return filters


def kaldi_features(samples: Floats, bins: int) -> Floats:
    """Log-mel features of Kaldi's filter bank, 100 frames a second."""
    import kaldi_native_fbank

    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither = 0
    options.frame_opts.snip_edges = False
    options.mel_opts.num_bins = bins
    computer = kaldi_native_fbank.OnlineFbank(options)
    computer.accept_waveform(SAMPLE_RATE, samples.astype(np.float32))
    computer.input_finished()
    return np.stack([computer.get_frame(frame) for frame in range(computer.num_frames_ready)])


def read_wav(path: str) -> Floats:
    """Samples in [-1, 1] at 16 kHz of a WAV file with 8, 16, 24 or 32 bits a sample; channels are averaged."""
    try:
        with wave.open(path) as file:
            rate, channels, width = file.getframerate(), file.getnchannels(), file.getsampwidth()
            content = np.frombuffer(file.readframes(file.getnframes()), np.uint8)
        if not rate or not len(content) or len(content) % (channels * width):
            raise wave.Error("no samples, or not whole ones")
    except (wave.Error, EOFError) as error:
        sys.exit(f"{path}: not a whole PCM file ({error}); convert it: sox {path} -e signed -b 16 OUT.wav")
    padded = np.zeros((len(content) // width, 4), np.uint8)  # little-endian: the first bytes count least
    padded[:, 4 - width :] = content.reshape(-1, width) ^ (128 if width == 1 else 0)  # 8 bits have no sign
    return resampled((padded.view("<i4") / 2**31).reshape(-1, channels).mean(axis=1), rate)


def resampled(samples: Floats, rate: int) -> Floats:
    """Samples at `rate` Hz -> samples at 16 kHz.

    A low-pass filter, the sinc with a Kaiser window, is laid around each place of the output. Of the frequencies up to
    half the lower of the two rates it passes 91.4%, and from there falls to -100 dB, as soxr's high quality does, by
    which the speech of the training was resampled.
    """
    common = math.gcd(rate, SAMPLE_RATE)
    up, down = SAMPLE_RATE // common, rate // common
    if up == down:
        return samples
    cutoff = 0.957 * min(1, up / down)  # middle of the fall, in half the input's rate
    reach = math.ceil(75 / cutoff)  # samples to each side; fewer let it fall more slowly
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(samples, reach), 2 * reach + 1)
    found = np.empty(-(-len(samples) * up // down))
    for phase in range(min(up, len(found))):  # every `up` samples lie alike between those of the input
        centre, part = divmod(phase * down, up)
        offsets = np.arange(-reach, reach + 1) - part / up
        taps = np.sinc(cutoff * offsets) * np.i0(10 * np.sqrt(np.maximum(0, 1 - (offsets / reach) ** 2)))
        found[phase::up] = windows[centre::down] @ (taps / taps.sum())
    return found


if __name__ == "__main__":
    recognizer = Recognizer(Path(__file__).parent)
    for name in sys.argv[1:]:
        print(name, recognizer.transcribe(recognizer.features(read_wav(name))), sep="\t")
