"""Whether a trained model, and a file of its transcripts, keep the rules of a competition."""

from __future__ import annotations

import csv
from pathlib import Path

from asr_platform.inference.evaluate import SUBMISSION_COLUMNS
from asr_platform.tracking.resolving import registered_language_model
from search_spaces.rules import Facts, Finding, RuleSetName, findings
from trainables.config.tree import Config
from trainables.data.corpus import Corpus
from trainables.errors import InputError
from trainables.inference.model_directory import TrainedModel, read_checked_info, read_info, stored_parameters

SUBMISSION = "submission"  # name of the rule
MOST_LINES = 5  # with mistakes that are named, of a submission


def check(model: Path, rules: RuleSetName, data: Path | None, submission: Path | None, split: str) -> list[Finding]:
    """Verdicts of all rules of a rule set on a model, and on a submission if there is one.

    Args:
        data: the corpus that the model was trained on; None: it is not examined.
        split: the split of `submission`, whose utterances are counted if there is `data`.

    Raises:
        InputError: there is no model, corpus, split or file, or one is damaged.
    """
    found = check_model(model, rules, data)
    if submission is not None:
        found.append(check_submission(submission, utterances(data, split) if data else None))
    return found


def check_model(model: Path, rules: RuleSetName, data: Path | None = None) -> list[Finding]:
    """Verdicts of all rules of a rule set on a model directory.

    Args:
        data: the corpus that the model was trained on; None: what depends on it is judged by the model directory alone.

    Raises:
        InputError: there is no model or no corpus, or a file of the model is missing or damaged.
    """
    info = read_checked_info(model, (read_info(model).config.model.kind,), TrainedModel.FILES)
    corpus = Corpus.open(data) if data else None
    facts = Facts(corpus, info.corpus_hash, stored_parameters(model))
    return findings(rules, _with_registered_language_model(info.config, model), facts)


def _with_registered_language_model(config: Config, model: Path) -> Config:
    """`config` with the language model that was registered together with the model, if there is one."""
    folder = registered_language_model(model)
    if folder is None:
        return config
    decoding = config.decoding.model_copy(update={"language_model": str(folder)})
    return config.model_copy(update={"decoding": decoding})


def check_submission(file: Path, rows: int | None = None) -> Finding:
    """Verdict on the format of a submission: the columns, and ids that count from 0.

    Args:
        rows: number of transcripts that it must have; None: any number.

    Raises:
        InputError: the file does not exist, or is not readable as CSV in UTF-8.
    """
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            table = list(csv.reader(lines, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file}: not readable as CSV: {error}", "Write it with platform submit.") from None
    broken, columns = [], ",".join(SUBMISSION_COLUMNS)
    if not table or table[0] != SUBMISSION_COLUMNS:
        broken.append(f"the first line must be {columns}, but is {','.join(table[0]) if table else 'missing'}")
    wrong = [
        f"row {place} must have the id {place} and one transcript, but has {row}"
        for place, row in enumerate(table[1:])
        if len(row) != len(SUBMISSION_COLUMNS) or row[0] != str(place)
    ]
    broken += wrong[:MOST_LINES] + [f"and {len(wrong) - MOST_LINES} rows more"] * (len(wrong) > MOST_LINES)
    count = max(0, len(table) - 1)
    if count != rows and rows is not None:
        broken.append(f"{count} transcripts of {rows} utterances")
    counted = "no corpus was examined" if rows is None else f"the split has {rows} utterances"
    text = f"columns {columns}; ids from 0 in the sorted order of the file names"
    return Finding(SUBMISSION, text, tuple(broken), f"{count} rows of {file}, whose order was not examined; {counted}")


def utterances(data: Path, split: str) -> int:
    """Number of utterances in a split of a corpus.

    Raises:
        InputError: there is no such corpus or split.
    """
    return len(Corpus.open(data).split(split))
