"""The model card of a sweep's best model: its accuracy, training data, search, usage and limitations.

After Mitchell et al. (2019), "Model cards for model reporting". It is the README.md of the model directory, and the
description of the model's version in MLflow's registry.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, StrictUndefined, Template

from asr_platform.analysis.bootstrap import METHOD, CerInterval, error_interval
from asr_platform.analysis.kept_scores import Score
from asr_platform.analysis.learning import nothing_learned
from asr_platform.analysis.text import enumerated_trials, short_value
from asr_platform.study.ledger import TrialRecord
from search_spaces.rules import Facts, findings
from search_spaces.space import Space
from trainables.data.corpus import Corpus, Split
from trainables.evaluation.metrics import OBJECTIVES, objective, objective_text
from trainables.evaluation.utterance_errors import UtteranceErrors
from trainables.inference.decoding_options import DECODING, OwnDecoding, in_words

if TYPE_CHECKING:
    from trainables.inference.words import Confidence

CARD = "README.md"
HEAD = "# {}\n"  # first line of the card, with the sweep's name
TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
KINDS = {
    "encoder_decoder": "A speech recogniser (encoder-decoder with attention and CTC).",
    "transcript_editor": "A speech recogniser (transcript editor: a CTC draft, corrected as a whole).",
    "language_model": "A language model of transcripts.",
}
DECODING_HEADING, CONDITIONS_HEADING, TRAINING_HEADING = "## Decoding", "## Robustness", "## Training data"
LONGEST_ALPHABET = 80  # characters; a longer one is not listed


@dataclass(frozen=True)
class ModelCard:
    """Data of a model card.

    Args:
        name: name of the sweep.
        best: best trial of the sweep, which must have a finished epoch.
        intervals: CER intervals by trial number.
        errors: utterance errors of the best trial's validation, if they are recorded.
        store: address of the MLflow store.
    """

    name: str
    space: Space
    corpus: Corpus
    trials: Sequence[TrialRecord]
    best: TrialRecord
    intervals: Mapping[int, CerInterval]
    errors: UtteranceErrors | None
    store: str

    def render(self) -> str:
        """The card in Markdown."""
        row, config = self.best.best or {}, self.space.config(self.best.params)
        parameters, rules = self.best.about.get("parameters", 0), self.space.settings.rules
        training = self.corpus.training_split(config.data)
        states = Counter(trial.state for trial in self.trials)
        return _template().render(
            name=self.name,
            space=self.space,
            corpus=self.corpus,
            config=config,
            recogniser=config.model.is_recogniser,
            kind=KINDS[config.model.kind],
            edits="val_one_step_cer" in row and config.decoding.method == "greedy",
            trial=self.best.number,
            trials=len(self.trials),
            params=self.best.params,
            parameters=parameters,
            findings=findings(rules, config, Facts(self.corpus, self.corpus.hash, parameters)) if rules else [],
            row=row,
            unlearned=nothing_learned(row),
            errors=self.errors,
            interval=_interval,
            method=METHOD,
            ties=self._ties(),
            objective=f"{OBJECTIVES[objective(row)]}: {objective_text(row)}",
            training=training,
            validation=self.corpus.validation_split(config.data),
            alphabet=_alphabet(training),
            states=", ".join(f"{count} {state}" for state, count in states.items()),
            store=shlex.quote(self.store),
            today=date.today(),
        )

    def _ties(self) -> str:
        """Other trials that do not differ significantly from the best, such as `trials 2 and 3`; empty without."""
        tied = sorted(number for number, confidence in self.intervals.items() if confidence.tied)
        others = [number for number in tied if number != self.best.number]
        return enumerated_trials(others) if others else ""


@cache
def _template() -> Template:
    """The card's template, which takes longer to compile than a card takes to render."""
    environment = Environment(
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined
    )
    environment.filters |= {"percent": "{:.2%}".format, "cell": lambda text: text.replace("|", "&#124;")}
    environment.filters["short_value"] = short_value
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8"))


def decoding_section(own: OwnDecoding, confidence: Confidence | None) -> str:
    """Section of a card on a model's own decoding options and the confidence of words, in Markdown."""
    lines = [DECODING_HEADING, "", f"Own options (`{DECODING}`): {in_words(own.decoding)}."]
    if found := own.tuning:
        lines += [
            "",
            "| decoding | CER | 95% confidence interval |",
            "| --- | --- | --- |",
            *(
                f"| {name} | {one.cer:.2%} | {one.interval[0]:.2%} to {one.interval[1]:.2%} |"
                for name, one in (("greedy", found.greedy), ("own", found.tuned))
            ),
            "",
            f"The best of {found.searches} searches on {found.utterances_text}, by which they were chosen: on other "
            "speech the difference may be smaller.",
            *(["", f"On a split by which they were not chosen: {found.test}."] if found.test else []),
        ]
    if confidence is not None:
        lines += [
            "",
            f"Confidence of words: expected calibration error {confidence.calibration_error:.1%} by cross-validation, "
            f"on {confidence.words:,} words of {confidence.split}, of which {confidence.wrong:,} were wrong. For other "
            "voices or noise, confidences may be too high.",
        ]
    return "\n".join(lines) + "\n\n"


def with_decoding(card: str, own: OwnDecoding, confidence: Confidence | None) -> str:
    """A card with the section on decoding options."""
    return _with_section(card, DECODING_HEADING, decoding_section(own, confidence))


def with_conditions(card: str, scores: Sequence[Score]) -> str:
    """A card with the section on noise, rooms, speed and bandwidth."""
    lines = [
        CONDITIONS_HEADING,
        "",
        f"The audio of {scores[0].utterances:,} utterances of {scores[0].split}, changed and transcribed anew "
        f"({scores[0].decoding}). Ratios are of signal to noise; intervals: 95%.",
        "",
        "| condition | CER | interval | WER | interval |",
        "| --- | --- | --- | --- | --- |",
        *(
            f"| {one.condition} | {one.cer:.2%} | {one.intervals[0]} | {one.wer:.2%} | {one.intervals[1]} |"
            for one in scores
        ),
    ]
    return _with_section(card, CONDITIONS_HEADING, "\n".join(lines) + "\n\n")


def _with_section(card: str, heading: str, section: str) -> str:
    """A card with a section added before the training data, or in place of the one that it has."""
    before, found, after = card.partition(heading + "\n")
    if found:
        rest = after.partition("\n## ")
        return before + section + "".join(rest[1:]).removeprefix("\n")
    before, found, after = card.partition(TRAINING_HEADING + "\n")
    return (before if found else card + "\n") + section + found + after


def _interval(errors: UtteranceErrors, words: bool = False) -> str:
    interval = error_interval(errors, words=words)
    return f"{interval.low:.2%} to {interval.high:.2%}"


def _alphabet(split: Split) -> str:
    """Characters of a split's texts (without the space) in Markdown, or only their number if there are many."""
    alphabet = "".join(sorted(set("".join(split.texts or [])) - {" "}))
    if len(alphabet) <= LONGEST_ALPHABET and "`" not in alphabet:
        return f"`{alphabet}`"
    return f"the {len(alphabet)} of its training texts"
