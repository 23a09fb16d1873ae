"""The best configurations of a sweep once more, from other seeds: was it the configuration, or luck?

The best of many trials is also the luckiest of them. So each of the best few is trained again from several seeds that
the sweep has not used, at full length, and they are ranked by their means. That is a sweep of its own, whose space
starts with these trainings and has no others: it is recorded, shown and resumed like any.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import Any

import yaml

from asr_platform.analysis.leaderboard import ranked
from asr_platform.storage.home import Home
from asr_platform.study.callbacks import Display
from asr_platform.study.ledger import Ledger, TrialRecord
from asr_platform.study.recorded_space import recorded_space
from asr_platform.tuning import sweep as sweeps
from asr_platform.tuning.cluster import Options
from search_spaces.distributions import as_text
from search_spaces.reader import parse_space
from search_spaces.settings import Limits
from search_spaces.space import STRUCTURED, Space
from trainables.config import Config
from trainables.config_parsing import flatten, parse_config, unflatten
from trainables.data.corpus import Corpus
from trainables.errors import InputError
from trainables.evaluation.metrics import objective_value

SEED, EPOCHS = "training.seed", "training.epochs"


@dataclass(frozen=True)
class Candidate:
    """A configuration to be confirmed.

    Args:
        trial: the sweep's that had it.
        leaves: the whole of it, but for its seed and its length.
        active: its values of the keys in which the candidates differ; those that do not apply to it are left out.
    """

    trial: TrialRecord
    leaves: Mapping[str, Any]
    active: Mapping[str, Any]


@dataclass(frozen=True)
class Confirmed:
    """What a configuration reached.

    Args:
        runs: one for each seed that was begun.
    """

    candidate: Candidate
    runs: list[TrialRecord] = field(default_factory=list)

    @property
    def values(self) -> list[float]:
        """The lowest CER (or perplexity) from each seed that was trained to the end."""
        return [objective_value(run.best) for run in self.runs if run.state == "complete" and run.best]

    @property
    def mean(self) -> float | None:
        """None before any seed was trained to the end."""
        return statistics.fmean(self.values) if self.values else None

    @property
    def deviation(self) -> float | None:
        """The standard deviation between seeds, of a sample."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def failed(self) -> int:
        return sum(run.state == "failed" for run in self.runs)


@dataclass(frozen=True)
class Confirmation:
    """A finished or interrupted confirmation.

    Args:
        name: its own sweep's name.
        seeds: asked of each configuration.
        results: best first: those that failed from the fewest seeds, by their means.
    """

    name: str
    seeds: int
    results: list[Confirmed]
    interrupted: bool

    def as_tree(self) -> list[dict[str, Any]]:
        """For machines, best first; `trial` and `params` are the sweep's, and rates are fractions."""
        return [
            {
                "trial": one.candidate.trial.number,
                "mean": one.mean,
                "standard_deviation": one.deviation,
                "values": one.values,
                "failed": one.failed,
                "parameters": one.candidate.trial.about.get("parameters"),
                "params": one.candidate.trial.params,
            }
            for one in self.results
        ]


def confirm(
    home: Home, name: str, top: int, seeds: int, decoding: Mapping[str, Any], data: Path | None, view: Display
) -> Confirmation:
    """Confirms a sweep's best configurations, or goes on with that; where it is done, only reads the result.

    Args:
        decoding: keys of the section `decoding` to validate with, in place of the configurations' own.
        data: where the sweep's corpus is now; default: where it was.

    Raises:
        InputError: no such sweep, its corpus is gone or another, none of its trials has finished an epoch, or
            `decoding` does not go with them.
    """
    about = Ledger.open(home.studies, name).about
    corpus = Corpus.open(data or Path(about["corpus"]))
    if corpus.hash != about["corpus_hash"]:
        raise InputError(
            f"{corpus.path}: not the corpus of the sweep {name}, so its results could not be compared",
            "Give the folder of that corpus with --data.",
        )
    trials = Ledger.open(home.studies, name).trials()
    space = recorded_space(about)
    chosen = candidates(space, trials, top, decoding)
    if not chosen:
        raise InputError(
            f"no trial of the sweep {name} has finished an epoch", f"Go on with it: platform sweep --resume {name}."
        )
    used = {space.config(trial.params).training.seed for trial in trials}
    runs = confirming(space, name, chosen, list(islice((seed for seed in count() if seed not in used), seeds)))
    earlier = [other for other in Ledger.names(home.studies) if other.startswith(f"{name}-confirm-")]
    same = [other for other in earlier if _is_of(Ledger.open(home.studies, other), runs, corpus)]
    if same:
        own, ledger = same[0], Ledger.open(home.studies, same[0])
        if not ledger.done:
            sweeps.resume(home, own, None, Limits(), None, view)
    else:
        own = f"{name}-confirm-{len(earlier) + 1}"
        sweeps.start(home, runs, corpus, own, None, Options(**about["options"]), view)
    ledger = Ledger.open(home.studies, own)
    return Confirmation(own, seeds, results(chosen, ledger.trials()), interrupted=not ledger.done)


