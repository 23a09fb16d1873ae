"""Importers: each module lists the utterances of one corpus format, for the command `platform prepare NAME`.

To add the format NAME:

1. Write `NAME.py` here with a function `NAME_utterances(...) -> list[Utterance]`; `manifest.py` is a short example. An
   utterance's `source` computes its features later, in a worker process: `AudioSegment` for an audio file or a part of
   it, else a small class of your own such as `hw4.FeatureFile`. Add the mistakes in utterances to a `Mistakes`, so that
   one message names them all and `--skip-bad` can leave them out.
2. Add the command with its options to `asr_platform/cli/data.py`; a name of several words has `_` here and `-` there.
3. Test it in `tests/data/test_importers_NAME.py`.
"""
