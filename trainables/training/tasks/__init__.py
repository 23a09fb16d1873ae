"""The kinds of model in training: `TASKS` has the task of each `model.kind`."""

from collections.abc import Mapping

from trainables.training.tasks.editing import EditingTask
from trainables.training.tasks.language import LanguageTask
from trainables.training.tasks.recognition import RecognitionTask, build_recognizer
from trainables.training.tasks.task import Task

TASKS: Mapping[str, type[Task]] = {
    "encoder_decoder": RecognitionTask,
    "transcript_editor": EditingTask,
    "language_model": LanguageTask,
}

__all__ = ["TASKS", "EditingTask", "LanguageTask", "RecognitionTask", "Task", "build_recognizer"]
