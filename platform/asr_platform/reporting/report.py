"""One page about a sweep, for people who may not have this platform: what the ledger knows, and what follows from it.

The page needs no network: Plotly, pictures and style are in it. Its figures are those of `platform leaderboard --json`.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import yaml

from asr_platform.analysis.leaderboard import latest
from asr_platform.analysis.text import counted, enumerated, enumerated_trials, short_value
from asr_platform.reporting.findings import Findings
from asr_platform.reporting.page import (
    Html,
    Section,
    code,
    conclusion,
    facts,
    joined,
    note,
    page,
    paragraph,
    table,
    tagged,
)
from asr_platform.reporting.results import (
    attention,
    curves,
    history,
    importances,
    leaderboard,
    lengths,
    parallel,
    setting,
    size,
    speed,
    words,
)
from asr_platform.storage.home import Home
from asr_platform.study.ledger import WARM_START
from asr_platform.study.provenance import PROVENANCE, provenance
from asr_platform.study.run_record import SPENT, STOPPED
from asr_platform.study.spending import HOUR
from search_spaces.distributions import Choice, Float, Variable
from trainables.evaluation.metrics import objective_text
from trainables.folders import written_whole


def write_report(home: Home, name: str | None, out: Path | None, platform: str = "platform") -> Path:
    """Writes the page, whole or not at all; returns where it lies: `NAME.html` here, unless `out` says otherwise.

    Args:
        name: the sweep; default: the latest.
        platform: the command, for hints to copy.

    Raises:
        InputError: there is no such sweep, or the file cannot be written.
    """
    name = latest(home.studies, name)
    path = out or Path(f"{name}.html")
    with written_whole(path) as file:  # opened before the work
        file.write(report_page(Findings.gather(home, name), platform))
    return path


def report_page(found: Findings, platform: str = "platform") -> str:
    """The page; sections that have nothing to show say why."""
    contents: list[tuple[str, str, Callable[[Findings], Html]]] = [
        ("searched", "What was searched", searched),
        ("leaderboard", "Leaderboard", leaderboard),
        ("curves", "Learning curves", curves),
        ("history", "Optimisation history", history),
        ("importances", "Which keys matter", importances),
        ("parallel", "All values of all trials", parallel),
        ("size", f"{found.ranked_by} against parameters", size),
        ("speed", f"{found.ranked_by} against real-time factor", speed),
        ("lengths", "Errors by length", lengths),
        ("words", "Errors by word", words),
        ("attention", "Where the best model looks", attention),
        ("reproduce", "How to reproduce it", lambda found: reproduce(found, platform)),
    ]
    sections = [Section(id, heading, make(found)) for id, heading, make in contents]
    return page(f"Sweep {found.name}", opening(found, platform), sections)


def opening(found: Findings, platform: str) -> Html:
    """Who won, whether that is certain, and whether more is to come."""
    ended = sum(trial.state != "running" for trial in found.trials)
    asked, best = found.about["trials"], found.best
    so_far = f"{ended} of {counted(asked, 'trial')} {'has' if ended == 1 else 'have'} ended"
    to_go_on: list[str] = []
    if found.running:
        state = f"The sweep is running: {so_far}. What follows was on record when this page was written."
    elif found.done:
        state = f"The sweep is finished: {counted(len(found.trials), 'trial')}."
    else:
        cap = f" It stopped because {found.about[STOPPED]}." if found.about.get(STOPPED) else ""
        state = f"The sweep is not finished: {so_far}, and nothing is running.{cap}"
        to_go_on = ["To go on:", tagged("code", f"{platform} sweep --resume {found.name}")]
    said = paragraph(state, *to_go_on)
    if best is None or best.best is None:
        return joined([said, conclusion("No trial has finished an epoch, so there is no model.")])
    confidence = found.intervals.get(best.number)
    interval = f" (95% interval {confidence.interval})" if confidence else ""
    value = f"{found.ranked_by} {objective_text(best.best)}{interval}"
    size = f"{best.about.get('parameters', 0):,} parameters, {counted(best.epochs, 'epoch')}"
    first = f"The best is trial {best.number}: {value}, {size}."
    written = f"Written on {datetime.now(UTC):%Y-%m-%d at %H:%M} UTC."
    return joined([said, conclusion(tagged("b", first), *_certain(found, platform)), note(written)])


def _certain(found: Findings, platform: str) -> list[str]:
    """Whether the best is the best, in sentences."""
    best = found.measured[0]
    others = len(found.measured) - 1
    confidence = found.intervals.get(best.number)
    if not others:
        return ["No other trial has finished an epoch, so there is nothing to compare it with."]
    if confidence is None or confidence.tied is None:
        return ["No errors of its utterances are on record, so whether another is as good cannot be said."]
    if found.tied:
        names = enumerated_trials([trial.number for trial in found.tied])
        return [
            f"Whether it is really better than {names} cannot be said:",
            "the 95% interval of the paired difference has 0 in it.",
            "Training them again from other seeds may tell:",
            tagged("code", f"{platform} confirm {found.name}"),
        ]
    known = sum(trial.number in found.intervals for trial in found.measured) - 1
    rest = "" if known == others else f" whose errors are on record ({known} of {others})"
    return [
        f"On these utterances it is better than every other trial{rest}: no 95% interval of a paired difference has 0 "
        "in it.",
        "The best of many is also the luckiest; other seeds would tell:",
        tagged("code", f"{platform} confirm {found.name}"),
    ]


# What was searched


def searched(found: Findings) -> Html:
    space, best = found.space, found.best
    parts = [paragraph(f"What varied, and what the base of the space ({space.source}) and the best trial have there.")]
    varied = [
        (key, _variation(variable), _base(found, key), setting(best, key) if best else "")
        for key, variable in space.vary.items()
    ]
    if space.fit:
        parts_of_fit = [str(bound) for bound in (space.fit.low, space.fit.high) if bound is not None]
        within = f", within {' to '.join(parts_of_fit)}" if parts_of_fit else ""
        how = f"solved for, to fill the budget{within}"
        varied.append((space.fit.key, how, "", setting(best, space.fit.key) if best else ""))
    if varied:
        parts.append(table(["key", "values", "base", "best trial"], varied))
    else:
        parts.append(paragraph("Nothing varies in this space: it is one configuration."))
    parts += [tagged("h3", "Data"), *_data(found), tagged("h3", "Search"), facts(_search(found))]
    return joined(parts)


def _data(found: Findings) -> list[Html]:
    place = f"Corpus {found.about['corpus']}, content hash {found.about['corpus_hash']}."
    if found.corpus is None:
        return [paragraph(place, f"Its sizes are not known: {found.corpus_problem}.")]
    splits = [
        (name, f"{split.utterances:,}", f"{split.seconds / HOUR:.2f}", f"{split.characters:,}")
        for name, split in found.corpus.splits.items()
    ]
    headings = ["split", "utterances", "hours", "characters"]
    return [paragraph(place), table(headings, splits, headings[1:])]


def _search(found: Findings) -> list[tuple[str, str]]:
    settings, about, asha = found.space.settings, found.about, found.space.comparable_settings.asha
    rungs = enumerated([f"{rung:,.4g}" for rung in found.rungs]) or "none"
    told = {
        "budget": f"{settings.budget:,} parameters at most",
        "trials": f"{about['trials']} asked for, {len(found.trials)} begun",
        "a whole trial": counted(settings.epochs, "epoch"),
        "sampler": f"{settings.sampler}, seed {settings.seed}",
        "minimised": enumerated(found.minimised),
        "rungs": f"{rungs} ({asha.unit}); at each, one in {asha.reduction:g} goes on",
    }
    if asha.plateau is not None and found.transcribes:
        told["plateau"] = f"trials that have not been below {asha.plateau:.0%} are not pruned in their first half"
    if settings.promotions:
        told["promotions"] = f"after {enumerated(list(map(str, settings.promotions)))} epochs"
    if found.space.start:
        told["tried first"] = f"{counted(len(found.space.start), 'configuration')} of the space's own"
    if about.get(WARM_START):
        told["learned from"] = f"{counted(len(about[WARM_START]), 'trial')} of earlier sweeps"
    limits = [f"{value:g} {name.replace('_', ' ')}" for name, value in about.get("limits", {}).items() if value]
    if limits:
        told["limits"] = enumerated(limits)
    if SPENT in about:
        told["time"] = f"{about[SPENT] / HOUR:.2f} h for the sweep"
    trained = sum(row["train_seconds"] + row["validation_seconds"] for trial in found.trials for row in trial.curve)
    told["training"] = f"{trained / HOUR:.2f} h, all trials' epochs together"
    return list(told.items())


def _variation(variable: Variable) -> str:
    distribution = variable.distribution
    if isinstance(distribution, Choice):
        text = ", ".join(map(short_value, distribution.values))
    elif isinstance(distribution, Float):
        text = f"{distribution.low:g} to {distribution.high:g}" + ", on a logarithmic scale" * distribution.log
    else:
        text = f"{distribution.low} to {distribution.high}"
    step = getattr(distribution, "step", None)
    steps = f" in steps of {step:g}" if step and step != 1 else ""
    where = [f"{key} is {' or '.join(map(short_value, values))}" for key, values in variable.when.items()]
    return text + steps + (f"; where {enumerated(where)}" if where else "")


def _base(found: Findings, key: str) -> str:
    return short_value(found.space.value(key, {})) if found.space.is_active(key, {}) else "not used"


# How to get it again


def reproduce(found: Findings, platform: str) -> Html:
    about, best = found.about, found.best
    data = shlex.quote(str(about["corpus"]))
    space, options = f"{found.space.name}.yaml", about.get("options", {})
    given = [(key, options.get(key)) for key in ("max_concurrent", "workers_per_trial", "gpus_per_worker")]
    flags = [f"--{key.replace('_', '-')} {value:g}" for key, value in given if value is not None]
    lines = [
        "# the same once more, with the space below as a file",
        f"{platform} sweep {shlex.quote(space)} --data {data} --name {found.name}-again --trials {about['trials']} "
        f"--epochs {about['epochs']} {' '.join(flags)}".rstrip(),
    ]
    if best:
        lines += ["# the best trial once more", f"{platform} train --from {found.name}:{best.number} --data {data}"]
    if found.model and found.corpus:
        model = shlex.quote(os.path.relpath(found.model) if "://" not in found.model else found.model)
        split = found.corpus.validation_split(found.space.config({}).data.validation).name
        lines += ["# what it scores", f"platform evaluate {model} --data {data} --split {split}"]
    made = about.get(PROVENANCE)
    versions = [
        (key.removeprefix("version.").replace("_", " "), value) for key, value in (made or provenance()).items()
    ]
    unknown = "What the sweep was begun with is not on record; this page was written with:"
    whose = "What the sweep was begun with:" if made else unknown
    parts = [
        paragraph(
            "The same space, seed and data give the same proposals for as long as their results are the same; other "
            "versions or machines round differently."
        ),
        code("\n".join(lines)),
        tagged("h3", "Versions"),
        paragraph(whose),
        facts([("seed of the proposals", found.space.settings.seed), *versions]),
        tagged("h3", f"The space ({found.space.source})"),
        code(found.space.text),
    ]
    if best:
        config = found.space.config(best.params).model_dump(mode="json")
        text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
        parts += [tagged("h3", f"The whole configuration of trial {best.number}"), code(text)]
    return joined(parts)
