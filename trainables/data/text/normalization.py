"""Normalisation of transcripts as the user chose it for a corpus: case, punctuation, numbers.

The choice is kept in the corpus and in every model trained on it, so that references are changed alike wherever the
model is evaluated.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from trainables.data.packages import optional
from trainables.data.text.transcripts import single_spaced
from trainables.errors import InputError

KEEP = "keep"
APOSTROPHES = re.compile(r"(?<=\w)[’ʼ＇`´](?=\w)")  # written for the apostrophe ' inside a word
SPOKEN = "%&@#§†*/\\"  # characters of Unicode's punctuation that are read aloud, or stand for something that is
IN_WORDS = "'·״׳"  # kept between two letters: don't, Catalan l·l, Hebrew abbreviations
NUMBER = re.compile(r"(?<![\w.,])\d+(?:[.,]\d+)*(?!\w)")  # not the digits of 1st or A4
DECIMAL_POINT = ("en", "he", "ja", "ko", "th")  # languages that write 1,000.5; others write 1.000,5


class TextRule(BaseModel):
    """How transcripts are normalised; the default changes nothing.

    Attributes:
        case: all letters in upper or lower case.
        punctuation: `remove` removes it, but for apostrophes in words and for what is read aloud, such as %.
        numbers: a language of the package num2words, such as en, in which numbers are written as words.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    case: Literal["keep", "upper", "lower"] = "keep"
    punctuation: Literal["keep", "remove"] = "keep"
    numbers: str = KEEP

    def apply(self, texts: Sequence[str]) -> list[str]:
        """The texts, normalised and single-spaced; unchanged where nothing was chosen.

        Raises:
            InputError: num2words is needed and not installed, or does not know the language.
        """
        return self.apply_counting(texts)[0]

    def apply_counting(self, texts: Sequence[str]) -> tuple[list[str], list[TextChange]]:
        """The texts, normalised and single-spaced (unchanged where nothing was chosen), and what each step changed.

        Raises:
            InputError: num2words is needed and not installed, or does not know the language.
        """
        done, changes = list(texts), []
        for step, change in self._steps():
            after = [single_spaced(change(text)) for text in done]
            changed = [place for place, text in enumerate(after) if text != done[place]]
            first = changed[0] if changed else None
            before_after = ("", "") if first is None else (done[first], after[first])
            changes.append(TextChange(step=step, texts=len(changed), before=before_after[0], after=before_after[1]))
            done = after
        return done, changes

    def _steps(self) -> list[tuple[str, Callable[[str], str]]]:
        """Name and function of each step that was chosen, in the order in which they are applied."""
        steps: list[tuple[str, Callable[[str], str]]] = []
        if self.numbers != KEEP:
            steps.append((f"numbers as words ({self.numbers})", partial(_spelled, speller(self.numbers), self.numbers)))
        if self.punctuation != KEEP:
            steps.append(("punctuation removed", _without_punctuation))
        if self.case != KEEP:
            steps.append((f"{self.case} case", str.upper if self.case == "upper" else str.lower))
        return steps


class TextChange(BaseModel):
    """What a step of the normalisation changed.

    Attributes:
        step: such as "upper case".
        texts: number of texts that it changed.
        before, after: the first of these texts.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: str
    texts: int = Field(ge=0)
    before: str
    after: str


def _without_punctuation(text: str) -> str:
    text = APOSTROPHES.sub("'", text)
    kept = [
        character if _is_kept(character, text[place - 1 : place], text[place + 1 : place + 2]) else " "
        for place, character in enumerate(text)
    ]
    return "".join(kept)


def _is_kept(character: str, before: str, after: str) -> bool:
    if not unicodedata.category(character).startswith("P") or character in SPOKEN:
        return True
    if character in IN_WORDS:
        return before.isalpha() and after.isalpha()
    return character in ".,:" and before.isdigit() and after.isdigit()


def speller(language: str) -> Callable[..., str]:
    """The function num2words, for a language that it knows.

    Raises:
        InputError: the package is not installed, or does not know the language.
    """
    num2words = optional("num2words", "--numbers needs")
    if language not in num2words.CONVERTER_CLASSES:
        languages = ", ".join(sorted(num2words.CONVERTER_CLASSES))
        raise InputError(f"--numbers {language}: num2words has no such language", f"It has {languages}.")
    function: Callable[..., str] = num2words.num2words
    return function


def _spelled(spell: Callable[..., str], language: str, text: str) -> str:
    thousands, point = (",", ".") if language.partition("_")[0] in DECIMAL_POINT else (".", ",")

    def words(match: re.Match[str]) -> str:
        digits = match[0]
        if re.fullmatch(rf"\d{{1,3}}(\{thousands}\d{{3}})+(\{point}\d+)?", digits):
            digits = digits.replace(thousands, "")
        if not re.fullmatch(rf"\d+(\{point}\d+)?", digits):
            return match[0]  # a date, a version
        number = digits.replace(point, ".")
        return spell(float(number) if "." in number else int(number), lang=language)

    return NUMBER.sub(words, text)