def candidates(space: Space, trials: list[TrialRecord], top: int, decoding: Mapping[str, Any]) -> list[Candidate]:
    """The best configurations, no two alike, at most `top`."""
    chosen: list[tuple[TrialRecord, dict[str, Any]]] = []
    for trial in ranked(trials):
        leaves = _leaves(_decoding_with(space.config(trial.params), decoding))
        if trial.best and len(chosen) < top and all(leaves != other for _, other in chosen):
            chosen.append((trial, leaves))
    keys = dict.fromkeys([*space.vary, *(key for _, leaves in chosen[:1] for key in leaves)])
    varied = [key for key in keys if any(leaves.get(key) != chosen[0][1].get(key) for _, leaves in chosen)]
    return [
        Candidate(trial, leaves, {key: leaves[key] for key in varied if space.is_active(key, trial.params)})
        for trial, leaves in chosen
    ]


def confirming(space: Space, name: str, chosen: list[Candidate], seeds: list[int]) -> Space:
    """The space of a confirmation, whose `start` is all of its trials; `space` is what the sweep `name` searched."""
    choices: dict[str, list[Any]] = {}
    for candidate in chosen:
        for key, value in candidate.active.items():
            if value not in choices.setdefault(key, []):
                choices[key].append(value)
    vary: dict[str, Any] = {}
    for key, values in choices.items():
        conditions = {
            parent: [value for value in allowed if value in choices[parent]]
            for parent, allowed in (space.vary[key].when.items() if key in space.vary else ())
            if parent in choices
        }
        vary[key] = {"choice": values, **({"when": conditions} if conditions else {})}
    tree = {
        "base": unflatten(chosen[0].leaves),
        "vary": {**vary, SEED: {"choice": seeds}},
        # Every configuration, then the next seed: an interrupted confirmation has them all on equal terms.
        "start": [{**candidate.active, SEED: seed} for seed in seeds for candidate in chosen],
        "trials": len(seeds) * len(chosen),
        "epochs": space.settings.epochs,
        "asha": {"grace": space.settings.epochs},  # nothing stops early
        "budget": space.settings.budget,
    }
    return parse_space(yaml.safe_dump(tree, sort_keys=False), f"{name}-confirm.yaml")


def results(chosen: list[Candidate], found: list[TrialRecord]) -> list[Confirmed]:
    """What became of each candidate, best first."""
    confirmed = [Confirmed(candidate) for candidate in chosen]
    for one in confirmed:
        values = {key: as_text(value) if key in STRUCTURED else value for key, value in one.candidate.active.items()}
        one.runs.extend(run for run in found if {**run.params, SEED: None} == {**values, SEED: None})
    return sorted(confirmed, key=lambda one: (one.mean is None, one.failed, one.mean))


def _is_of(ledger: Ledger, space: Space, corpus: Corpus) -> bool:
    """Whether a sweep is this confirmation, begun earlier."""
    return (ledger.about["space"], ledger.about["corpus_hash"]) == (space.text, corpus.hash)


def _decoding_with(config: Config, changes: Mapping[str, Any]) -> Config:
    tree = config.model_dump(mode="json")
    return parse_config({**tree, "decoding": {**tree["decoding"], **changes}}, "this search")


def _leaves(config: Config) -> dict[str, Any]:
    return {key: value for key, value in flatten(config.model_dump(mode="json")) if key not in (SEED, EPOCHS)}
