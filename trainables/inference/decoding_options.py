"""Decoding options of a recogniser: those of its model directory, and changes to them.

The options are the fields of the configuration's section `decoding`, wherever they are given: on the command line, in
Python, in a request to a served model, or to the exported script.

A model directory may have options of its own in `decoding.json`. They then stand in place of the section `decoding` of
its `config.json`, which says how the model was validated in training.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from trainables.config.parsing import parse_config
from trainables.config.tree import DECODING_NOT_OF_EDITORS, DECODING_OF_EDITORS, Config, Decoding
from trainables.errors import InputError

DECODING = "decoding.json"
SEARCHED: dict[str, tuple[str, ...]] = {
    "greedy": ("repeat_penalty", "language_model", "lm_weight", "editing_steps"),
    "beam": (
        "beam", "temperature", "repeat_penalty", "length_penalty", "language_model", "lm_weight", "hotwords",
        "hotword_weight",
    ),
    "ctc": (),
    "ctc_beam": ("beam",),
    "joint": (
        "beam", "temperature", "repeat_penalty", "length_penalty", "ctc_weight", "candidates", "language_model",
        "lm_weight", "hotwords", "hotword_weight",
    ),
}  # fmt: skip
"""Options that each method uses, those of all kinds of model."""
NO_LANGUAGE_MODEL = {"language_model": None, "lm_weight": 0.0}


class Measured(BaseModel):
    """CER of a search, and its 95% bootstrap interval; fractions."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    cer: float = Field(ge=0)
    interval: tuple[float, float]

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.cer:.2%} ({100 * low:.2f}–{high:.2%})"


class Comparison(BaseModel):
    """Greedy search and tuned options on the same utterances of a split.

    Attributes:
        utterances: number of utterances of the split that were searched.
        of: number of utterances of the split.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    split: str
    utterances: int = Field(ge=1)
    of: int = Field(ge=1)
    greedy: Measured
    tuned: Measured

    @property
    def utterances_text(self) -> str:
        """The utterances in words, such as `150 utterances of dev` or `400 of 2,703 utterances of dev-clean`."""
        part = "" if self.utterances == self.of else f"{self.utterances:,} of "
        return f"{part}{self.of:,} utterances of {self.split}"


class HeldOutComparison(Comparison):
    """How tuned options do on a split that they were not chosen by.

    Attributes:
        difference: 95% interval of the CER with the options minus the CER of greedy search (paired bootstrap).
    """

    difference: tuple[float, float]

    def __str__(self) -> str:
        low, high = self.difference
        change = f"{self.tuned.cer - self.greedy.cer:+.2%} ({100 * low:+.2f} to {high:+.2%})"
        return f"greedy {self.greedy}, tuned {self.tuned}, difference {change}, on {self.utterances_text}"


class Tuning(Comparison):
    """How the options of a `decoding.json` were found.

    Attributes:
        corpus_hash: content hash of the corpus.
        searches: number of searches that were compared.
        test: the options on a test split; None: the corpus has none with transcripts, or they could not be compared.
    """

    corpus_hash: str
    searches: int = Field(ge=1)
    test: HeldOutComparison | None = None


def in_words(decoding: Decoding) -> str:
    """Decoding options that a search uses and that are not the defaults, such as `method=joint, beam=8`."""
    changed = [key for key in SEARCHED[decoding.method] if getattr(decoding, key) != Decoding.model_fields[key].default]
    return ", ".join(f"{key}={getattr(decoding, key)}" for key in ["method", *changed])


class OwnDecoding(BaseModel):
    """Content of `decoding.json`.

    Attributes:
        tuning: how the options were found; None: someone wrote them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    decoding: Decoding
    tuning: Tuning | None = None


def decoding_with(config: Config, changes: Mapping[str, Any]) -> Decoding:
    """Decoding options of a recogniser with changes.

    Args:
        config: the recogniser's configuration.
        changes: new values by key of the section `decoding`.

    Raises:
        InputError: a key is unknown, or a value is invalid or has no meaning for this kind of model.
    """
    kind = config.model.kind
    without_meaning = DECODING_NOT_OF_EDITORS if kind == "transcript_editor" else DECODING_OF_EDITORS
    if needless := [f"{key}={value}" for key, value in changes.items() if key in without_meaning]:
        raise InputError(f"{', '.join(needless)} has no meaning with model.kind={kind}", "Leave it out.")
    method = changes.get("method", config.decoding.method)
    if "beam" in changes and kind == "transcript_editor" and method != "ctc_beam":
        problem = f"beam={changes['beam']} has no meaning with model.kind={kind} and method={method}"
        raise InputError(problem, "Leave it out, or search for the draft with method ctc_beam.")
    if changes.get("method") in ("ctc", "ctc_beam"):  # neither uses a language model; both give an editor's draft
        changes = {"editing_steps": 1, **changes, **(NO_LANGUAGE_MODEL if "lm_weight" not in changes else {})}
    if "method" in changes:
        changes = {**of_method(changes["method"]), **changes}
    decoding = checked(config, {**config.decoding.model_dump(), **changes})
    if changes.get("language_model") is not None and not decoding.lm_weight:
        raise InputError(
            f"--language-model {changes['language_model']} has no weight", "Give --lm-weight, such as 0.3."
        )
    return decoding


def of_method(method: str) -> dict[str, Any]:
    """Changes of decoding options to another method: the method, and no hotwords if it does not use them."""
    return {"method": method, **({} if "hotwords" in SEARCHED.get(method, ()) else {"hotwords": ""})}


def check_nbest(decoding: Decoding, count: int) -> None:
    """Checks that a search finds `count` hypotheses.

    Raises:
        InputError: the method finds one, or the beam is smaller.
    """
    if count < 1:
        raise InputError(f"nbest must be 1 or more, but got {count}", "Correct it, or leave it out.")
    if "beam" not in SEARCHED[decoding.method]:
        raise InputError(
            f"nbest={count}: method={decoding.method} finds one hypothesis", "Search with a beam, such as method joint."
        )
    if count > decoding.beam:
        raise InputError(f"nbest={count} is above beam={decoding.beam}", f"Search with a beam of {count} or more.")


def checked(config: Config, decoding: Mapping[str, Any], source: str = "this search") -> Decoding:
    """The section `decoding` with these values, checked as a part of a model's configuration.

    Raises:
        InputError: a key is unknown, or a value is invalid or does not fit the kind of model.
    """
    return parse_config({**config.model_dump(), "decoding": dict(decoding)}, source).decoding
