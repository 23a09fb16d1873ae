"""Space migration: trials of one space read as proposals of another.

A sweep that is resumed with a wider space keeps its trials, and a new sweep can learn from trials of earlier sweeps
(warm start). In both cases, trials count whose values the new space could have proposed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from asr_platform.study.ledger import Ledger, Storage
from asr_platform.study.recorded_space import recorded_space
from asr_platform.study.samplers import NotComparableError, check_objectives, observe, values_in
from asr_platform.study.trials.reading import FITTED
from search_spaces.distributions import as_text
from search_spaces.kinds import KIND, has_meaning
from search_spaces.samplers import SAMPLERS
from search_spaces.space import STRUCTURED, Space
from trainables.config.former_keys import FORMER_TYPES, REPLACING
from trainables.config.model import RECOGNISERS
from trainables.config.parsing import flatten
from trainables.errors import InputError
from trainables.evaluation.metrics import OBJECTIVES, objective

MOST_PROBLEMS = 5  # in one message


def restated(params: Mapping[str, Any], origin: Space, space: Space) -> dict[str, Any]:
    """Values in `space` of a trial with the values `params` in `origin`, including keys searched only in `space`.

    Raises:
        NotComparableError: `space` excludes a value.
    """
    fitted = [space.fit.key] if space.fit else []
    values = {key: _value(key, params, origin) for key in [*space.vary, *fitted]}
    return values_in(space, {key: value for key, value in values.items() if space.is_active(key, values)})


def _value(key: str, params: Mapping[str, Any], origin: Space) -> Any:
    if key in REPLACING:
        return _leaves(origin, params)[key]  # whose space may have the former keys
    if key in FORMER_TYPES and key not in params and key not in origin.base:
        raise NotComparableError(f"{key}: a former key, which the trial does not have")
    value = origin.value(key, params)
    return as_text(value) if key in STRUCTURED and key not in params else value


def check_widening(trials: Mapping[int, Mapping[str, Any]], origin: Space, space: Space) -> dict[int, dict[str, Any]]:
    """Values of a sweep's trials in a new `space` with which the sweep is resumed, by number of the trial.

    Args:
        trials: values of the trials in `origin`, by number.

    Raises:
        InputError: trials would not be comparable with new ones, or a trial would have another model in `space`.
    """
    for key, why in (
        ("epochs", "early stopping compares trials of one length"),
        ("objectives", "they rank trials"),
        ("rules", "all trials keep the same"),
    ):
        before, after = getattr(origin.settings, key), getattr(space.settings, key)
        if before != after:
            raise InputError(
                f"{space.source}: {key}: a sweep cannot change it ({why}): it was {before}, not {after}",
                "Leave it as it was, or start a new sweep.",
            )
    values, problems = {}, []
    for number, params in trials.items():
        try:
            values[number] = restated(params, origin, space)
        except NotComparableError as error:
            problems.append(f"trial {number}: {error}")
            continue
        then, now = _leaves(origin, params), _leaves(space, values[number])
        changed = [key for key in now if then[key] != now[key] and _is_learnt(key, now)]
        problems += [f"trial {number}: {key} was {then[key]!r}, not {now[key]!r}" for key in changed]
    if problems:
        more = [f"and {len(problems) - MOST_PROBLEMS} more"] if len(problems) > MOST_PROBLEMS else []
        raise InputError(
            f"{space.source}: the sweep's trials do not fit: " + "; ".join(problems[:MOST_PROBLEMS] + more),
            "Keep what they had among what varies, or start a new sweep.",
        )
    return values


def _is_learnt(key: str, leaves: Mapping[str, Any]) -> bool:
    """Whether what is learnt depends on a key of a configuration, but for rounding and the draws of dropout."""
    kind = leaves[KIND]
    if key == "training.pass_seconds":  # see `tasks/passes.py`
        normed = leaves["model.encoder_block"] == "conformer" and leaves["model.conv_norm"] == "batch"
        return normed or kind == "transcript_editor"
    return has_meaning(key, kind) and not (key == "training.update_tokens" and kind in RECOGNISERS)


def _with_keys_of_today(params: Mapping[str, Any], origin: Space, space: Space) -> dict[str, Any]:
    """Values of a trial of `origin` with the keys in `space` that replace former ones."""
    leaves = _leaves(origin, params)
    return {
        **{key: value for key, value in params.items() if key not in FORMER_TYPES},
        **{key: leaves[key] for key in REPLACING if key in space.vary},
    }


def _leaves(space: Space, values: Mapping[str, Any]) -> dict[str, Any]:
    return dict(flatten(space.config(values).model_dump()))


def earlier_trials(
    storage: Storage, names: Iterable[str], space: Space, corpus_hash: str
) -> tuple[list[dict[str, Any]], list[str]]:
    """The finished trials of earlier sweeps that `space` could have proposed, for the sampler of a new sweep.

    The new ledger keeps copies of these trials, so the earlier sweeps may be deleted.

    Returns:
        The trials as JSON objects (`samplers.Observation`), and a line for each sweep: the number of its trials that
        fit, and reasons why others do not.

    Raises:
        InputError: there is no sweep of one of the names.
    """
    observations, lines = [], []
    for name in dict.fromkeys(names):
        found, line = _observations(Ledger.open(storage, name), space, corpus_hash)
        observations += found
        lines.append(f"warm start from {name}: {line}")
    return observations, lines


def _observations(ledger: Ledger, space: Space, corpus_hash: str) -> tuple[list[dict[str, Any]], str]:
    ranked_by = "val_cer" if space.is_recogniser else "val_character_perplexity"
    fit: list[dict[str, Any]] = []
    reasons: Counter[str] = Counter()
    for trial, record in zip(ledger.frozen(), ledger.trials(), strict=True):
        if record.state not in ("complete", "pruned") or record.best is None:
            continue
        solved = [key for key in trial.user_attrs.get(FITTED, {}) if key not in space.vary]
        params = {key: value for key, value in record.params.items() if key not in solved}
        if params.keys() & FORMER_TYPES.keys():
            params = _with_keys_of_today(params, recorded_space(ledger.about), space)
        seen = observe(trial, params)
        try:
            if objective(record.best) != ranked_by:
                raise NotComparableError(f"ranked by {OBJECTIVES[objective(record.best)]}")
            values_in(space, seen.params)
            check_objectives(space.settings, seen)
        except NotComparableError as reason:
            reasons[str(reason)] += 1
        else:
            fit.append({**asdict(seen), "notes": {}})
    line = f"{len(fit)} of {len(fit) + reasons.total()} trials fit"
    if reasons:
        line += f" ({'; '.join(f'{count}: {reason}' for reason, count in reasons.most_common())})"
    about, settings = ledger.about, space.settings
    if about.get("corpus_hash") != corpus_hash:
        line += "; its corpus is another"
    if about["epochs"] != settings.epochs:
        line += f"; its trials are of {about['epochs']} epochs, these of {settings.epochs}"
    if not SAMPLERS[settings.sampler].learns:
        line += f"; the sampler {settings.sampler} learns nothing from them"
    return fit, line
