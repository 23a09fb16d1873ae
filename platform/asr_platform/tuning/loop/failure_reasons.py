"""The reason of a trial's failure in one line, from the files and exceptions of Ray Tune."""

from __future__ import annotations

import pickle
from pathlib import Path

from asr_platform.compat.ray import root_errors
from asr_platform.study.failures import LONGEST_REASON, UNKNOWN, most_specific


def reason_in(pickled: str | None, printed: str | None) -> str:
    """Reason of a failure in one line, from the files that Ray Tune writes.

    Args:
        pickled: path of the file with the pickled error; None if Tune has not written it.
        printed: path of the file with the error's text; None if Tune has not written it.
    """
    try:
        with open(pickled or "", "rb") as file:
            return reason_of(pickle.load(file))
    except Exception:  # it may need classes that only the worker has
        return _reason_of_text(Path(printed)) if printed and Path(printed).is_file() else UNKNOWN


def _reason_of_text(file: Path) -> str:
    """Reason of a failure in one line, from a file with a traceback (its last line) or a message (all of it)."""
    _, *lines = file.read_text(encoding="utf-8", errors="replace").split("\n")  # the first says when
    words = [" ".join(line.split()) for line in lines if line.strip()] or [UNKNOWN]
    return (words[-1] if "ray::" in words[0] else " ".join(words))[:LONGEST_REASON]


def reason_of(error: BaseException) -> str:
    """Reason of a failure in one line, `Type: message`, without Ray's wrapper exceptions.

    If several workers have errors, the one with the most specific cause counts.
    """
    roots = root_errors(error)
    return most_specific([f"{type(one).__name__}: {' '.join(str(one).split())}"[:LONGEST_REASON] for one in roots])
