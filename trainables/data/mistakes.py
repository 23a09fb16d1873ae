"""Collects the mistakes in the data of an importer, so that one message lists many of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from trainables.errors import InputError

SHOWN = 20  # mistakes in one message


class Mistakes:
    """Mistakes found so far, raised as one InputError by `check`.

    Args:
        skippable: number of utterances with mistakes that may be left out (`--skip-bad`); None: every mistake is an
            error.
    """

    def __init__(self, skippable: int | None = None) -> None:
        self.skippable = skippable
        self.problems: list[str] = []  # such as "file: reason"
        self._collected: InputError | None = None  # the latest

    def add(self, *problems: str) -> None:
        """Adds one mistake (text such as "file: reason") for each argument."""
        self.problems += problems

    @contextmanager
    def collecting(self, origin: str = "") -> Iterator[None]:
        """Context that adds an InputError of the block as a mistake, and continues after the block.

        Args:
            origin: place of the mistake, such as "train.jsonl:17", to add to messages without it.
        """
        try:
            yield
        except InputError as error:
            self._collected = error
            named = not origin or origin in error.problem
            self.add(error.problem if named else f"{origin}: {error.problem}")

    @property
    def enough(self) -> bool:
        """Whether `check` would raise, and its message would not list further mistakes."""
        return len(self.problems) > (self.skippable or SHOWN - 1)

    def check(self, remedy: str) -> None:
        """Raises an InputError with the first mistakes if there are more than may be left out.

        A single InputError that is not about an utterance is raised with its own remedy.
        """
        count = len(self.problems)
        if count <= (self.skippable or 0):
            return
        if count == 1 and self._collected and self.skippable is None:
            raise self._collected
        lines = self.problems[:SHOWN] + ([f"and {count - SHOWN} more"] if count > SHOWN else [])
        if self.skippable is not None:
            option = "leave N of them out with --skip-bad N"
            if self.skippable:
                option = f"raise --skip-bad above {self.skippable}"
            remedy = f"{remedy.removesuffix('.')}, or {option}."
        raise InputError("\n".join(lines), remedy)
