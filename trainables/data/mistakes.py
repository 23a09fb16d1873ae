"""Collects the mistakes in a source, since whoever corrects it wants to see more than the first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from trainables.errors import InputError

SHOWN = 20  # mistakes in one message


class Mistakes:
    """Mistakes found so far, raised as one InputError by `check`.

    Args:
        skippable: number of utterances that may be left out of a corpus for a mistake (`--skip-bad`); None: the
            mistakes are not about utterances, and each is an error.
    """

    def __init__(self, skippable: int | None = None) -> None:
        self.skippable = skippable
        self.problems: list[str] = []  # such as "file: reason"
        self._collected: InputError | None = None  # the latest

    def add(self, *problems: str) -> None:
        """Adds problems, each of one utterance or file."""
        self.problems += problems

    @contextmanager
    def collecting(self, origin: str = "") -> Iterator[None]:
        """Adds an InputError that is raised inside the `with` block, and continues after the block.

        Args:
            origin: place to correct, such as "train.jsonl:17"; it precedes a problem that does not name it.
        """
        try:
            yield
        except InputError as error:
            self._collected = error
            named = not origin or origin in error.problem
            self.add(error.problem if named else f"{origin}: {error.problem}")

    @property
    def enough(self) -> bool:
        """Whether `check` would raise, with a message that further mistakes would not improve."""
        return len(self.problems) > (self.skippable or SHOWN - 1)

    def check(self, remedy: str) -> None:
        """Raises an InputError with the first mistakes if there are more than may be left out.

        The only mistake, if it was collected as an InputError and is not about an utterance, keeps its own remedy.
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
