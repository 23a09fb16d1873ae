"""Records learning curves of random configurations of a space: the tables that search policies are tried on.

    platform prepare fsdd FSDD --train 600 --out corpora/digits600
    python tests/benchmarks/record_curves.py corpora/digits600 tests/assets/curves/digits.yaml [--configurations 64]
    platform prepare synthetic --train 250 --out corpora/commands
    python tests/benchmarks/record_curves.py corpora/commands tests/assets/curves/commands.yaml [--configurations 80]

The table is written beside the space, as `.jsonl`. Configuration number i is the i-th draw from the space, whoever
trains it and when. Each is trained in a process with one thread, and each epoch's row has the CPU seconds that it took:
other work on the machine changes those little. Lines are added as configurations end, so an interrupted recording can
be continued.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import optuna

from search_spaces.counting import count_parameters
from search_spaces.reader import load_space
from search_spaces.space import Space

optuna.logging.set_verbosity(optuna.logging.WARNING)
KEPT = ("val_cer", "val_ctc_cer", "audio_hours", "updates")  # of each epoch's metrics


def values_of(space: Space, number: int) -> dict[str, Any]:
    """The values of the varied keys in configuration `number`."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=number))
    return space.propose(study.ask())


def record(number: int, corpus: Path, path: Path) -> dict[str, Any]:
    """Trains one configuration; returns its line of the table. A training that diverges has a shorter curve."""
    import torch

    from trainables.data.corpus import Corpus
    from trainables.errors import DivergedError
    from trainables.training.loop import Trainer

    torch.set_num_threads(1)
    space = load_space(str(path))
    values = values_of(space, number)
    config = space.config(values)
    data = Corpus.open(corpus)
    trainer = Trainer(config, data, torch.device("cpu"))
    trained: Any = trainer.task.trained
    parameters = count_parameters(config, trained.tokenizer.vocabulary, data.recipe.bins)
    curve, reason = [], ""
    for epoch in range(1, config.training.epochs + 1):
        start = time.process_time()
        try:
            row = trainer.epoch(epoch)
        except DivergedError as error:
            reason = str(error)
            break
        trainer.history.append(row)
        kept = {key: round(row[key], 5) for key in KEPT}
        curve.append({"epoch": epoch, **kept, "cpu_seconds": round(time.process_time() - start, 2)})
    warmup = math.ceil(config.optimizer.warmup * config.training.epochs)
    return {"number": number, "parameters": parameters, "warmup_epochs": warmup, "reason": reason,
            "values": values, "curve": curve}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("space", type=Path)
    parser.add_argument("--configurations", type=int, default=64)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    table, known = options.space.with_suffix(".jsonl"), set()
    if table.is_file():
        known = {json.loads(line)["number"] for line in table.read_text().splitlines()}
    wanted = [number for number in range(options.configurations) if number not in known]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.processes, mp_context=spawn) as pool, table.open("a") as file:
        for job in as_completed([pool.submit(record, number, options.corpus, options.space) for number in wanted]):
            line = job.result()
            print(json.dumps(line), file=file, flush=True)
            best = min((row["val_cer"] for row in line["curve"]), default=math.inf)
            seconds = sum(row["cpu_seconds"] for row in line["curve"])
            print(f"configuration {line['number']}: {best:.2%} in {seconds:.0f} CPU seconds", flush=True)


if __name__ == "__main__":
    main()
