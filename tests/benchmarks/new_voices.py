"""Errors in voices and noise that a training has not heard: each speaker of FSDD is held out in turn. Run by hand.

    python tests/benchmarks/new_voices.py FSDD WORK BASE [BASE...] [--seeds 0 1 2] [--speakers NAME...] [--report]

BASE is a search space, whose base is trained on connected digits of the other speakers; seeds are of weights, batches
and augmentation. The model of the last epoch is scored by greedy search on the dev split (other takes of the voices it
was trained on), and on the speaker held out: as recorded, and with white, pink and babble noise at 10 dB. Corpora and
results are kept in WORK: an interrupted run goes on, and `--report` prints what is there. Every training has one
thread, and its CPU seconds are those of training and validation.

Errors of a base are means over seeds and then over speakers; intervals (95%) are of a bootstrap over speakers. Bases
are compared with the first one, on the same speakers and seeds.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from search_spaces.reader import load_space
from trainables.data.importers.fsdd import fsdd_utterances

NOISES = ("white", "pink", "babble")
SCORED = ("dev", "clean", *(f"{noise} 10 dB" for noise in NOISES))


class Run(NamedTuple):
    """One training: the space's name or file, the speaker held out, the seed, and the folder of corpora."""

    base: str
    speaker: str
    seed: int
    recordings: Path
    work: Path
    train: int
    test: int

    @property
    def key(self) -> list[str | int]:
        return [Path(self.base).stem, self.speaker, self.seed]


def corpus_without(speaker: str, recordings: Path, work: Path, train: int, test: int) -> Path:
    """The corpus whose test split is this speaker, prepared once."""
    from trainables.data.features import FeatureRecipe
    from trainables.data.prepare import prepare

    folder = work / f"without-{speaker}"
    if not (folder / "corpus.json").is_file():
        utterances = fsdd_utterances(recordings, [speaker], train=train, dev=test, test=test)
        prepare(utterances, FeatureRecipe(), folder, "fsdd", jobs=1)
    return folder


def score(run: Run) -> dict[str, Any]:
    """Trains and scores; WER and CER as fractions."""
    import torch
    from robustness import Changes, measure

    from asr_platform.inference.evaluate import references_of
    from trainables.data.corpus import Corpus
    from trainables.data.inspection.signals import audio_of
    from trainables.inference.recognizer import Recognizer
    from trainables.training.loop import Trainer

    torch.set_num_threads(1)
    corpus = Corpus.open(corpus_without(run.speaker, run.recordings, run.work, run.train, run.test))
    space = load_space(run.base)
    config = space.config({}).model_copy(deep=True)
    config = config.model_copy(update={"training": config.training.model_copy(update={"seed": run.seed})})
    trainer = Trainer(config, corpus, torch.device("cpu"))
    start = time.process_time()
    trainer.fit(lambda metrics, save: None, None, None)
    seconds = time.process_time() - start
    recognizer = trainer.task.trained
    assert isinstance(recognizer, Recognizer)
    rows: dict[str, Any] = {}
    for name in SCORED:
        split = corpus.split("dev" if name == "dev" else "test")
        audio = [samples for place in range(len(split)) if (samples := audio_of(split, place)) is not None]
        change = Changes(audio).named["clean" if name == "dev" else name]
        row = measure(recognizer, audio, change, references_of(recognizer, split), split.ids, None)
        rows[name] = {rate: round(float(row[rate]), 5) for rate in ("cer", "wer")}  # type: ignore[arg-type]
    return {"key": run.key, "cpu_seconds": round(seconds), "errors": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("bases", nargs="+")
    parser.add_argument("--speakers", nargs="+")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--train", type=int, default=3000, help="training utterances")
    parser.add_argument("--test", type=int, default=250, help="utterances of dev and of the speaker held out")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--report", action="store_true", help="train nothing")
    options = parser.parse_args()
    speakers = options.speakers or sorted({path.stem.split("_")[1] for path in options.recordings.rglob("*.wav")})
    options.work.mkdir(parents=True, exist_ok=True)
    results = options.work / "results.jsonl"
    rows = [json.loads(line) for line in results.read_text().splitlines()] if results.is_file() else []
    runs = [Run(base, speaker, seed, options.recordings, options.work, options.train, options.test)
            for seed in options.seeds for speaker in speakers for base in options.bases]  # fmt: skip
    known = [row["key"] for row in rows]
    missing = [] if options.report else [run for run in runs if run.key not in known]
    for speaker in speakers:
        corpus_without(speaker, options.recordings, options.work, options.train, options.test)
    with (
        ProcessPoolExecutor(options.processes, mp_context=multiprocessing.get_context("spawn")) as pool,
        results.open("a") as file,
    ):
        for job in as_completed([pool.submit(score, run) for run in missing]):
            rows.append(job.result())
            print(json.dumps(rows[-1]), file=file, flush=True)
            print(json.dumps(rows[-1]), flush=True)
    wanted = [run.key for run in runs]
    report([row for row in rows if row["key"] in wanted], [Path(base).stem for base in options.bases])


def report(rows: list[dict[str, Any]], bases: list[str]) -> None:
    """Prints a table of the errors of each base."""
    print(f"{'base':>16}  {'scored on':>12}  {'CER':>6}  {'WER':>6}  {'interval':>13}  {'of the first':>20}")
    for base in bases:
        for name in SCORED:
            cer_S, wer_S = (by_speaker(rows, base, name, rate) for rate in ("cer", "wer"))
            both = [speaker for speaker in wer_S if speaker in by_speaker(rows, bases[0], name, "wer")]
            first_S = by_speaker(rows, bases[0], name, "wer")
            low, high = interval(np.array([[wer_S[one]] for one in wer_S]), lambda x: float(x[:, 0].mean()))
            pairs = np.array([[wer_S[one], first_S[one]] for one in both])
            ratio = interval(pairs, lambda x: float(x[:, 0].mean() / x[:, 1].mean()))
            middle = pairs[:, 0].mean() / pairs[:, 1].mean()
            print(f"{base:>16}  {name:>12}  {np.mean(list(cer_S.values())):6.1%}  {np.mean(list(wer_S.values())):6.1%}"
                  f"  {100 * low:5.1f}–{high:6.1%}  {middle:6.2f} [{ratio[0]:.2f}, {ratio[1]:.2f}]")  # fmt: skip
        seconds = [row["cpu_seconds"] for row in rows if row["key"][0] == base]
        print(f"{base:>16}  {len(seconds)} trainings of {np.mean(seconds):.0f} CPU seconds")


def by_speaker(rows: list[dict[str, Any]], base: str, name: str, rate: str) -> dict[str, float]:
    """Error rates of the speakers held out, means over seeds."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if row["key"][0] == base:
            found.setdefault(row["key"][1], []).append(row["errors"][name][rate])
    return {speaker: float(np.mean(rates)) for speaker, rates in found.items()}


def interval(values: npt.NDArray[np.float64], statistic: Any) -> tuple[float, float]:
    """95% interval of a statistic of rows, which a bootstrap draws."""
    random = np.random.default_rng(0)
    drawn = [statistic(values[random.integers(0, len(values), len(values))]) for _ in range(2000)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


if __name__ == "__main__":
    main()
