"""The model card: what a sweep's best model is, how good, of what data, how it was found, and what it cannot do.

After Mitchell et al. (2019), "Model cards for model reporting". It is the README.md of the model directory, and the
description of the model's version in MLflow's registry.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from asr_platform.analysis.bootstrap import CerInterval, ConfidenceInterval, error_interval
from asr_platform.analysis.text import enumerated_trials
from asr_platform.study.ledger import TrialRecord
from search_spaces.space import Space
from trainables.config import Config
from trainables.data.corpus import Corpus
from trainables.evaluation.metrics import OBJECTIVES, objective, objective_text
from trainables.evaluation.utterance_errors import UtteranceErrors

CARD = "README.md"
HEAD = "# {}\n"  # how the card of a sweep begins
MOST_CHARACTERS = 80  # of an alphabet that is told in full


@dataclass(frozen=True)
class About:
    """What a card tells of.

    Args:
        name: the sweep's.
        best: its best trial, which has finished an epoch.
        intervals: CER intervals by trial number.
        errors: the best trial's, where they are on record.
        store: MLflow's address.
    """

    name: str
    space: Space
    corpus: Corpus
    trials: Sequence[TrialRecord]
    best: TrialRecord
    intervals: Mapping[int, CerInterval]
    errors: UtteranceErrors | None
    store: str

    @property
    def config(self) -> Config:
        return self.space.config(self.best.params)

    @property
    def recogniser(self) -> bool:
        return self.config.model.kind == "encoder_decoder"


def model_card(about: About) -> str:
    """The whole card in Markdown."""
    sections = {
        "How good it is": _figures(about),
        "What it was trained on": _data(about),
        "How it was found": _search(about),
        "How to use it": _use(about),
        "What it cannot do": _limits(about),
    }
    return _head(about) + "".join(f"\n## {title}\n\n{text}" for title, text in sections.items())


def _head(about: About) -> str:
    row = about.best.best or {}
    what = "A speech recogniser: speech in, text out." if about.recogniser else "A language model of transcripts."
    return (
        f"{HEAD.format(about.name)}\n{what} {about.best.about.get('parameters', 0):,} parameters. The best model "
        f"of the sweep {about.name}: trial {about.best.number}, epoch {row.get('epoch')}. This card was written on "
        f"{date.today()}.\n"
    )


def _figures(about: About) -> str:
    row, errors = about.best.best or {}, about.errors
    if errors is None:
        return f"{OBJECTIVES[objective(row)]}: {objective_text(row)}\n"
    table = _table(
        (f"on {errors.split}", "value", "95% interval"),
        [("CER", f"{errors.cer:.2%}", _interval(error_interval(errors))),
         ("WER", f"{errors.wer:.2%}", _interval(error_interval(errors, words=True)))],
    )  # fmt: skip
    return (
        f"{table}\n{len(errors.ids):,} utterances that it was not trained on, {sum(errors.characters):,} characters; "
        f"search: {about.config.decoding.method}; intervals: bootstrap over the utterances.\n\n{_ties(about)} "
        "It was chosen by these same figures, so they flatter it: a split that nothing was chosen by says what to "
        "expect.\n"
    )


def _ties(about: About) -> str:
    others = [
        number for number, confidence in about.intervals.items() if confidence.tied and number != about.best.number
    ]
    if len(about.trials) == 1:
        return "The sweep had no other trial."
    if not others:
        return f"It is the best of {len(about.trials)} trials."
    return (
        f"It is the best of {len(about.trials)} trials, but not significantly different from "
        f"{enumerated_trials(sorted(others))} (paired bootstrap, 95%)."
    )


def _data(about: About) -> str:
    corpus = about.corpus
    table = _table(
        ("split", "utterances", "hours", "characters"),
        ((name, f"{split.utterances:,}", f"{split.seconds / 3600:.2f}", f"{split.characters:,}")
         for name, split in corpus.splits.items()),
    )  # fmt: skip
    config = about.config
    training = corpus.training_split(config.data.train).name
    validation = corpus.validation_split(config.data.validation).name
    more = f" More text: {config.data.text}." if config.data.text else ""
    return (
        f"Trained on {training}, validated on {validation} of a corpus from {corpus.source}, hash `{corpus.hash}`. "
        f"Features: {corpus.recipe.name}, {corpus.recipe.bins} bins, {corpus.recipe.frames_per_second:g} frames a "
        f"second.{more}\n\n{table}"
    )


def _search(about: About) -> str:
    states = Counter(trial.state for trial in about.trials)
    settings = about.space.settings
    text = (
        f"Space {about.space.name}, sampler {settings.sampler}, seed {settings.seed}, at most {settings.epochs} epochs"
        f": {', '.join(f'{count} {state}' for state, count in states.items())}. `platform leaderboard {about.name}` "
        "lists the trials.\n"
    )
    if about.best.params:
        values = about.best.params.items()
        rows = ((key, f"{value:.3g}" if isinstance(value, float) else str(value)) for key, value in values)
        text += "\n" + _table(("what varied", "its value"), rows)
    return f"{text}\nThe whole configuration is in `config.json`.\n"


def _use(about: About) -> str:
    champion = f"models:/{about.name}@champion"
    if not about.recogniser:
        return f"```sh\nplatform evaluate RECOGNISER ... --language-model {champion} --lm-weight 0.3\n```\n"
    return f"""While this is the champion of its name:

```sh
export MLFLOW_TRACKING_URI={shlex.quote(about.store)}
platform transcribe {champion} FILE.wav
mlflow models serve -m {champion} --env-manager local --port 5001 &
echo '{{"inputs": ["'$(base64 -w0 FILE.wav)'"]}}' |
    curl -H 'Content-Type: application/json' -d @- http://127.0.0.1:5001/invocations
```

In Python: `mlflow.pyfunc.load_model("{champion}").predict([recording])` is a list of texts; a recording is the bytes \
of a WAV or FLAC file of any sample rate, or these in base64.
"""


def _limits(about: About) -> str:
    if not about.recogniser:
        return "- Its perplexities are of texts such as those above: they say nothing of others.\n"
    split = about.corpus.training_split(about.config.data.train)
    alphabet = "".join(sorted(set("".join(split.texts or [])) - {" "}))
    known = (
        f"`{alphabet}`"
        if len(alphabet) <= MOST_CHARACTERS and "`" not in alphabet
        else f"the {len(alphabet)} of its training texts"
    )
    lines = [
        f"It writes no characters but {known} and spaces.",
        f"Its training utterances last {split.seconds.min():.1f} to {split.seconds.max():.1f} s, on average "
        f"{split.seconds.mean():.1f} s: longer recordings are cut, at silences where there are any.",
        "It hears words in whatever sound there is, also where nobody speaks.",
        "Other voices, words, rooms or microphones than those of the corpus are not in these figures.",
    ]
    return "".join(f"- {line}\n" for line in lines)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |\n" for line in lines)


def _interval(interval: ConfidenceInterval) -> str:
    return f"{interval.low:.2%} to {interval.high:.2%}"
