"""What a transcript editor gives against an encoder-decoder of equal size and equal training time, on connected digits.

    platform prepare fsdd FSDD --out corpora/digits
    python tests/benchmarks/editing.py corpora/digits [--seeds 3] [--epochs 10] [--out FOLDER] [--variants]

The editor is the base of the space `digits_editor`, trained for --epochs; the encoder-decoder is the base of `digits`,
of the width whose number of parameters is nearest to the editor's, trained for as many epochs as take the same
processor time: that of an epoch of each is measured first. Each training is a process with one thread, and
models that --out holds are not trained again. Then all models decode the dev split in one process with one thread, in
batches of 32 and some utterances one by one, taking turns. Intervals of 95% are by bootstrap over utterances, with the
errors of all seeds of an utterance together.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from search_spaces.counting import count_parameters
from search_spaces.reader import load_space
from trainables.config.parsing import flatten, parse_config, unflatten
from trainables.config.tree import Config

# The base of the space digits before voices and noise that it has not heard counted: figures on record rest on it.
DIGITS = str(Path(__file__).parents[1] / "assets" / "former_digits.yaml")
EDITOR, DECODER = "transcript editor", "encoder-decoder"
ROWS = {  # what is decoded: the model and its section `decoding`
    "draft": (EDITOR, {"method": "ctc"}),
    "1 step": (EDITOR, {"method": "greedy", "editing_steps": 1}),
    "2 steps": (EDITOR, {"method": "greedy", "editing_steps": 2}),
    "3 steps": (EDITOR, {"method": "greedy", "editing_steps": 3}),
    "CTC of the encoder": (DECODER, {"method": "ctc"}),
    "greedy": (DECODER, {"method": "greedy"}),
    "joint, beam 10": (DECODER, {"method": "joint", "beam": 10, "ctc_weight": 0.3}),
}
VARIANTS: dict[str, dict[str, Any]] = {  # of the editor's base, by --variants
    "base": {},
    "own drafts as soon as CER < 100%": {"drafts.threshold": 1.0},
    "corrupted references throughout": {"drafts.threshold": 0.0},
    "half of the drafts corrupted too": {"drafts.corrupted_share": 0.5},
    "corruption of 30%": {"drafts.corruption_rate": 0.3},
    "without copying loss": {"loss.copy_weight": 0.0},
    "without mid loss": {"loss.mid_weight": 0.0},
    "time reduction 8, no pooling": {"model.reduction_factor": 8, "model.pooling.window": 1},
}
BATCH, ALONE, ROUNDS = 32, 40, 3  # utterances at once; utterances one by one; times that each is measured
PROBED = 1  # epochs by which the time of one is measured
RESAMPLES = 2000
SPAWN = multiprocessing.get_context("spawn")


def configuration(space: str, epochs: int, seed: int, **leaves: Any) -> Config:
    """The base of a space, with another length and seed and these leaves."""
    base = dict(flatten(load_space(space).config({}).model_dump()))
    return parse_config(unflatten({**base, "training.epochs": epochs, "training.seed": seed, **leaves}), "benchmark")


def parameters(config: Config, corpus: Path) -> int:
    """Number of parameters of a model on a corpus."""
    from trainables.data.corpus import Corpus
    from trainables.data.text.tokenizer import corpus_tokenizer

    opened = Corpus.open(corpus)
    vocabulary = corpus_tokenizer(opened, opened.training_split(), config.tokenizer).vocabulary
    return count_parameters(config, vocabulary, opened.recipe.bins)


def plan(corpus: Path, epochs: int, folder: Path) -> dict[str, Any]:
    """Shape of the encoder-decoder nearest in size to the editor, and its epochs that take as long as the editor's."""
    editor = configuration("digits_editor", epochs, 0)
    size = parameters(editor, corpus)
    sizes = {width: parameters(configuration(DIGITS, 1, 0, **shape(width)), corpus) for width in range(48, 257, 8)}
    width = min(sizes, key=lambda width: abs(sizes[width] - size))
    decoder = configuration(DIGITS, epochs, 0, **shape(width))
    seconds = {}
    for kind, config in {EDITOR: editor, DECODER: decoder}.items():
        with ProcessPoolExecutor(1, mp_context=SPAWN) as pool:
            seconds[kind] = pool.submit(train, config, corpus, folder, PROBED).result() / PROBED
    return {
        "width": width,
        "parameters": {EDITOR: size, DECODER: sizes[width]},
        "seconds": seconds,
        "epochs": {EDITOR: epochs, DECODER: max(2, round(epochs * seconds[EDITOR] / seconds[DECODER]))},
    }


