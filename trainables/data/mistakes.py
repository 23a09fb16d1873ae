"""Many mistakes, one message: whoever mends a source wants to see more than the first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from trainables.errors import InputError

SHOWN = 20


def raise_together(mistakes: Sequence[str], remedy: str) -> None:
    """Raises one InputError with the first mistakes and the number of the others; without any, does nothing."""
    if not mistakes:
        return
    shown = list(mistakes[:SHOWN])
    if len(mistakes) > SHOWN:
        shown.append(f"and {len(mistakes) - SHOWN} more")
    raise InputError("\n".join(shown), remedy)


class BadRecordings:
    """Recordings that cannot be used: so many are left out of a corpus, and more are an error.

    Args:
        limit: how many may be left out.
    """

    def __init__(self, limit: int = 0) -> None:
        self.limit = limit
        self.problems: list[str] = []  # "file: reason" of each

    def add(self, problems: Iterable[str]) -> None:
        """Notes problems, one a recording."""
        self.problems += problems

    @property
    def enough(self) -> bool:
        """Whether there is no sense in looking for more: it is an error already, and a helpful one."""
        return len(self.problems) > self.limit and (self.limit > 0 or len(self.problems) >= SHOWN)

    def check(self, remedy: str = "Correct them, or remove the utterances") -> None:
        """Raises an InputError with the problems so far if they are more than may be left out.

        Args:
            remedy: what to do about them, as a sentence without its full stop.
        """
        if len(self.problems) > self.limit:
            option = f"raise --skip-bad above {self.limit}" if self.limit else "leave N of them out with --skip-bad N"
            raise_together(self.problems, f"{remedy}, or {option}.")
