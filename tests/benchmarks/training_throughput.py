"""How fast training is, beside a plain loop over torch's transformer layers, in the same run on the same corpus.

    python tests/benchmarks/training_throughput.py --data CORPUS [--repeat 20]
    python tests/benchmarks/training_throughput.py --synthetic-hours 100 --space hw4p2

Ours is the training loop itself, cut to a few updates: length-bucketed updates of `training.update_seconds`. The
reference is what one writes without it: utterances drawn at random, 16 a batch, padded to the longest by a DataLoader;
a network of torch.nn's own layers with the same parameters; cross-entropy and CTC; AdamW and gradient clipping. Both
run in the same precision, alternate in rounds, and load, pad and normalise within the measured time. The reference
has neither SpecAugment nor layer drop, also where the configuration has them, and takes an update in one pass.

Shapes: B batch, T frames, S subsampled frames, U tokens, F mel bins, D model width, V vocabulary.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import math
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from noise_corpus import noise_corpus
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from search_spaces.reader import load_space
from trainables.config.model import STRIDES
from trainables.config.parsing import load_config
from trainables.config.tree import Config, Model, Tokenizer
from trainables.data.batch_plan import PassBatch
from trainables.data.corpus import Corpus
from trainables.data.corpus_writer import CorpusWriter
from trainables.data.device.placement import default_device
from trainables.data.text.tokenizer import BLANK, EOS, PAD, SOS
from trainables.models.positions import sinusoids
from trainables.models.subsampling import KERNEL
from trainables.training.loop import Trainer

REFERENCE_BATCH = 16  # utterances


@dataclass
class Lap:
    """What a contender did in one round."""

    updates: int = 0
    audio: float = 0.0  # seconds
    padded: float = 0.0  # seconds, padding included
    seconds: float = 0.0
    cpu_seconds: float = 0.0  # of all threads: what a busy machine distorts least
    peak_bytes: int = 0  # on the GPU, above what lay there when the round began

    def __add__(self, other: Lap) -> Lap:
        return Lap(
            self.updates + other.updates,
            self.audio + other.audio,
            self.padded + other.padded,
            self.seconds + other.seconds,
            self.cpu_seconds + other.cpu_seconds,
            max(self.peak_bytes, other.peak_bytes),
        )

    @property
    def rate(self) -> float:
        """Audio-seconds a second."""
        return self.audio / self.seconds

    @property
    def cpu_rate(self) -> float:
        """Audio-seconds a second of one core's time."""
        return self.audio / self.cpu_seconds


class Ours(Trainer):
    """The training loop, stopped after a few updates of an epoch."""

    laps, wanted, lap = 0, 0, Lap()

    @property
    def network(self) -> nn.Module:
        return self.model

    def updates_of(self, epoch: int) -> Iterator[list[PassBatch]]:
        hop = self.task.trained.recipe.hop_seconds
        for update in itertools.islice(super().updates_of(epoch), self.wanted):
            self.lap.updates += 1
            for batch in update:
                self.lap.audio += float(self.task.train_data.split.frames[batch.indices].sum()) * hop
                self.lap.padded += len(batch.indices) * batch.edge * hop
            yield update

    def run(self, updates: int) -> Lap:
        self.laps, self.wanted, self.lap = self.laps + 1, updates, Lap()
        self.train_epoch(self.laps)
        return self.lap


