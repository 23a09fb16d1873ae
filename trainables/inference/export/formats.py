"""The formats in which a recogniser can be exported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from trainables.config.tree import Decoding
from trainables.inference.export import export, missing_in_script
from trainables.inference.export.speech2text import export_speech2text, missing_in_generate
from trainables.inference.recognizer import Recognizer


class Exporter(NamedTuple):
    """Export of recognisers in one format.

    Attributes:
        export: writes a recogniser into a new folder, with decoding options that replace those of the model.
        missing: what decoding options ask for and the export does not have.
        searcher: what searches with the decoding options, for messages.
    """

    export: Callable[[Recognizer, Path, Mapping[str, Any]], None]
    missing: Callable[[Decoding], list[str]]
    searcher: str


EXPORTERS = {
    "onnx": Exporter(export, missing_in_script, "the script"),
    "transformers": Exporter(export_speech2text, missing_in_generate, "generate"),
}
"""What writes each format, the default first."""
