"""Made-up sweeps of every fate, for tests of the report about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import records
import seen
import tiny

from asr_platform.analysis.recorded_errors import RecordedErrors
from asr_platform.storage.home import Home
from asr_platform.study.ledger import Ledger, TrialStatus
from asr_platform.study.provenance import PROVENANCE
from asr_platform.study.run_record import STOPPED
from search_spaces.reader import parse_space
from trainables.evaluation.utterance_errors import UtteranceErrors

MARKUP = "</pre><script>alert('oh')</script><img src=https://example.org/x.png>"
SPACE = f"""
# {MARKUP}
vary:
  tokenizer.kind: {{choice: [char, bpe]}}
  tokenizer.vocab_size: {{choice: [24, 32], when: {{tokenizer.kind: bpe}}}}
  model.encoder_layers: {{int: [1, 4]}}
  pretrained.decoder: {{choice: [null, "{MARKUP}"]}}
  optimizer.lr: {{log: [1.0e-4, 1.0e-2]}}
start: [{{optimizer.lr: 2.0e-3}}]
trials: 13
epochs: 5
asha: {{grace: 2, reduction: 3}}
"""
ALONE = "trials: 1\nepochs: 3\n"
LANGUAGE = """
base: {model: {kind: language_model}}
vary:
  model.dropout: {float: [0, 0.3]}
trials: 2
epochs: 2
"""
WORDS = ["ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN"]

Outcome = tuple[TrialStatus, Sequence[float], str]
WHOLE: list[Outcome] = [
    ("complete", [3.5, 0.3, 0.06, 0.05, 0.02], ""),
    ("pruned", [0.9, 0.4], "rung at epoch 2: val CER 40.00% against a cutoff of 30.00%"),
    *(("complete", [0.9, 0.4, 0.1, 0.1, 0.03 + 0.01 * number], "") for number in range(7)),
    ("failed", [], f"DivergedError: {MARKUP}"),
    ("failed", [0.95, 0.99], "out of memory"),
    ("pruned", [2.5, 2.0], "rung at epoch 2"),
    ("running", [0.8], ""),
]


def furnish(folder: Path) -> Home:
    """A home with sweeps that came to an end, did not, or did not begin."""
    home = Home.at(folder / "mlruns")
    corpus = tiny.write_corpus(folder / "corpus", {"train": tiny.SENTENCES * 2, "dev": tiny.SENTENCES})
    here = {"corpus": str(corpus.path), "corpus_hash": corpus.hash}
    gone = {"corpus": str(folder / "gone"), "corpus_hash": "0" * 64}
    about = {"objectives": ["val_cer", "real_time_factor"], PROVENANCE: VERSIONS, **here}
    checkpoint = seen.checkpoint(folder / "checkpoint", 5)
    remember(home, "whole", sweep(home, "whole", SPACE, WHOLE, checkpoint, **about))
    sweep(home, "empty", SPACE, [], **here)
    sweep(home, "failed", SPACE, [("failed", [], "no"), ("failed", [], f"worse: {MARKUP}")], **here)
    sweep(home, "alone", ALONE, [("complete", [0.5, 0.3, 0.2], "")], **here)
    sweep(home, "language", LANGUAGE, [("complete", [12.5, 4.25], ""), ("complete", [11.0, 4.5], "")], **here)
    capped = sweep(home, "capped", SPACE, [("complete", [0.5] * 5, ""), ("running", [0.4], "")], **gone)
    capped.note(STOPPED, "2 of 2 hours (--max-hours) are spent")
    return home


VERSIONS = {"git_revision": "0123abc", "version.torch": "9.8.7"}


def sweep(
    home: Home, name: str, text: str, outcomes: Sequence[Outcome], checkpoint: str | None = None, **about: Any
) -> Ledger:
    """One whose trials came out like that; `checkpoint` is that of trial 0."""
    space = parse_space(text, "made <up>.yaml", Path("/"))
    told = {"space": text, "trials": space.settings.trials, "epochs": space.settings.epochs, "options": {}}
    ledger = records.ledger_in(home.path, name, **{**told, "source": space.source, **about})
    for state, values, reason in outcomes:
        number = ledger.propose(space, _proposal).number
        for epoch, value in enumerate(values, start=1):
            metrics = perplexity(epoch, value) if "language_model" in text else rates(epoch, value, number)
            ledger.record(number, metrics | ({"checkpoint": checkpoint} if number == 0 else {}))
        if state != "running":
            ledger.finish(number, state, reason)
    return ledger


def _proposal(values: Mapping[str, Any]) -> Any:
    return records.counting(
        100_000 * int(values.get("model.encoder_layers", 1)) + round(values.get("model.dropout", 0))
    )


def rates(epoch: int, cer: float, number: int) -> dict[str, Any]:
    """The metrics of a recogniser's epoch; trials are the slower the later they are proposed."""
    return records.row(epoch, cer) | {"real_time_factor": 0.002 + 0.0001 * number}


def perplexity(epoch: int, value: float) -> dict[str, Any]:
    """The metrics of a language model's epoch."""
    metrics = {key: each for key, each in records.row(epoch, 0).items() if not key.endswith("er")}
    return metrics | {"val_character_perplexity": value}


def remember(home: Home, name: str, ledger: Ledger) -> None:
    """Puts errors on record: of the best trial next to none, of the second one more, of all others many."""
    store = RecordedErrors(home.sweep(name))
    store.folder.mkdir(parents=True)
    for trial in ledger.trials():
        if trial.best:
            wrong = {0: 2, 2: 3}.get(trial.number, 40)
            errors_of(wrong, trial.best["epoch"]).save(store.folder / f"trial-{trial.number:04}.json")


def errors_of(wrong: int, epoch: int) -> UtteranceErrors:
    """Errors in the longest `wrong` of 120 utterances: a word is deleted, and one is replaced by markup."""
    references = [" ".join(WORDS[: 1 + number % 7]) for number in range(120)]
    order = sorted(range(120), key=lambda number: -len(references[number]))
    hypotheses = [*references]
    for place in order[:wrong]:
        hypotheses[place] = hypotheses[place].replace("THREE ", "").replace("SEVEN", "<b>SEVEN</b>")
    return UtteranceErrors.of("dev", epoch, [f"{number:03}" for number in range(120)], references, hypotheses)
