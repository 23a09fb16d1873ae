"""How long an epoch of 100 hours takes on this machine's GPU, as a Markdown table for BENCHMARKS.md.

    python tests/benchmarks/gpu_table.py --space hw4p2 --seconds 180 720 2160 --compile never always

The training loop itself runs some updates on generated features of LibriSpeech's lengths: no corpus, no Ray, no MLflow.
An update is one pass here. An epoch's seconds are those of its audio at the measured rate; a validation's are those of
dev-clean's 5.4 hours, by an untrained model. What streaming costs is seen with and without --streamed. Rows are printed
as they are measured, and none is begun after --limit.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from pathlib import Path

import torch
from noise_corpus import noise_corpus
from step_counts import NARROW

from search_spaces.reader import load_space
from trainables.config.tree import Config
from trainables.data.corpus import Corpus
from trainables.data.device import DeviceMemory
from trainables.data.device.placement import default_device
from trainables.training.loop import Trainer

EPOCH_SECONDS, VALIDATION_SECONDS = 100.6 * 3600, 5.4 * 3600  # of train-clean-100, and of dev-clean
WARM_UP = 4  # updates before the clock starts: kernels are chosen, and layers compiled
HEADING = "| pass | layers | audio a second | epoch of 100 h | validation | padding | memory |"


def configuration(space: str, narrow: bool, tokenizer: str | None) -> Config:
    """The base of a space; `narrow` with small layers, for a trial without a GPU."""
    tree = load_space(space).config({}).model_dump()
    if narrow:
        tree["model"] |= NARROW
    if tokenizer is not None:
        tree["tokenizer"] = {"kind": tokenizer}
    tree["data"]["validation"] = "train"
    return Config.model_validate(tree)


def now(device: torch.device) -> float:
    """Seconds on the clock once the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def measured(config: Config, corpus: Corpus, device: torch.device, compiled: bool, updates: int) -> str:
    """A row of the table: some updates, then a validation."""
    trainer = Trainer(config, corpus, device)
    trainer.enter(trainer.phases[-1])
    if compiled:
        trainer.compile()
    trainer.model.train()
    sums = torch.zeros(len(trainer.task.SUMS), device=device, dtype=torch.float64)
    audio, padded, start, done = 0.0, 0.0, now(device), 0
    for epoch in itertools.count(1):
        trainer.task.start_epoch(epoch, [])
        for batches in trainer.updates_of(min(epoch, len(trainer.phases))):
            if done == WARM_UP:
                audio, padded, start = 0.0, 0.0, now(device)
            trainer.accumulate_gradients(batches, config.loss, sums)
            trainer.optimizer.step()
            trainer.optimizer.zero_grad(set_to_none=True)
            audio += sum(float(trainer.task.amounts[batch.indices].sum()) for batch in batches)
            padded += sum(len(batch.indices) * batch.edge for batch in batches)
            done += 1
            if done == WARM_UP + updates:
                break
        if done == WARM_UP + updates:
            break
    rate = audio / (now(device) - start)
    memory = torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else 0.0
    start = now(device)
    trainer.validate()
    validation = (now(device) - start) * VALIDATION_SECONDS / float(trainer.task.amounts.sum())
    hop = corpus.recipe.frames_per_second
    return (
        f"| {config.training.update_seconds:g} s | {'compiled' if compiled else 'as they are'} | {rate:,.0f} s "
        f"| {EPOCH_SECONDS / rate:.1f} s | {validation:.1f} s | {1 - audio * hop / padded:.1%} | {memory:.1f} GB |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="hw4p2", help="the search space whose base is trained")
    parser.add_argument("--hours", type=float, default=4.0, help="hours of generated features")
    parser.add_argument("--seconds", type=float, nargs="+", default=[180, 720, 2160], help="audio of a pass")
    parser.add_argument("--compile", nargs="+", choices=["never", "always"], default=["never", "always"])
    parser.add_argument("--updates", type=int, default=30, help="updates of each row")
    parser.add_argument("--limit", type=float, default=360.0, help="seconds after which no row is begun")
    parser.add_argument("--tokenizer", help="instead of the space's: char")
    parser.add_argument("--streamed", action="store_true", help="as if the GPU had no room for features")
    parser.add_argument("--narrow", action="store_true", help="small layers, to try the script without a GPU")
    options = parser.parse_args()
    begin, device = time.perf_counter(), default_device()
    torch.set_float32_matmul_precision("highest")
    if options.streamed:
        DeviceMemory.of = lambda device: DeviceMemory(total=1, free=1)  # type: ignore[method-assign, assignment]
    config = configuration(options.space, options.narrow, options.tokenizer)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    features = "streamed features" if options.streamed else "features on the device"
    print(f"{name}, torch {torch.__version__}, base of {options.space}, {features}\n\n{HEADING}")
    print("| --- " * (HEADING.count("|") - 1) + "|")
    with tempfile.TemporaryDirectory() as folder:
        corpus = noise_corpus(Path(folder) / "noise", options.hours)
        for choice, seconds in itertools.product(options.compile, options.seconds):
            if time.perf_counter() - begin > options.limit:
                print(f"\nAfter {options.limit:g} s no more rows were begun.")
                break
            changed = config.training.model_copy(update={"update_seconds": seconds, "pass_seconds": seconds})
            row = measured(
                config.model_copy(update={"training": changed}), corpus, device, choice == "always", options.updates
            )
            print(row, flush=True)


if __name__ == "__main__":
    main()
