"""Transcribes WAV files with an exported recogniser: python transcribe.py [--nbest N] FILE.wav ...

An example to copy from, beside the graphs that `platform export` wrote. It needs only numpy, onnxruntime and
sentencepiece (and kaldi-native-fbank, if `recognizer.json` says `"name": "kaldi"`); the features are computed in
`common.py`. How it searches is said in `recognizer.json`, under `config` and `decoding`: `method` (greedy, beam, joint,
ctc, ctc_beam), `beam`, `length_penalty`, `temperature`, `repeat_penalty`, `ctc_weight`, `candidates`. A file is
transcribed as one utterance.

Shapes: T frames, F mel bins, S encoder states, P pooled states, A audio positions, D width, U tokens (of an editor with
slots), V vocabulary; in a search K hypotheses, C candidates for the next token of each, N best continuations, L layers
with keys and values, H heads, E head width. A batch here is one utterance.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import sentencepiece

if __package__:  # not exported
    from trainables.inference.export.common import features_of, read_wav, text_of
else:
    from common import features_of, read_wav, text_of  # type: ignore[import-not-found, no-redef]

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]


class Hypothesis(NamedTuple):
    """Tokens without the start and end tokens, and the score that ranks them."""

    tokens: list[int]
    score: float


class Recognizer:
    """An exported recogniser: an encoder-decoder, or a transcript editor (`"kind"` in `recognizer.json`)."""

    def __init__(self, folder: Path) -> None:
        import onnxruntime

        self.about = json.loads((folder / "recognizer.json").read_text(encoding="utf-8"))
        self.graphs = {path.stem: onnxruntime.InferenceSession(path) for path in folder.glob("*.onnx")}
        self.tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))

    def transcribe(self, features_TF: Floats) -> str:
        """Text of log-mel features (T, F)."""
        return self.text(self.search(features_TF)[0].tokens)

    def nbest(self, features_TF: Floats, count: int) -> dict[str, float]:
        """The `count` best texts of log-mel features (T, F), best first, and the scores that rank them.

        Where a search finds fewer, or two of its hypotheses stand for one text, there are fewer. The method must be
        beam, joint or ctc_beam, and `count` at most its `beam`.
        """
        scores: dict[str, float] = {}
        for tokens, score in self.search(features_TF, count)[:count]:
            scores.setdefault(self.text(tokens), score)
        return scores

    def search(self, features_TF: Floats, exact: int = 1) -> list[Hypothesis]:
        """Hypotheses by the search that `recognizer.json` describes, best first.

        The search goes on until the first `exact` of them can no longer change.
        """
        features_1TF, lengths_1 = features_TF[None].astype(np.float32), np.array([len(features_TF)])
        encoded = self.graphs["encoder"].run(None, {"features": features_1TF, "lengths": lengths_1})
        is_editor = self.about["kind"] == "transcript_editor"
        longest = math.ceil(len(features_TF) * self.about["tokens_per_frame"]) + self.about["spare_tokens"]
        if self.about["config"]["decoding"]["method"] in ("ctc", "ctc_beam"):
            return self.by_ctc(encoded[2][0])
        return self.edited(longest, *encoded) if is_editor else self.decoded(longest, exact, *encoded)

    def by_ctc(self, ctc_logits_SV: Floats) -> list[Hypothesis]:
        """Hypotheses by CTC alone; of an editor, its drafts."""
        options, blank = self.about["config"]["decoding"], self.about.get("blank", self.about.get("slot"))
        suppressed = sorted({*self.about["suppress_tokens"], self.about.get("end", blank)} - {blank})
        if options["method"] == "ctc":
            return [Hypothesis(collapsed(ctc_logits_SV, suppressed, blank), 0.0)]
        return ctc_beam(log_softmax(ctc_logits_SV), suppressed, blank, options["beam"])

    def decoded(
        self, longest: int, exact: int, _states_1SD: Floats, lengths_1: Ints, ctc_logits_1SV: Floats,
        cross_L1HSE: Floats,
    ) -> list[Hypothesis]:  # fmt: skip
        """Hypotheses of a decoder."""
        options = self.about["config"]["decoding"]
        decoder = Decoder(self.graphs["decoder"], cross_L1HSE, lengths_1)
        if options["method"] == "greedy":
            return [Hypothesis(greedy(decoder, self.about, longest), 0.0)]
        joint = options["method"] == "joint" and options["ctc_weight"]
        ctc = CTCPrefixes(log_softmax(ctc_logits_1SV[0]), self.about) if joint else None
        return beam_search(decoder, ctc, self.about, longest, exact)

    def edited(
        self, longest: int, states_1SD: Floats, state_lengths_1: Ints, draft_logits_1PV: Floats, _draft_lengths_1: Ints
    ) -> list[Hypothesis]:
        """The draft after the configured number of editing steps, each of which runs the editor once."""
        audio_1AD, (count,) = self.graphs["projector"].run(
            None, {"states": states_1SD, "state_lengths": state_lengths_1}
        )
        suppressed, slot = self.about["suppress_tokens"], self.about["slot"]
        tokens = collapsed(draft_logits_1PV[0], suppressed, slot)
        for _ in range(self.about["editing_steps"]):
            inputs = {"audio": audio_1AD[:, :count], "tokens": self.with_slots(tokens)}
            (logits_UV,) = self.graphs["editor"].run(None, inputs)
            tokens = collapsed(logits_UV, suppressed, slot)[:longest]
        return [Hypothesis(tokens, 0.0)]

    def with_slots(self, tokens: list[int]) -> Ints:
        """Tokens with a slot before, between and behind them, and more slots up to the fewest positions, (1, U)."""
        count = max(2 * len(tokens) + 1, self.about["fewest_positions"])
        positions_1U = np.full((1, count), self.about["slot"])
        positions_1U[0, 1 : 2 * len(tokens) : 2] = tokens
        return positions_1U

    def text(self, tokens: list[int]) -> str:
        """Text that a sequence of tokens stands for."""
        return str(text_of(tokens, self.tokenizer, self.about))


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


NONE = Hypothesis([], -math.inf)


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
    decoder: Decoder, ctc: CTCPrefixes | None, about: dict[str, Any], longest: int, exact: int = 1
) -> list[Hypothesis]:
    """The finished hypotheses with the highest scores / length ^ length_penalty, at most `beam`, best first.

    A score is the sum of the log-probabilities of decoder and CTC, weighted; the end token counts. After each token,
    the `beam` best unfinished hypotheses are kept. A hypothesis is finished when the end token is among the `beam` best
    continuations. The search ends when no unfinished hypothesis can still become one of the `exact` best.
    """
    options, end = about["config"]["decoding"], about["end"]
    beam, penalty = options["beam"], options["length_penalty"]
    count, weight = (options["candidates"], max(1 - options["ctc_weight"], 1e-6)) if ctc else (2 * beam, 1.0)
    finished: list[Hypothesis] = []
    hypotheses: list[list[int]] = [[]]
    parents, latest, scores_K = [0], [about["start"]], np.zeros(1)
    for length in range(1, longest + 1):
        bound = scores_K.max(initial=-math.inf)
        if (bound / longest**penalty if bound < 0 else bound) <= [*finished, *[NONE] * exact][exact - 1].score:
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
        for place in np.flatnonzero(ends_N[:beam] & np.isfinite(total_N[:beam])):
            tokens = [*hypotheses[parent_N[place]], int(token_N[place])]
            whole = [token for token in tokens if token != end]
            finished.append(Hypothesis(whole, float(total_N[place] / length**penalty)))
        finished = sorted(finished, key=lambda one: -one.score)[:beam]
        kept_K = np.flatnonzero(~ends_N & np.isfinite(total_N))[:beam]
        parents, latest, scores_K = parent_N[kept_K].tolist(), token_N[kept_K].tolist(), total_N[kept_K]
        hypotheses = [[*hypotheses[parent], token] for parent, token in zip(parents, latest, strict=True)]
        if ctc:
            ctc.extend(parents, latest)
    return finished or [NONE]


def ctc_beam(log_probs_SV: Floats, suppressed: list[int], blank: int, beam: int) -> list[Hypothesis]:
    """The `beam` prefixes with the highest log-probability over all kept alignments, best first.

    Prefix beam search (Hannun et al., 2014, arXiv 1408.2873, algorithm 1). Of each prefix two log-probabilities are
    kept, of its alignments that end in a blank, and in its last token. No token but the 2 `beam` + 1 likeliest can
    bring a new prefix among the best.
    """

    def both(prefix: tuple[int, ...]) -> float:
        in_blank, in_token = kept[prefix]
        return float(np.logaddexp(in_blank, in_token))

    kept: dict[tuple[int, ...], list[float]] = {(): [0.0, -math.inf]}
    for log_probs_V in log_probs_SV:
        said_V = log_probs_V.copy()
        said_V[[blank, *suppressed]] = -np.inf
        likeliest = np.argsort(-said_V, kind="stable")[: 2 * beam + 1].tolist()
        tokens = {*likeliest, *(prefix[-1] for prefix in kept if prefix)}
        before, kept = {prefix: [*ends, both(prefix)] for prefix, ends in kept.items()}, {}
        for prefix, (in_blank, in_token, either) in before.items():
            same = kept.setdefault(prefix, [-math.inf, -math.inf])
            same[0] = either + log_probs_V[blank]
            if prefix:
                same[1] = np.logaddexp(same[1], in_token + said_V[prefix[-1]])
            for token in tokens:
                longer = kept.setdefault((*prefix, token), [-math.inf, -math.inf])
                longer[1] = np.logaddexp(longer[1], (in_blank if prefix[-1:] == (token,) else either) + said_V[token])
        kept = {prefix: kept[prefix] for prefix in sorted(kept, key=both, reverse=True)[:beam]}
    return [Hypothesis(list(prefix), both(prefix)) for prefix in kept if both(prefix) > -math.inf]


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


def main() -> None:
    """Prints each file's name and text; with --nbest, a line for each of its best texts, with the score before it."""
    parser = argparse.ArgumentParser(description="Transcribes WAV files, each as one utterance.")
    parser.add_argument("files", nargs="+", metavar="FILE.wav")
    parser.add_argument("--nbest", type=int, metavar="N", help="the N best texts, with the scores that rank them")
    asked = parser.parse_args()
    recognizer = Recognizer(Path(__file__).parent)
    options = recognizer.about["config"]["decoding"]
    most = options["beam"] if options["method"] in ("beam", "joint", "ctc_beam") else 0
    if asked.nbest is not None and not 1 <= asked.nbest <= most:
        limit = f"lists at most {most}" if most else "has no list"
        parser.error(f"--nbest {asked.nbest}: method {options['method']} {limit}; see recognizer.json")
    for name in asked.files:
        features_TF = features_of(read_wav(name), recognizer.about["recipe"])
        if asked.nbest is None:
            print(name, recognizer.transcribe(features_TF), sep="\t")
            continue
        for text, score in recognizer.nbest(features_TF, asked.nbest).items():
            print(name, f"{score:.4f}", text, sep="\t")


if __name__ == "__main__":
    main()
