"""Many mistakes, one message: whoever mends a source wants to see more than the first."""

from __future__ import annotations

from collections.abc import Sequence

from trainables.errors import InputError

SHOWN = 20


def raise_together(mistakes: Sequence[str], remedy: str = "Correct them, or remove the utterances.") -> None:
    """Raises one InputError with the first mistakes and the number of the others; without any, does nothing."""
    if not mistakes:
        return
    shown = list(mistakes[:SHOWN])
    if len(mistakes) > SHOWN:
        shown.append(f"and {len(mistakes) - SHOWN} more")
    raise InputError("\n".join(shown), remedy)
