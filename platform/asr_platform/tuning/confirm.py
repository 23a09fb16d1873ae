"""Trains the best configurations of a sweep again from other seeds, to tell better configurations from luck.

The best configurations are trained at full length from seeds that the sweep has not used, and ranked by their means.
Where the sweep validates on a fold of the training speakers (`data.folds`), each seed is trained once for every fold. A
confirmation is a sweep of its own, whose space lists all its trials under `start`: it is recorded, shown and resumed
like any sweep.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import count, islice, product
from pathlib import Path
from typing import Any

import yaml

from asr_platform.analysis.leaderboard import ranked
from asr_platform.analysis.learning import REMEDIES, nothing_learned
from asr_platform.storage.home import Home
from asr_platform.study.callbacks import Display
from asr_platform.study.ledger import Ledger, TrialRecord
from asr_platform.study.recorded_space import recorded_space
from asr_platform.tuning import sweep as sweeps
from asr_platform.tuning.cluster import Options
from search_spaces.distributions import as_text
from search_spaces.kinds import KIND, has_meaning
from search_spaces.reader import parse_space
from search_spaces.settings import Limits
from search_spaces.space import DEFAULTS, STRUCTURED, Space
from trainables.config.parsing import flatten, parse_config, unflatten
from trainables.config.tree import Config
from trainables.data.corpus import Corpus
from trainables.errors import InputError
from trainables.evaluation.metrics import objective_value

SEED, EPOCHS, FOLD = "training.seed", "training.epochs", "data.fold"
REPEATED = (SEED, FOLD)  # keys in which the runs of one configuration differ


@dataclass(frozen=True)
class ConfirmedConfiguration:
    """A configuration that is confirmed.

    Args:
        trial: trial of the sweep that has the configuration.
        leaves: all values of the configuration by key, except for the seed, the fold and the number of epochs.
        active: values of the active keys in which the candidates differ.
        runs: trials of the confirmation with this configuration, one for each seed and fold.
    """

    trial: TrialRecord
    leaves: Mapping[str, Any]
    active: Mapping[str, Any]
    runs: list[TrialRecord] = field(default_factory=list)

    @property
    def values(self) -> list[float]:
        """Lowest validation CER (or perplexity) of each complete run."""
        return [objective_value(run.best) for run in self.runs if run.state == "complete" and run.best]

    @property
    def mean(self) -> float | None:
        """Mean of `values`; None without a complete run."""
        return statistics.fmean(self.values) if self.values else None

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation of `values`; None for fewer than two."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def failed(self) -> int:
        """Number of failed runs."""
        return sum(run.state == "failed" for run in self.runs)


@dataclass(frozen=True)
class Confirmation:
    """A finished or interrupted confirmation.

    Args:
        name: name of the confirmation's sweep.
        seeds: number of seeds of each configuration.
        folds: number of folds that each seed is trained for; 1: all validate on the same split.
        results: candidates with a complete run before others, then by number of failed runs, then by mean; of several
            folds, which differ, those with more complete runs come before the others.
    """

    name: str
    seeds: int
    results: list[ConfirmedConfiguration]
    interrupted: bool
    folds: int = 1

    def as_tree(self) -> list[dict[str, Any]]:
        """Results of the confirmation as JSON objects, best first; error rates are fractions.

        `trial` and `params` are the number and the values of the confirmed trial.
        """
        return [
            {
                "trial": one.trial.number,
                "mean": one.mean,
                "standard_deviation": one.deviation,
                "values": one.values,
                "failed": one.failed,
                "parameters": one.trial.about.get("parameters"),
                "params": one.trial.params,
            }
            for one in self.results
        ]


def confirm(
    home: Home, name: str, top: int, seeds: int, decoding: Mapping[str, Any], data: Path | None, display: Display
) -> Confirmation:
    """Starts or resumes the confirmation of a sweep's best configurations; a complete one is only read.

    Args:
        top: number of configurations.
        seeds: number of seeds for each.
        decoding: keys of the configuration's section `decoding` with new values for the validations.
        data: present folder of the sweep's corpus; default: the recorded folder.

    Raises:
        InputError: the sweep does not exist, its corpus is missing or has changed, none of its trials has finished an
            epoch or has learned something, or `decoding` does not fit the configurations.
    """
    ledger = Ledger.open(home.studies, name)
    about, trials = ledger.about, ledger.trials()
    corpus = Corpus.open(data or Path(about["corpus"]))
    if corpus.hash != about["corpus_hash"]:
        raise InputError(
            f"{corpus.path}: not the corpus of the sweep {name}, so its results could not be compared",
            "Give the folder of that corpus with --data.",
        )
    space = recorded_space(about)
    chosen = candidates(space, trials, top, decoding)
    if not chosen:
        raise InputError(
            f"no trial of the sweep {name} has finished an epoch", f"Go on with it: platform sweep --resume {name}."
        )
    if unlearned := nothing_learned(chosen[0].trial.best):
        raise InputError(
            f"the sweep {name} has learned nothing ({unlearned}), so there is nothing to confirm",
            "Try another sweep first: " + "; ".join(REMEDIES) + ".",
        )
    used = {space.config(trial.params).training.seed for trial in trials}
    unused = islice((seed for seed in count() if seed not in used), seeds)
    own_space = confirmation_space(space, name, chosen, list(unused))
    earlier = [other for other in Ledger.names(home.studies) if other.startswith(f"{name}-confirm-")]
    own = next((other for other in earlier if _has(Ledger.open(home.studies, other), own_space, corpus)), None)
    if own is None:
        own = f"{name}-confirm-{len(earlier) + 1}"
        options = replace(Options(**about["options"]), tune_decoding=False)
        sweeps.start(home, own_space, corpus, own, None, options, display)
    elif not Ledger.open(home.studies, own).done:
        sweeps.resume(home, own, None, Limits(), None, display)
    ledger = Ledger.open(home.studies, own)
    folds = folds_of(chosen)[-1]
    return Confirmation(own, seeds, results(chosen, ledger.trials()), interrupted=not ledger.done, folds=folds)


def candidates(
    space: Space, trials: list[TrialRecord], top: int, decoding: Mapping[str, Any]
) -> list[ConfirmedConfiguration]:
    """The best `top` configurations of a sweep, or fewer if the sweep has fewer different ones."""
    chosen: list[tuple[TrialRecord, dict[str, Any]]] = []
    for trial in ranked(trials):
        if len(chosen) == top:  # `decoding` need not fit the kinds of model of the others
            break
        leaves = _leaves(_decoding_with(space.config(trial.params), decoding))
        if trial.best and all(leaves != other for _, other in chosen):
            chosen.append((trial, leaves))
    keys = dict.fromkeys([*space.vary, *(key for _, leaves in chosen[:1] for key in leaves)])
    varied = [key for key in keys if any(leaves.get(key) != chosen[0][1].get(key) for _, leaves in chosen)]
    return [
        ConfirmedConfiguration(
            trial, leaves, {key: leaves[key] for key in varied if space.is_active(key, trial.params)}
        )
        for trial, leaves in chosen
    ]


def folds_of(chosen: list[ConfirmedConfiguration]) -> list[int]:
    """The folds that a confirmation validates on: [1] where the configurations have no `data.folds`."""
    return list(range(1, (chosen[0].leaves["data.folds"] or 1) + 1))


def confirmation_space(space: Space, name: str, chosen: list[ConfirmedConfiguration], seeds: list[int]) -> Space:
    """Space of a confirmation of the sweep `name`, which was searched with `space`; `start` lists all trials."""
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
    base = dict(chosen[0].leaves)
    if KIND in choices:  # keys of one kind are the sweep's base in models of the other
        own = [key for key in choices if not all(has_meaning(key, kind) for kind in choices[KIND])]
        base |= {key: space.base.get(key, DEFAULTS[key]) for key in own}
    folds = folds_of(chosen)
    repeated = {SEED: seeds} | ({FOLD: folds} if len(folds) > 1 else {})
    repetitions = [dict(zip(repeated, values, strict=True)) for values in product(*repeated.values())]
    tree = {
        "base": unflatten(base),
        "vary": vary | {key: {"choice": values} for key, values in repeated.items()},
        # All configurations with the first seed and fold come first, so that an interrupted confirmation can rank them.
        "start": [{**candidate.active, **repetition} for repetition in repetitions for candidate in chosen],
        "trials": len(repetitions) * len(chosen),
        "epochs": space.settings.epochs,
        "asha": {"grace": space.settings.epochs, "promotion": None},  # nothing stops early
        "budget": space.settings.budget,
        **({"rules": space.settings.rules} if space.settings.rules else {}),  # absent in earlier confirmations
    }
    return parse_space(yaml.safe_dump(tree, sort_keys=False), f"{name}-confirm.yaml")


def results(chosen: list[ConfirmedConfiguration], found: list[TrialRecord]) -> list[ConfirmedConfiguration]:
    """The candidates with their runs among the trials of a confirmation, best first."""
    for one in chosen:
        values = {key: as_text(value) if key in STRUCTURED else value for key, value in one.active.items()}
        one.runs.extend(run for run in found if _unrepeated(run.params) == _unrepeated(values))
    folds = any(FOLD in run.params for run in found)
    return sorted(chosen, key=lambda one: (one.mean is None, one.failed, -len(one.values) * folds, one.mean))


def _unrepeated(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in REPEATED}


def _has(ledger: Ledger, space: Space, corpus: Corpus) -> bool:
    return (ledger.about["space"], ledger.about["corpus_hash"]) == (space.text, corpus.hash)


def _decoding_with(config: Config, changes: Mapping[str, Any]) -> Config:
    tree = config.model_dump(mode="json")
    return parse_config({**tree, "decoding": {**tree["decoding"], **changes}}, "this search")


def _leaves(config: Config) -> dict[str, Any]:
    return {key: value for key, value in flatten(config.model_dump(mode="json")) if key not in (*REPEATED, EPOCHS)}