def shape(width: int) -> dict[str, Any]:
    """Leaves of an encoder-decoder of a width; the feed-forward sublayers are four times as wide."""
    return {"model.d_model": width, "model.feed_forward": 4 * width}


def train(config: Config, corpus: Path, folder: Path, until: int | None = None) -> float:
    """Trains in this process with one thread, and saves the model; returns the processor time of training in seconds.

    Validation is not part of the time.
    """
    import torch

    from trainables.data.corpus import Corpus
    from trainables.training.loop import Metrics, Trainer

    class TimedTrainer(Trainer):
        seconds = 0.0

        def train_epoch(self, epoch: int) -> Metrics:
            start = time.process_time()
            metrics = super().train_epoch(epoch)
            self.seconds += time.process_time() - start
            return metrics

    torch.set_num_threads(1)
    trainer = TimedTrainer(config, Corpus.open(corpus), torch.device("cpu"))
    trainer.fit(lambda metrics, save: None, until=until)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "history.json").write_text(json.dumps(trainer.history))
    if until is None:
        trainer.task.trained.save(folder)
    return trainer.seconds


def decode(corpus: Path, folders: dict[str, list[Path]]) -> dict[str, dict[str, Any]]:
    """For each row: errors (seeds, utterances), reference lengths, and real-time factors in batches and one by one."""
    import torch

    from trainables.config.tree import Decoding
    from trainables.data.corpus import Corpus
    from trainables.evaluation.utterance_errors import UtteranceErrors
    from trainables.inference.recognizer import Recognizer

    torch.set_num_threads(1)
    split = Corpus.open(corpus).validation_split()
    speech = [split.features[start : start + size] for start, size in zip(split.offsets, split.frames, strict=True)]
    models = {kind: [Recognizer.load(folder) for folder in found] for kind, found in folders.items()}
    found: dict[str, dict[str, Any]] = {}
    for name, (kind, decoding) in ROWS.items():
        texts = [model.transcribe(speech, model.search(Decoding.model_validate(decoding))) for model in models[kind]]
        errors = [UtteranceErrors.of("dev", None, split.ids, split.texts or [], each) for each in texts]
        found[name] = {"errors": [one.character_errors for one in errors], "characters": errors[0].characters}
    alone = np.linspace(0, len(speech) - 1, min(ALONE, len(speech))).astype(int)
    batch = sorted(range(len(speech)), key=lambda index: len(speech[index]))[-BATCH:]
    for name, items in {"alone": [[index] for index in alone], "batch": [batch]}.items():
        times: dict[str, list[float]] = {row: [] for row in ROWS}
        for _ in range(ROUNDS):
            for row, (kind, decoding) in ROWS.items():  # they take turns, so that all meet the same machine
                model = models[kind][0]
                search = model.search(Decoding.model_validate(decoding))
                start = time.perf_counter()
                for indices in items:
                    model.transcribe([speech[index] for index in indices], search, batch_frames=10**9)
                times[row].append(time.perf_counter() - start)
        seconds = sum(float(split.seconds[index]) for indices in items for index in indices)
        for row, measured in times.items():
            found[row][name] = min(measured) / seconds
    return found


def interval(statistic: Any, utterances: int) -> tuple[float, float]:
    """95% interval of a statistic of resampled utterances."""
    random = np.random.default_rng(0)
    samples = [statistic(random.integers(0, utterances, utterances)) for _ in range(RESAMPLES)]
    low, high = np.percentile(samples, [2.5, 97.5])
    return float(low), float(high)


def rate(row: dict[str, Any], chosen: Any = slice(None)) -> float:
    """CER of all seeds together."""
    errors, characters = np.array(row["errors"]), np.array(row["characters"])
    return float(errors[:, chosen].sum() / (len(errors) * characters[chosen].sum()))


