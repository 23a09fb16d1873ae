"""What each training strategy adds to a short training: best dev CER of several seeds, their mean and spread.

    platform prepare fsdd FSDD --train 1000 --out corpora/digits1000
    python tests/benchmarks/strategies.py corpora/digits1000 [--space SPACE] [--seeds 3] [--epochs 12]
        [--only NAME,NAME] [--out FILE]

Every run is the base of a space with a few keys changed, in a process of its own with one thread; the seed draws the
weights, the batches and all noise. A language model for the pretrained decoder is trained first, on the same training
text. Figures of finished runs are kept in --out, so that a run can be interrupted and gone on with.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from search_spaces.reader import load_space
from trainables.config.parsing import flatten, parse_config, unflatten
from trainables.config.tree import Config

# The base of the space digits before voices and noise that it has not heard counted: figures on record rest on it.
DIGITS = str(Path(__file__).parents[1] / "assets" / "former_digits.yaml")
AVERAGE, AVERAGED = "training.average", "average of the best 4"
LANGUAGE_MODEL = "language model"  # the place of its folder in the strategies below
STAGES = [
    {"epochs": 1, "encoder_layers": 1, "dropout": 0.0, "label_smoothing": 0.0, "data": 0.5},
    {"epochs": 1, "encoder_layers": 2, "dropout": 0.05},
]
PRETRAINED = {"pretrained.decoder": LANGUAGE_MODEL, "pretrained.frozen_epochs": 2, "pretrained.lr_scale": 0.5}
STRATEGIES: dict[str, dict[str, Any]] = {
    "base": {AVERAGE: 4},  # without it: the last epoch's own weights are validated as well
    "pretrained decoder": PRETRAINED,
    "progressive stages": {"training.stages": STAGES},
    "pretrained and progressive": {**PRETRAINED, "training.stages": STAGES},
    "layer-wise decay 0.8": {"optimizer.layer_decay": 0.8},
    "half rate for the decoder": {"optimizer.groups": [{"pattern": "decoder.*", "lr_scale": 0.5}]},
    "cosine with 2 restarts": {"optimizer.schedule": "cosine_restarts"},
    "plateau": {"optimizer.schedule": "plateau", "optimizer.patience": 1},
    "Noam": {"optimizer.schedule": "noam"},
    "one-cycle": {"optimizer.schedule": "one_cycle", "optimizer.warmup": 0.3},
    "speed perturbation 0.1": {"data.speed_perturbation": 0.1},
    "time warp 10": {"specaugment.time_warp": 10},
    "guided attention": {"loss.attention_weight": 1.0},
    "no guided attention": {"loss.attention_weight": 0.0},
    "adamw": {"optimizer.name": "adamw"},
    "muon": {"optimizer.name": "muon"},
    "muon at 5e-3": {"optimizer.name": "muon", "optimizer.lr": 5e-3},
    "moving average 0.99": {"training.ema": 0.99},
}


def configuration(space: str, epochs: int, seed: int, leaves: Mapping[str, Any]) -> Config:
    """The space's base with these leaves in place of its own."""
    base = load_space(space).config({}).model_dump(mode="json")
    base["training"]["average"] = 1
    own = {"training.epochs": epochs, "training.seed": seed, **leaves}
    return parse_config(unflatten({**dict(flatten(base)), **own}), "strategy")


def trained(config: Config, corpus: Path, folder: Path | None = None) -> list[dict[str, Any]]:
    """Trains in this process with one thread; returns the history, and leaves the model in `folder`."""
    import torch

    from trainables.data.corpus import Corpus
    from trainables.training.loop import train

    torch.set_num_threads(1)
    history: list[dict[str, Any]] = []
    model = train(config, Corpus.open(corpus), lambda metrics, save: history.append(metrics))
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        model.save(folder)
    return history


def language_model(space: str, corpus: Path, folder: Path) -> None:
    """One that fits the decoder of the base."""
    if not folder.is_dir():
        leaves = {"model.kind": "language_model", "optimizer.lr": 3e-3, "training.update_tokens": 1024}
        history = trained(configuration(space, 15, 0, leaves), corpus, folder)
        print(f"language model: {history[-1]['val_character_perplexity']:.3f} a character", flush=True)


def setting(space: str, epochs: int, corpus: Path) -> dict[str, Any]:
    """Corpus, space and number of epochs of a training; figures are compared only where these are equal."""
    return {"corpus": str(corpus.resolve()), "space": space, "epochs": epochs}


def run(name: str, space: str, seed: int, epochs: int, corpus: Path, model: Path) -> list[dict[str, Any]]:
    """The figures of one training; of the base's, those of the average too, which does not change the training."""
    leaves = {key: str(model) if value == LANGUAGE_MODEL else value for key, value in STRATEGIES[name].items()}
    start = time.perf_counter()
    history = trained(configuration(space, epochs, seed, leaves), corpus)
    own = [row.get("val_cer_single", row["val_cer"]) for row in history]
    told = {**setting(space, epochs, corpus), "seed": seed, "seconds": time.perf_counter() - start}
    rows = [{"strategy": name, "best_val_cer": min(own), "val_cer": own, **told}]
    if AVERAGE in leaves:
        averaged = history[-1]["val_cer"]
        rows.append({"strategy": AVERAGED, "best_val_cer": averaged, "val_cer": [averaged], **told})
    return rows


def print_table(results: list[dict[str, Any]]) -> None:
    base = [row["best_val_cer"] for row in results if row["strategy"] == "base"]
    print(
        "\n| strategy | dev CER, mean of seeds | spread (lowest to highest) | against base |\n| --- | --- | --- | --- |"
    )
    for name in [*STRATEGIES, AVERAGED]:
        found = [row["best_val_cer"] for row in results if row["strategy"] == name]
        if found:
            mean = statistics.mean(found)
            against = f"{mean / statistics.mean(base) - 1:+.0%}" if base and name != "base" else ""
            print(f"| {name} | {mean:.2%} | {min(found):.2%} to {max(found):.2%} ({len(found)}) | {against} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--space", default=DIGITS, help="name or file; default: the former base of the digits")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--only", help="strategies, with commas between")
    parser.add_argument("--out", type=Path, default=Path("strategies.jsonl"))
    options = parser.parse_args()
    names = options.only.split(",") if options.only else list(STRATEGIES)
    model = options.out.with_suffix(f".{Path(options.space).stem}.lm")
    if any(LANGUAGE_MODEL in STRATEGIES[name].values() for name in names):
        language_model(options.space, options.corpus, model)
    lines = options.out.read_text().splitlines() if options.out.is_file() else []
    here = setting(options.space, options.epochs, options.corpus)
    results = [row for row in map(json.loads, lines) if here.items() <= row.items()]
    known = {(row["strategy"], row["seed"]) for row in results}
    wanted = [(name, seed) for seed in range(options.seeds) for name in names if (name, seed) not in known]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=spawn) as pool, options.out.open("a") as file:
        jobs = [
            pool.submit(run, name, options.space, seed, options.epochs, options.corpus, model) for name, seed in wanted
        ]
        for job in jobs:
            for row in job.result():
                results.append(row)
                print(json.dumps(row), file=file, flush=True)
                said = f"{row['strategy']} seed {row['seed']}: {row['best_val_cer']:.2%}"
                print(f"{said} in {row['seconds']:.0f} s", flush=True)
    print_table(results)


if __name__ == "__main__":
    main()
