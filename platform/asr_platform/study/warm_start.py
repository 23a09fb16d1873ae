"""Warm starts: what earlier sweeps have found out, for the sampler of a new one.

The trials are copied into what the new ledger is begun with, so the earlier sweeps may be deleted. They are never
trials of the new sweep: it neither counts nor lists them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from asr_platform.study.ledger import Ledger
from asr_platform.study.samplers import Misfit, check_objectives, fitting, observe
from search_spaces.space import DEFAULTS, Space
from trainables.evaluation.metrics import OBJECTIVES, objective

DEAF = ("random", "grid")  # samplers that learn from no trial


def gather(
    storage: str, names: Iterable[str], space: Space, corpus_hash: str
) -> tuple[list[dict[str, Any]], list[str]]:
    """The finished trials of these sweeps that the space could have proposed, as observations.

    Returns:
        They, as plain values, and for people a line a sweep: how many fit, and why others do not.

    Raises:
        InputError: there is no sweep of one of these names.
    """
    observations, lines = [], []
    for name in dict.fromkeys(names):
        found, line = _of(Ledger.open(storage, name), space, corpus_hash)
        observations += found
        lines.append(f"warm start from {name}: {line}")
    return observations, lines


def _of(ledger: Ledger, space: Space, corpus_hash: str) -> tuple[list[dict[str, Any]], str]:
    kind = space.base.get("model.kind", DEFAULTS["model.kind"])
    ranked_by = "val_character_perplexity" if kind == "language_model" else "val_cer"
    fit: list[dict[str, Any]] = []
    misfits: Counter[str] = Counter()
    for trial, record in zip(ledger.frozen(), ledger.trials(), strict=True):
        seen = observe(trial)
        if seen is None or seen.state == "running" or record.best is None:
            continue
        try:
            if objective(record.best) != ranked_by:
                raise Misfit(f"ranked by {OBJECTIVES[objective(record.best)]}")
            fitting(space, seen.params)
            check_objectives(space.settings, seen)
        except Misfit as reason:
            misfits[str(reason)] += 1
        else:
            fit.append({**asdict(seen), "generation": 0})
    line = f"{len(fit)} of {len(fit) + misfits.total()} trials fit"
    if misfits:
        line += f" ({'; '.join(f'{count}: {reason}' for reason, count in misfits.most_common())})"
    about = ledger.about
    if about.get("corpus_hash") != corpus_hash:
        line += "; its corpus is another"
    if about["epochs"] != space.settings.epochs:
        line += f"; its trials are of {about['epochs']} epochs, these of {space.settings.epochs}"
    if space.settings.sampler in DEAF:
        line += f"; the sampler {space.settings.sampler} learns nothing from them"
    return fit, line
