"""The one error for a mistake that a person can mend.

It lives in the lowest room because data, configurations and models find most mistakes; the
command line turns it into two lines on standard error and exit code 2.
"""


class InputError(ValueError):
    """Bad input: a file, a key or a value that its owner can correct.

    Args:
        problem: what is wrong, naming the file or key and the value found there.
        remedy: what to do about it, as an instruction.
    """

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem, remedy)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.problem}\n{self.remedy}"


class DamagedError(InputError):
    """A saved file is not what was written: cut short, altered, or missing from its directory."""


class DivergedError(RuntimeError):
    """Training produced a loss or a metric that is not a finite number."""
