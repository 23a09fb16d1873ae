"""Errors in voices and noise that a training has not heard: each speaker of FSDD is held out in turn. Run by hand.

    python tests/benchmarks/new_voices.py FSDD WORK BASE [BASE...] [--seeds 0 1 2] [--speakers NAME...] [--report]

BASE is a search space, whose base is trained on connected digits of the other speakers; seeds are of weights, batches
and augmentation. The model of the last epoch is scored on the dev split (other takes of the voices it was trained on),
and on the speaker held out: by greedy search, by joint search as `decoding.method: joint` has it, and by greedy search
with white, pink and babble noise at 10 dB. Corpora and results are kept in WORK: an interrupted run goes on, and
`--report` prints what is there. Every training has one thread, and its CPU seconds are those of training and
validation.

Errors of a base are means over seeds and then over speakers; intervals (95%) are of a bootstrap over speakers. Bases
are compared with the first one, on the same speakers and seeds.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from asr_platform.inference.conditions import CLEAN, NOISES
from search_spaces.reader import load_space
from trainables.data.importers.fsdd import fsdd_utterances

CONDITIONS = [CLEAN, *(f"{noise} 10 dB" for noise in NOISES)]  # of the speaker held out
# Name of each score, and its split, method of search and conditions.
SCORES = {
    "dev": ("dev", "greedy", CLEAN),
    "dev, joint": ("dev", "joint", CLEAN),
    **{name: ("test", "greedy", name) for name in CONDITIONS},
    "clean, joint": ("test", "joint", CLEAN),
}


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
        return [Path(self.base).stem, self.speaker, self.seed, self.train, self.test]


def corpus_without(speaker: str, recordings: Path, work: Path, train: int, test: int) -> Path:
    """The corpus whose test split is this speaker, prepared once."""
    from trainables.data.features import FeatureRecipe
    from trainables.data.prepare import prepare

    folder = work / f"without-{speaker}-{train}-{test}"
    if not (folder / "corpus.json").is_file():
        utterances = fsdd_utterances(recordings, [speaker], train=train, dev=test, test=test)
        prepare(utterances, FeatureRecipe(), folder, "fsdd", jobs=1)
    return folder


def score(run: Run) -> dict[str, Any]:
    """Trains and scores; WER and CER as fractions."""
    import torch

    from asr_platform.inference.conditions import errors_in_conditions
    from trainables.data.corpus import Corpus
    from trainables.inference.decoding_options import decoding_with
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
    for name, (split, method, condition) in SCORES.items():
        search = recognizer.search(decoding_with(recognizer.config, {"method": method}))
        ((_, errors),) = errors_in_conditions(recognizer, corpus.split(split), [condition], search=search)
        rows[name] = {"cer": round(errors.cer, 5), "wer": round(errors.wer, 5)}
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
    rows = [row for row in rows if SCORES.keys() <= row["errors"].keys()]  # others are of an earlier version
    runs = [Run(base, speaker, seed, options.recordings, options.work, options.train, options.test)
            for seed in options.seeds for speaker in speakers for base in options.bases]  # fmt: skip
    known = [row["key"] for row in rows]
    missing = [] if options.report else [run for run in runs if run.key not in known]
    for speaker in {run.speaker for run in missing}:  # before two trainings make the same one
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
    """Prints a table of the errors of each base, on the speakers and seeds that the first base has too."""
    done = {base: {tuple(row["key"][1:]): row for row in rows if row["key"][0] == base} for base in bases}
    print(f"{'base':>16}  {'scored on':>12}  {'CER':>6}  {'WER':>6}  {'interval':>13}  {'of the first':>20}")
    for base, own in done.items():
        common = [key for key in own if key in done[bases[0]]]
        for name in SCORES if common else ():
            cer_S = by_speaker([own[key] for key in common], name, "cer")
            pairs_S2 = np.stack(
                [by_speaker([each[key] for key in common], name, "wer") for each in (own, done[bases[0]])], axis=1
            )
            low, high = interval(pairs_S2, lambda pairs: float(pairs[:, 0].mean()))
            least, most = interval(pairs_S2, ratio)
            print(f"{base:>16}  {name:>12}  {cer_S.mean():6.1%}  {pairs_S2[:, 0].mean():6.1%}"
                  f"  {100 * low:5.1f}–{high:6.1%}  {ratio(pairs_S2):6.2f} [{least:.2f}, {most:.2f}]")  # fmt: skip
        seconds = [own[key]["cpu_seconds"] for key in common]
        print(f"{base:>16}  {len(common)} trainings of {np.mean(seconds or 0):.0f} CPU seconds")


def by_speaker(rows: list[dict[str, Any]], name: str, rate: str) -> npt.NDArray[np.float64]:
    """Error rates of the speakers held out (S,), in alphabetical order, means over seeds."""
    found: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault(row["key"][1], []).append(row["errors"][name][rate])
    return np.array([np.mean(found[speaker]) for speaker in sorted(found)])


def ratio(pairs_S2: npt.NDArray[np.float64]) -> float:
    """Mean error rate of the first column over that of the second."""
    return float(pairs_S2[:, 0].mean() / pairs_S2[:, 1].mean())


def interval(
    values_S2: npt.NDArray[np.float64], statistic: Callable[[npt.NDArray[np.float64]], float]
) -> tuple[float, float]:
    """95% interval of a statistic of speakers, which a bootstrap draws."""
    random = np.random.default_rng(0)
    drawn = [statistic(values_S2[random.integers(0, len(values_S2), len(values_S2))]) for _ in range(2000)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


if __name__ == "__main__":
    main()
