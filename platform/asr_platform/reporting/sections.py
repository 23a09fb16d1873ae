"""Sections of the report without a Plotly figure: search space, leaderboard, word errors, attention, reproduction."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Sequence

import yaml

from asr_platform.analysis.error_breakdown import by_word
from asr_platform.analysis.leaderboard import columns, entries
from asr_platform.analysis.text import counted, enumerated, short_value
from asr_platform.reporting.figures import no_errors
from asr_platform.reporting.page import Block, Code, Facts, Heading, Picture, Table, Text, conclusion, paragraph
from asr_platform.reporting.parallel import value_of
from asr_platform.reporting.report_data import ReportData
from asr_platform.study.ledger import WARM_START
from asr_platform.study.provenance import PROVENANCE, provenance
from asr_platform.study.run_record import SPENT
from asr_platform.study.spending import HOUR, device_seconds
from search_spaces.distributions import Choice, Float, Variable

SIDE_BY_SIDE = 8  # best trials whose values stand beside each other
MOST_WORDS = 20  # of the words with most errors
MOST_HYPOTHESES = 3  # of a word


# Search space


def search_space(data: ReportData) -> list[Block]:
    """Varied keys with their values in the base and in the best trial, the corpus, and the search."""
    space, best = data.space, data.best
    varied = [
        (key, _variation(variable), _base(data, key), value_of(best, key) if best else "")
        for key, variable in space.vary.items()
    ]
    if space.fit:
        bounds = [str(bound) for bound in (space.fit.low, space.fit.high) if bound is not None]
        within = f", within {' to '.join(bounds)}" if bounds else ""
        how = f"computed, to fill the budget{within}"
        varied.append((space.fit.key, how, "", value_of(best, space.fit.key) if best else ""))
    return [
        paragraph(f"Varied keys, with their values in the base of the space ({space.source}) and in the best trial."),
        Table(["key", "values", "base", "best trial"], varied)
        if varied
        else paragraph("Nothing varies in this space: it is one configuration."),
        Heading("Data"),
        *_data(data),
        Heading("Search"),
        Facts(_search(data)),
    ]


def _variation(variable: Variable) -> str:
    """Values of a key in words, with its conditions."""
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


def _base(data: ReportData, key: str) -> str:
    return short_value(data.space.value(key, {})) if data.space.is_active(key, {}) else "not used"


def _data(data: ReportData) -> list[Block]:
    place = f"Corpus {data.about['corpus']}, content hash {data.about['corpus_hash']}."
    if data.corpus is None:
        return [paragraph(place, f"Its sizes are not known: {data.corpus_problem}.")]
    splits = [
        (name, f"{split.utterances:,}", f"{split.seconds / HOUR:.2f}", f"{split.characters:,}")
        for name, split in data.corpus.splits.items()
    ]
    headings = ["split", "utterances", "hours", "characters"]
    return [paragraph(place), Table(headings, splits, headings[1:])]


def _search(data: ReportData) -> list[tuple[str, str]]:
    """Settings of the search, and the time that it took."""
    settings, about, asha = data.space.settings, data.about, data.space.comparable_settings.asha
    rungs = enumerated(f"{rung:,.4g}" for rung in data.rungs) or "none"
    facts = {
        "budget": f"{settings.budget:,} parameters at most",
        "trials": f"{about['trials']} asked for, {len(data.trials)} begun",
        "length of a trial": counted(settings.epochs, "epoch"),
        "sampler": f"{settings.sampler}, seed {settings.seed}",
        "minimised": enumerated(data.objective_names),
        "rungs": f"{rungs} ({asha.unit}); at each, one in {asha.reduction:g} goes on",
    }
    if asha.plateau is not None and data.transcribes:
        facts["plateau"] = f"trials that have not been below {asha.plateau:.0%} are not pruned in their first half"
    if settings.promotions:
        facts["promotions"] = f"after {enumerated(settings.promotions)} epochs"
    if data.space.start:
        facts["start"] = f"{counted(len(data.space.start), 'configuration')} of the space, tried first"
    if about.get(WARM_START):
        facts["warm start"] = f"{counted(len(about[WARM_START]), 'trial')} of earlier sweeps"
    limits = [f"{value:g} {name.replace('_', ' ')}" for name, value in about.get("limits", {}).items() if value]
    if limits:
        facts["limits"] = enumerated(limits)
    if SPENT in about:
        facts["duration"] = f"{about[SPENT] / HOUR:.2f} h"
    trained = device_seconds(row for trial in data.trials for row in trial.curve)
    facts["training"] = f"{trained / HOUR:.2f} h, the sum over all epochs of all trials"
    return list(facts.items())


# Leaderboard


def leaderboard(data: ReportData) -> list[Block]:
    """The leaderboard with the reasons why trials ended, and the values of the best trials."""
    if not data.trials:
        return [paragraph("No trial has been begun.")]
    shown = [column for column in columns(data.trials, data.objectives) if column.heading]
    headings = ["rank", *(column.heading.replace("\n", " ") for column in shown), "why it ended"]
    rows = [
        (entry.marked_rank, *(column.cell(entry) for column in shown), entry.trial.reason)
        for entry in entries(data.trials, data.intervals, data.objectives)
    ]
    what = "the character error rate" if data.transcribes else "the perplexity per character"
    explanation = paragraph(
        f"{data.metric} is {what} on the validation split, at each trial's best epoch.",
        "Its 95% interval is a bootstrap over the utterances." if data.intervals else "",
        "= marks trials that do not differ significantly from the best." if data.tied else "",
        f"* marks the Pareto front of {enumerated(data.objective_names)}." if len(data.objectives) > 1 else "",
    )
    numeric = [heading for heading in headings if heading not in ("state", "why it ended")]
    blocks: list[Block] = [explanation, Table(headings, rows, numeric, "why it ended")]
    top = data.measured[:SIDE_BY_SIDE]
    keys = list(dict.fromkeys(key for trial in top for key in trial.params))
    if keys:
        blocks.append(Heading("Values of the best trials" if len(top) < len(data.trials) else "Values of the trials"))
        values = [(key, *(value_of(trial, key) for trial in top)) for key in keys]
        blocks.append(Table(["key", *(f"trial {trial.number}" for trial in top)], values))
    return blocks


# Word errors


def word_errors(data: ReportData) -> list[Block]:
    """Words with most errors, and what was recognised instead."""
    if data.errors is None:
        return [no_errors(data)]
    breakdown = by_word(data.errors)
    wrong = [word for word in breakdown.words if word.errors]
    total = breakdown.substitutions + breakdown.deletions + breakdown.inserted.total()
    if not total:
        return [conclusion(f"No word of {data.errors.split} is wrong.")]
    summary = paragraph(
        f"{data.errors.split} has {sum(data.errors.words):,} words. "
        f"The best model makes {counted(total, 'error')} (WER {data.errors.wer:.2%}): "
        f"{counted(breakdown.substitutions, 'substitution')}, {counted(breakdown.deletions, 'deletion')} and "
        f"{counted(breakdown.inserted.total(), 'insertion')}."
    )
    headings = ["reference", "occurrences", "errors", "share", "hypotheses"]
    rows = [
        (
            word.word,
            f"{word.occurrences:,}",
            f"{word.errors:,}",
            f"{word.errors / word.occurrences:.1%}",
            _most_common(word.hypotheses),
        )
        for word in wrong[:MOST_WORDS]
    ]
    blocks: list[Block] = [summary, Table(headings, rows, headings[1:4])]
    if len(wrong) > MOST_WORDS:
        blocks.append(Text(f"The {MOST_WORDS} words with most errors, of {len(wrong)}.", "note"))
    most = ""
    if wrong:
        times = counted(wrong[0].occurrences, "occurrence")
        most = f"The word with most errors is {wrong[0].word}: {wrong[0].errors} of {times}."
    inserted = f"Most frequent insertions: {_most_common(breakdown.inserted)}." if breakdown.inserted else ""
    return [*blocks, conclusion(most, inserted)]


def _most_common(counts: Counter[str]) -> str:
    return ", ".join(f"{word or '(deleted)'} {count}×" for word, count in counts.most_common(MOST_HYPOTHESES))


# Attention


def attention(data: ReportData) -> list[Block]:
    """Attention plots of the best model."""
    if not data.attention and not data.transcribes:
        return [paragraph("A language model has no attention to speech, and its self-attention is not kept.")]
    if not data.attention and not data.measured:
        return [paragraph("There is no model yet.")]
    if not data.attention:
        return [paragraph("The best model is gone, and its attention with it.")]
    text = paragraph(
        "Attention of the decoder for one utterance of median length, with the output tokens from top to bottom.",
        "A decoder that follows the speech shows a line from the upper left to the lower right.",
    )
    return [text, *(Picture(caption, png) for png, caption in data.attention)]


# Reproduction


def reproduction(data: ReportData) -> list[Block]:
    """Commands, versions and configurations that repeat the sweep."""
    made = data.about.get(PROVENANCE)
    versions = [
        (key.removeprefix("version.").replace("_", " "), str(value)) for key, value in (made or provenance()).items()
    ]
    unknown = "The versions that the sweep was started with are not on record; this page was written with:"
    blocks: list[Block] = [
        paragraph(
            "An equal space, seed and corpus lead to equal proposals as long as results are equal; other versions or "
            "machines round differently."
        ),
        Code("\n".join(_commands(data))),
        Heading("Versions"),
        paragraph("The sweep was started with:" if made else unknown),
        Facts([("seed of the sampler", data.space.settings.seed), *versions]),
        Heading(f"The space ({data.space.source})"),
        Code(data.space.text),
    ]
    if data.best:
        config = data.space.config(data.best.params).model_dump(mode="json")
        blocks.append(Heading(f"The whole configuration of trial {data.best.number}"))
        blocks.append(Code(yaml.safe_dump(config, sort_keys=False, allow_unicode=True)))
    return blocks


def _commands(data: ReportData) -> Sequence[str]:
    """Command lines that run the sweep, train its best trial, and evaluate its model."""
    about, platform = data.about, data.command
    corpus, options = shlex.quote(str(about["corpus"])), about.get("options", {})
    given = [(key, options.get(key)) for key in ("max_concurrent", "workers_per_trial", "gpus_per_worker")]
    flags = [f"--{key.replace('_', '-')} {value:g}" for key, value in given if value is not None]
    lines = [
        "# run the sweep again, with the space below as a file",
        f"{platform} sweep {shlex.quote(f'{data.space.name}.yaml')} --data {corpus} --name {data.name}-again "
        f"--trials {about['trials']} --epochs {about['epochs']} {' '.join(flags)}".rstrip(),
    ]
    if data.best:
        lines += [
            "# train the best trial again",
            f"{platform} train --from {data.name}:{data.best.number} --data {corpus}",
        ]
    if data.model and data.corpus:
        model = shlex.quote(os.path.relpath(data.model) if "://" not in data.model else data.model)
        split = data.corpus.validation_split(data.space.config({}).data.validation).name
        lines += ["# evaluate the best model", f"{platform} evaluate {model} --data {corpus} --split {split}"]
    return lines
