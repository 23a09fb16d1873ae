"""Transcribes 16 kHz mono WAV files with an exported recogniser: python transcribe.py FILE.wav ...

An example to copy from, beside the graphs that `platform export` wrote. It needs only numpy, onnxruntime and
sentencepiece (and kaldi-native-fbank, if `recognizer.json` says `"name": "kaldi"`).

Shapes: T frames, F mel bins, S encoder states, P pooled states, A audio positions, D width, U tokens (of an editor with
slots), V vocabulary; a batch here is one utterance.
"""

from __future__ import annotations

import json
import math
import sys
import wave
from pathlib import Path

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

    def decoded(self, longest: int, states_1SD: Floats, state_lengths_1: Ints, _ctc_logits_1SV: Floats) -> list[int]:
        """Tokens by greedy search, which runs the decoder for each token."""
        said: list[int] = []
        for _ in range(longest):
            tokens_1U = np.array([[self.about["start"], *said]])
            (logits_1UV,) = self.graphs["decoder"].run(
                None, {"tokens": tokens_1U, "states": states_1SD, "state_lengths": state_lengths_1}
            )
            token = int(self.allowed(logits_1UV[0, -1], said).argmax())
            if token == self.about["end"]:
                break
            said.append(token)
        return said

    def allowed(self, logits_V: Floats, said: list[int]) -> Floats:
        """Logits with the repeat penalty on the tokens so far, and minus infinity for tokens that stand for no text."""
        found = logits_V[said]
        penalty = self.about["config"]["decoding"]["repeat_penalty"]
        logits_V[said] = np.where(found > 0, found / penalty, found * penalty)
        logits_V[self.about["suppress_tokens"]] = -np.inf
        return logits_V

    def edited(
        self, longest: int, states_1SD: Floats, state_lengths_1: Ints, draft_logits_1PV: Floats, _draft_lengths_1: Ints
    ) -> list[int]:
        """Tokens of the draft after the configured number of editing steps, each of which runs the editor once."""
        audio_1AD, (count,) = self.graphs["projector"].run(
            None, {"states": states_1SD, "state_lengths": state_lengths_1}
        )
        tokens = self.collapsed(draft_logits_1PV[0])
        for _ in range(self.about["editing_steps"]):
            inputs = {"audio": audio_1AD[:, :count], "tokens": self.with_slots(tokens)}
            (logits_UV,) = self.graphs["editor"].run(None, inputs)
            tokens = self.collapsed(logits_UV)[:longest]
        return tokens

    def collapsed(self, logits_UV: Floats) -> list[int]:
        """The likeliest tokens, without those that stand for no text; equal neighbours merged, then slots dropped."""
        logits_UV[:, self.about["suppress_tokens"]] = -np.inf
        best_U = logits_UV.argmax(-1)
        merged = best_U[np.append(True, best_U[1:] != best_U[:-1])]
        kept: list[int] = merged[merged != self.about["slot"]].tolist()
        return kept

    def with_slots(self, tokens: list[int]) -> Ints:
        """Tokens with a slot before, between and behind them, and more slots up to the fewest positions, (1, U)."""
        count = max(2 * len(tokens) + 1, self.about["fewest_positions"])
        positions_1U = np.full((1, count), self.about["slot"])
        positions_1U[0, 1 : 2 * len(tokens) : 2] = tokens
        return positions_1U

    def text(self, tokens: list[int]) -> str:
        """Text that a sequence of tokens stands for."""
        text = "".join(self.tokenizer.id_to_piece(token) for token in tokens).replace("▁", " ")
        return text if self.about["config"]["tokenizer"]["kind"] == "char" else text.removeprefix(" ")

    def features(self, samples: Floats) -> Floats:
        """Log-mel features (T, F) of samples in [-1, 1], by the recipe of the recogniser's training."""
        recipe = self.about["recipe"]
        return (hw4_features if recipe["name"] == "hw4" else kaldi_features)(samples, recipe["bins"])


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
    """Samples in [-1, 1] of a 16 kHz mono WAV file with 16 bits per sample."""
    with wave.open(path) as file:
        if (file.getframerate(), file.getnchannels(), file.getsampwidth()) != (SAMPLE_RATE, 1, 2):
            sys.exit(
                f"{path}: not 16 kHz mono with 16 bits a sample; convert it: sox {path} -r 16000 -c 1 -b 16 OUT.wav"
            )
        return np.frombuffer(file.readframes(file.getnframes()), "<i2") / 2**15


if __name__ == "__main__":
    recognizer = Recognizer(Path(__file__).parent)
    for name in sys.argv[1:]:
        print(name, recognizer.transcribe(recognizer.features(read_wav(name))), sep="\t")