class PlainNetwork(nn.Module):
    """The course's encoder-decoder out of torch's own layers."""

    positions: Tensor

    def __init__(self, shape: Model, vocab_size: int, bins: int) -> None:
        super().__init__()
        width, inner = shape.d_model, shape.conv_channels
        self.strides = STRIDES[shape.reduction_factor]
        sizes = zip([(bins, 2 * inner), (inner, 2 * width)], self.strides, strict=True)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(n_in, n_out, KERNEL, stride, KERNEL // 2) for (n_in, n_out), stride in sizes
        )
        self.embedding = nn.Embedding(vocab_size, width)
        self.register_buffer("positions", sinusoids(torch.arange(8192), width, shape.sinusoids), persistent=False)
        self.dropout = nn.Dropout(shape.dropout)
        options: dict[str, Any] = dict(
            d_model=width,
            nhead=shape.heads,
            dim_feedforward=shape.feed_forward,
            dropout=shape.dropout,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.encoder = nn.ModuleList(nn.TransformerEncoderLayer(**options) for _ in range(shape.encoder_layers))
        self.encoder_norm = nn.LayerNorm(width)
        self.decoder = nn.ModuleList(nn.TransformerDecoderLayer(**options) for _ in range(shape.decoder_layers))
        self.decoder_norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, vocab_size, bias=False)
        if shape.tied_embeddings:
            self.output.weight = self.embedding.weight
        self.ctc_head = nn.Linear(width, vocab_size)

    def forward(self, features_BTF: Tensor, lengths_B: Tensor, tokens_BU: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Attention logits (B, U, V), CTC logits (B, S, V) and states per utterance (B,)."""
        x = features_BTF.transpose(1, 2)
        for convolution, stride in zip(self.convolutions, self.strides, strict=True):
            x = nn.functional.glu(convolution(x), dim=1)
            lengths_B = (lengths_B - 1) // stride + 1
        states = self.dropout(x.transpose(1, 2) + self.positions[: x.shape[-1]])
        padding_BS = torch.arange(states.shape[1], device=x.device) >= lengths_B[:, None]
        for layer in self.encoder:
            states = layer(states, src_key_padding_mask=padding_BS)
        states = self.encoder_norm(states)

        length = tokens_BU.shape[1]
        future_UU = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        padding_BU = tokens_BU == PAD
        x = self.embedding(tokens_BU) * math.sqrt(self.embedding.embedding_dim)
        x = self.dropout(x + self.positions[:length])
        for layer in self.decoder:
            x = layer(
                x,
                states,
                tgt_mask=future_UU,
                tgt_key_padding_mask=padding_BU,
                memory_key_padding_mask=padding_BS,
            )
        return self.output(self.decoder_norm(x)), self.ctc_head(states), lengths_B


class Utterances(Dataset[tuple[Tensor, Tensor]]):
    """Normalised features (T, F) and tokens (U,), one utterance at a time."""

    def __init__(self, trainer: Trainer) -> None:
        recognizer = trainer.task.trained
        self.split = trainer.task.train_data.split
        self.tokens = [torch.tensor(ids) for ids in recognizer.tokenizer.encode(self.split.texts or [])]
        self.bins = trainer.task.train_data.normalizer.num_feats
        self.mean, self.std = recognizer.mean[: self.bins], recognizer.std[: self.bins].clamp(min=1e-2)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        start = self.split.offsets[index]
        features = self.split.features[start : start + self.split.frames[index], : self.bins].float()
        return (features - self.mean) / self.std, self.tokens[index]


def collate(items: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, ...]:
    """Pads to the longest: features, lengths, shifted and golden tokens, and their lengths."""
    sos, eos = torch.tensor([SOS]), torch.tensor([EOS])
    return (
        pad_sequence([features for features, _ in items], batch_first=True),
        torch.tensor([len(features) for features, _ in items]),
        pad_sequence([torch.cat([sos, tokens]) for _, tokens in items], batch_first=True, padding_value=PAD),
        pad_sequence([torch.cat([tokens, eos]) for _, tokens in items], batch_first=True, padding_value=PAD),
        torch.tensor([len(tokens) for _, tokens in items]),
    )


class Reference:
    """The plain loop. It takes tokenizer, statistics, precision and sizes from `trainer`, and nothing else."""

    def __init__(self, trainer: Trainer, workers: int, attention_dropout: bool) -> None:
        self.config, self.device, self.autocast = trainer.config, trainer.device, trainer.task.trained.autocast
        self.hop = trainer.task.trained.recipe.hop_seconds
        data, vocab_size = Utterances(trainer), trainer.task.trained.tokenizer.vocab_size
        if len(data) < REFERENCE_BATCH:
            raise SystemExit(f"only {len(data)} utterances: take them several times with --repeat")
        self.network = PlainNetwork(self.config.model, vocab_size, data.bins).to(self.device)
        if not attention_dropout:
            for module in self.network.modules():
                if isinstance(module, nn.MultiheadAttention):
                    module.dropout = 0.0
        self.loader = DataLoader(
            data, REFERENCE_BATCH, shuffle=True, collate_fn=collate, num_workers=workers, drop_last=True
        )
        self.batches = itertools.chain.from_iterable(itertools.repeat(self.loader))
        self.cross_entropy = nn.CrossEntropyLoss(ignore_index=PAD, label_smoothing=self.config.loss.label_smoothing)
        self.ctc = nn.CTCLoss(blank=BLANK, zero_infinity=True)
        optimizer = self.config.optimizer
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=optimizer.lr, betas=optimizer.betas, weight_decay=optimizer.weight_decay
        )

    def run(self, updates: int) -> Lap:
        self.network.train()
        lap, last = Lap(updates=updates), torch.zeros(())
        for batch in itertools.islice(self.batches, updates):
            features_BTF, lengths_B, shifted_BU, golden_BU, counts_B = (tensor.to(self.device) for tensor in batch)
            with self.autocast():
                logits_BUV, ctc_logits_BSV, state_lengths_B = self.network(features_BTF, lengths_B, shifted_BU)
            log_probs_SBV = ctc_logits_BSV.float().log_softmax(-1).transpose(0, 1)
            ctc = self.ctc(log_probs_SBV, golden_BU, state_lengths_B, counts_B)
            loss = self.cross_entropy(logits_BUV.float().transpose(1, 2), golden_BU) + self.config.loss.ctc_weight * ctc
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.network.parameters(), self.config.training.clip_norm)
            self.optimizer.step()
            lap.audio += int(batch[1].sum()) * self.hop
            lap.padded += batch[0].shape[0] * batch[0].shape[1] * self.hop
            last = loss.detach()
        last.item()  # a GPU is done only now
        return lap


def timed(contender: Ours | Reference, updates: int) -> Lap:
    """A round of `updates` updates."""
    cuda = contender.device.type == "cuda"
    before = torch.cuda.memory_allocated() if cuda else 0
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    start, used = time.perf_counter(), time.process_time()
    lap = contender.run(updates)
    lap.seconds, lap.cpu_seconds = time.perf_counter() - start, time.process_time() - used
    lap.peak_bytes = torch.cuda.max_memory_allocated() - before if cuda else 0
    return lap


def repeated_corpus(corpus: Corpus, folder: Path, times: int) -> Corpus:
    """The corpus with its training utterances so many times over: a few recordings become enough for a rate."""
    training, validation = corpus.training_split(), corpus.validation_split()
    with CorpusWriter(folder, corpus.recipe, corpus.source) as writer:
        for split, copies in ((training, times), (validation, 1)):
            for copy, index in itertools.product(range(copies), range(len(split))):
                features = split.features[split.offsets[index] :][: split.frames[index]].numpy()
                text = None if split.texts is None else split.texts[index]
                writer.add(split.name, f"{split.ids[index]}.{copy}", text, float(split.seconds[index]), features)
        return writer.finish()


def open_corpus(options: argparse.Namespace, folder: Path) -> Corpus:
    """The corpus that the options ask for, made in `folder` where it has to be made."""
    start = time.perf_counter()
    if options.data is None:
        corpus = noise_corpus(folder / "noise", options.synthetic_hours)
        print(f"wrote {options.synthetic_hours:g} h in {time.perf_counter() - start:.0f} s")
    else:
        corpus = Corpus.open(options.data)
    return repeated_corpus(corpus, folder / "repeated", options.repeat) if options.repeat > 1 else corpus


def configuration(options: argparse.Namespace) -> Config:
    """The configuration that the options ask for; the default is the course's starter."""
    config = Config()
    if options.config is not None:
        config = load_config(options.config)
    elif options.space is not None:
        config = load_space(options.space).config({})
    training: dict[str, Any] = {"epochs": 1000}  # an epoch here is a few updates: the schedule must not end
    if options.update_seconds is not None:
        training["update_seconds"] = options.update_seconds
    if options.precision is not None:
        training["precision"] = options.precision
    changes: dict[str, Any] = {"training": config.training.model_copy(update=training)}
    if options.tokenizer is not None:
        kind, _, size = options.tokenizer.partition(":")
        changes["tokenizer"] = Tokenizer(kind=kind, vocab_size=int(size) if size else None)
    return config.model_copy(update=changes)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = parser.add_mutually_exclusive_group()
    data.add_argument("--data", type=Path, help="a corpus of `platform prepare`")
    data.add_argument("--synthetic-hours", type=float, default=1.0, help="noise with LibriSpeech's lengths")
    parser.add_argument("--repeat", type=int, default=1, help="take the training utterances so many times")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--config", type=Path, help="a configuration; default: the course's starter shape")
    shape.add_argument("--space", help="the base configuration of a search space, such as hw4p2")
    parser.add_argument("--tokenizer", help="instead of the configuration's: char, or bpe:5000, or unigram:1000")
    parser.add_argument("--update-seconds", type=float, help="instead of the configuration's")
    parser.add_argument("--precision", choices=["auto", "float32", "bf16"], help="instead of the configuration's")
    parser.add_argument("--updates", type=int, help="updates a round (default: 2 on a CPU, 50 on a GPU)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each, in turns (default: 5)")
    parser.add_argument("--warm-up", type=int, help="updates of each before the first round (default: half a round)")
    parser.add_argument("--threads", type=int, help="of torch on the CPU; default: its own choice")
    parser.add_argument("--device", type=torch.device, default=default_device(), help="default: a GPU if there is one")
    parser.add_argument("--reference-workers", type=int, default=0, help="loader processes of the reference")
    parser.add_argument(
        "--no-attention-dropout",
        action="store_true",
        help="take dropout on attention weights from the reference: torch's layers have it, ours do without",
    )
    return parser.parse_args()


def parameter_count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def describe(name: str, laps: list[Lap], resident: int, device: torch.device) -> None:
    """One line: what a contender did over all its rounds."""
    total = functools.reduce(Lap.__add__, laps)
    if device.type == "cuda":
        other = f"peak {(resident + total.peak_bytes) / 2**30:.2f} GiB on the GPU"
    else:
        other = f"{total.cpu_rate:.1f} audio-seconds a core-second"
    print(
        f"{name:>9}: {total.rate:8.1f} audio-seconds a second   padding {1 - total.audio / total.padded:5.1%}   "
        f"{1000 * total.seconds / total.updates:6.0f} ms an update of {total.audio / total.updates:.0f} s   {other}"
    )


def compared(ours: list[float], reference: list[float]) -> str:
    """The ratio of two rates, round by round: median and spread."""
    ratios = [a / b for a, b in zip(ours, reference, strict=True)]
    return f"{statistics.median(ratios):.2f} (median of {len(ratios)} rounds, {min(ratios):.2f} to {max(ratios):.2f})"


def compare(options: argparse.Namespace, corpus: Corpus) -> None:
    """Builds both, checks that they are the same size, and runs them in turns."""
    config = configuration(options)
    allocated = torch.cuda.memory_allocated if options.device.type == "cuda" else int  # a CPU's: 0
    contenders: dict[str, Ours | Reference] = {}
    resident: dict[str, int] = {}
    before = allocated()
    contenders["ours"] = ours = Ours(config, corpus, options.device)
    for name in ("ours", "reference"):
        if name == "reference":
            contenders[name] = Reference(ours, options.reference_workers, not options.no_attention_dropout)
        timed(contenders[name], options.warm_up)
        resident[name], before = allocated() - before, allocated()
    sizes = {name: parameter_count(contender.network) for name, contender in contenders.items()}
    if abs(sizes["ours"] / sizes["reference"] - 1) > 0.001:
        raise SystemExit(f"not the same network: {sizes} parameters")
    split, tokens = ours.task.train_data.split, ours.task.trained.tokenizer
    print(
        f"{options.device}, {torch.get_num_threads()} threads; {sizes['ours']:,} parameters (reference "
        f"{sizes['reference']:,}), {tokens.vocab_size} {tokens.kind} tokens; {len(split)} utterances, "
        f"{split.seconds.sum() / 3600:.2f} h, "
        f"mean {split.seconds.mean():.1f} s, standard deviation {split.seconds.std():.1f} s"
    )
    laps: dict[str, list[Lap]] = {name: [] for name in contenders}
    for number in range(options.rounds):
        for name, contender in contenders.items():
            laps[name].append(timed(contender, options.updates))
        rates = {name: laps[name][-1].rate for name in laps}
        print(f"round {number + 1}: ours {rates['ours']:.1f}, reference {rates['reference']:.1f}", flush=True)
    for name in contenders:
        describe(name, laps[name], resident[name], options.device)
    one, other = laps["ours"], laps["reference"]
    print(f"    ratio: {compared([lap.rate for lap in one], [lap.rate for lap in other])}")
    if options.device.type == "cpu":
        print(f"           {compared([lap.cpu_rate for lap in one], [lap.cpu_rate for lap in other])} by CPU time")


def main() -> None:
    options = parse_options()
    options.updates = options.updates or (2 if options.device.type == "cpu" else 50)
    options.warm_up = options.warm_up or math.ceil(options.updates / 2)
    if options.threads:
        torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        compare(options, open_corpus(options, Path(folder)))


if __name__ == "__main__":
    main()
