"""Errors: mistakes that the user can correct, damaged files, and training that diverged.

The command line prints an InputError as two lines on standard error and exits with code 2.
"""


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