def relative(row: dict[str, Any], other: dict[str, Any], chosen: Any = slice(None)) -> float:
    """Relative difference between the CERs of two rows on the same utterances."""
    return rate(row, chosen) / rate(other, chosen) - 1


def print_table(found: dict[str, dict[str, Any]]) -> None:
    """The rows, and how the editor compares with its draft and with the encoder-decoder."""
    count = len(found["draft"]["characters"])
    print("| model | decoding | dev CER | 95% | seeds | RTF, batch 1 | RTF, batch 32 |\n| - | - | - | - | - | - | - |")
    for name, (kind, _) in ROWS.items():
        row = found[name]
        low, high = interval(partial(rate, row), count)
        seeds = ", ".join(f"{sum(errors) / sum(row['characters']):.2%}" for errors in row["errors"])
        cells = kind, name, f"{rate(row):.2%}", f"{low:.2%} to {high:.2%}", seeds
        print("|", " | ".join(cells), f"| {row['alone']:.5f} | {row['batch']:.5f} |")
    for name, other in (("1 step", "draft"), ("1 step", "greedy")):
        change = partial(relative, found[name], found[other])
        low, high = interval(change, count)
        print(f"errors of {name} against {other}: {change():+.0%} (95%: {low:+.0%} to {high:+.0%})")
    for place in ("alone", "batch"):
        print(f"speed of 1 step against greedy, {place}: {found['greedy'][place] / found['1 step'][place]:.1f} times")


def try_variants(corpus: Path, epochs: int, seeds: int, out: Path) -> None:
    """Trains each variant of the editor's base with each seed; prints the last CERs of draft and one step."""
    with ProcessPoolExecutor(os.cpu_count(), mp_context=SPAWN) as pool:
        jobs = [
            pool.submit(train, configuration("digits_editor", epochs, seed, **leaves), corpus, out / f"{name} {seed}")
            for seed in range(seeds)
            for name, leaves in VARIANTS.items()
            if not (out / f"{name} {seed}" / "history.json").is_file()
        ]
        for job in jobs:
            job.result()
    print("| the editor learns from | dev CER of the draft | after 1 step | seeds |\n| - | - | - | - |")
    for name in VARIANTS:
        rows = [json.loads((out / f"{name} {seed}" / "history.json").read_text())[-1] for seed in range(seeds)]
        draft, edited = ([row[key] for row in rows] for key in ("val_ctc_cer", "val_one_step_cer"))
        each = ", ".join(f"{value:.2%}" for value in edited)
        print(f"| {name} | {statistics.mean(draft):.2%} | {statistics.mean(edited):.2%} | {each} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("editing"))
    parser.add_argument("--variants", action="store_true", help="what the editor learns from, in place of the above")
    options = parser.parse_args()
    if options.variants:
        try_variants(options.corpus, options.epochs, options.seeds, options.out)
        return
    about = options.out / "plan.json"
    options.out.mkdir(parents=True, exist_ok=True)
    if not about.is_file():
        about.write_text(json.dumps(plan(options.corpus, options.epochs, options.out / "probe")))
    planned = json.loads(about.read_text())
    print(json.dumps(planned), flush=True)
    folders = {kind: [options.out / f"{kind} {seed}" for seed in range(options.seeds)] for kind in (EDITOR, DECODER)}
    jobs = {}
    with ProcessPoolExecutor(os.cpu_count(), mp_context=SPAWN) as pool:
        for seed in range(options.seeds):
            editor = configuration("digits_editor", planned["epochs"][EDITOR], seed)
            decoder = configuration(DIGITS, planned["epochs"][DECODER], seed, **shape(planned["width"]))
            for kind, config in {EDITOR: editor, DECODER: decoder}.items():
                if not (folders[kind][seed] / "checksums.json").is_file():
                    jobs[kind, seed] = pool.submit(train, config, options.corpus, folders[kind][seed])
        for (kind, seed), job in jobs.items():
            print(f"{kind}, seed {seed}: {job.result():.0f} s of training", flush=True)
    with ProcessPoolExecutor(1, mp_context=SPAWN) as pool:
        print_table(pool.submit(decode, options.corpus, folders).result())


if __name__ == "__main__":
    main()
