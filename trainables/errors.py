"""Errors: mistakes that the user can correct, damaged files, and training that diverged.

The command line prints an InputError as two lines on standard error and exits with code 2.
"""

import math


class InputError(ValueError):
    """Bad input: a file, a key or a value that the user can correct.

    Args:
        problem: what is wrong, with the file or key and its value.
        remedy: an instruction that corrects it.
    """

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem, remedy)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.problem}\n{self.remedy}"


class DamagedError(InputError):
    """A saved file that is truncated, altered, or missing from its directory."""


class DivergedError(RuntimeError):
    """A loss or a metric that is not a finite number."""


def check_finite(name: str, value: float, epoch: int) -> None:
    """Raises `DivergedError` for a value that is NaN or infinite."""
    if not math.isfinite(value):
        raise DivergedError(
            f"the {name} became {value} in epoch {epoch}: try a lower optimizer.lr, a longer optimizer.warmup "
            "or a smaller training.clip_norm"
        )
