"""The corpus: one memory-mapped Arrow file a split, and `corpus.json` beside them.

A split's file is an Arrow IPC file with one record batch: `id`, `text` (null where the split has no transcripts),
`duration` in seconds, and `features`, a list of float16 frames for each utterance. All frames of a split therefore lie
in one flat buffer (total_frames, F), and a reader maps the file without copying. Where they are known, there are also
`speaker` and `recordings`, the parts of audio files that the utterance is joined from.

`corpus.json` has the feature recipe, the statistics of the training splits, a summary of each split and a hash of the
content, which depends on the ids, texts, speakers and features alone.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from trainables.config.data import Data
from trainables.data.features import FeatureRecipe
from trainables.data.folds import Fold
from trainables.data.splitting import DevSplit
from trainables.data.text.normalization import TextChange, TextRule
from trainables.data.utterance import Recording, trains, validates
from trainables.errors import InputError
from trainables.folders import check_decodable

FORMAT_VERSION = 1
DESCRIPTION_FILE = "corpus.json"
SPLIT_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"  # it names a file
RECORDINGS = pa.list_(
    pa.struct([("path", pa.string()), ("offset", pa.float64()), ("duration", pa.float64())])
)  # a path of null is a silence, a duration of null lasts to the end of the file
PREPARE = "Run `platform prepare` to make it"
DATA = Data()  # the usual splits


class SplitSummary(BaseModel):
    """Size of a split."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    utterances: int
    seconds: float
    characters: int
    frames: int
    speakers: int | None = None  # number of different ones; None: none is known


class Preparation(BaseModel):
    """What was done to the source's utterances.

    Attributes:
        text: normalisation of the texts.
        changes: what each step of the normalisation changed.
        dev: the validation split that was taken from the training splits; None: none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: TextRule = TextRule()
    changes: list[TextChange] = []
    dev: DevSplit | None = None


class Description(BaseModel):
    """The content of `corpus.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format_version: int
    source: str
    recipe: FeatureRecipe
    hash: str
    splits: dict[Annotated[str, StringConstraints(pattern=SPLIT_NAME)], SplitSummary]
    mean: list[float] | None  # (F,) over the frames of all training splits
    std: list[float] | None  # (F,) population standard deviation; 0 for a constant bin
    preparation: Preparation = Preparation()


@dataclass(frozen=True)
class Split:
    """An open split: N utterances with their frames in one flat tensor.

    Utterance n is `features[offsets[n] : offsets[n] + frames[n]]`.
    """

    name: str
    ids: list[str]
    texts: list[str] | None
    seconds: npt.NDArray[np.float32]  # (N,)
    frames: npt.NDArray[np.int64]  # (N,)
    offsets: npt.NDArray[np.int64]  # (N,) first frame of each utterance
    features: torch.Tensor  # (total_frames, F) float16, memory-mapped, read-only
    speakers: list[str | None] | None = None  # None for an utterance: unknown; None: no speaker is known
    stored_recordings: pa.ListArray | None = None  # (N,) of RECORDINGS; None: no audio file is known

    def __len__(self) -> int:
        return len(self.ids)

    def utterance(self, place: int) -> torch.Tensor:
        """Features (T, F) of the utterance at index `place`."""
        return self.features[self.offsets[place] : self.offsets[place] + self.frames[place]]

    def part(self, name: str, places: npt.NDArray[np.int64]) -> Split:
        """The utterances at `places` as a split of another name; the features are the same tensor."""
        return replace(
            self,
            name=name,
            ids=[self.ids[place] for place in places],
            texts=self.texts and [self.texts[place] for place in places],
            seconds=self.seconds[places],
            frames=self.frames[places],
            offsets=self.offsets[places],
            speakers=self.speakers and [self.speakers[place] for place in places],
            stored_recordings=None if self.stored_recordings is None else self.stored_recordings.take(pa.array(places)),
        )

    def summary(self) -> SplitSummary:
        """The split's size."""
        speakers = len(set(self.speakers) - {None}) if self.speakers else None
        return SplitSummary(
            utterances=len(self),
            seconds=float(self.seconds.sum()),
            characters=sum(map(len, self.texts or [])),
            frames=int(self.frames.sum()),
            speakers=speakers,
        )

    def speakers_of(self, ids: Sequence[str]) -> list[str | None] | None:
        """Speakers of the utterances with these ids, None: unknown; None where no speaker of the split is known."""
        if self.speakers is None:
            return None
        known = dict(zip(self.ids, self.speakers, strict=True))
        return [known[id] for id in ids]

    def recordings(self, place: int) -> list[Recording]:
        """Parts that give the audio of the utterance at index `place` when joined; empty where no file has it."""
        parts = [] if self.stored_recordings is None else self.stored_recordings[place].as_py()
        return [Recording(part["path"] and Path(part["path"]), part["offset"], part["duration"]) for part in parts]


class Corpus:
    """A prepared corpus on disk. `open` reads only `corpus.json`; `split` maps a split."""

    def __init__(self, path: Path, description: Description) -> None:
        self.path = path
        self.hash = description.hash
        self.source = description.source
        self.recipe = description.recipe
        self.splits = description.splits
        self.preparation = description.preparation
        self.mean = _tensor(description.mean)
        self.std = _tensor(description.std)

    @classmethod
    def open(cls, path: Path | str) -> Corpus:
        """Opens the corpus in the folder `path`.

        Raises:
            InputError: the folder has no corpus, one of another format version, or one with missing files.
        """
        path = Path(path)
        check_decodable(path)
        description = _read_description(path)
        missing = [str(path / f"{name}.arrow") for name in description.splits if not (path / f"{name}.arrow").is_file()]
        if missing:
            raise InputError(f"{path}: missing {', '.join(missing)}", "Copy the whole corpus again, or prepare it.")
        return cls(path, description)

    def split(self, name: str) -> Split:
        """Memory-maps a split, or a fold of one (see `trainables.data.folds`).

        Raises:
            InputError: there is no such split or fold, or its file is damaged.
        """
        if fold := self._fold(name):
            whole = self.split(fold.split)
            return whole.part(name, fold.places(whole.speakers, whole.seconds))
        if name not in self.splits:
            raise InputError(
                f"{self.path}: no split named {name!r}", f"The splits of this corpus are {', '.join(self.splits)}."
            )
        file = self.path / f"{name}.arrow"
        try:
            split = _map_split(file, name)
        except (OSError, pa.ArrowException, KeyError, AttributeError, ValueError, IndexError) as error:
            raise InputError(f"{file}: unreadable: {error}", "Copy the file again, or prepare the corpus.") from None
        summary, shape = self.splits[name], tuple(split.features.shape)
        if len(split) != summary.utterances or shape != (summary.frames, self.recipe.bins):
            raise InputError(
                f"{file}: holds {len(split)} utterances with features {shape}, but {DESCRIPTION_FILE} "
                f"says {summary.utterances} with {(summary.frames, self.recipe.bins)}",
                "The files are of two corpora: prepare the corpus again.",
            )
        return split

    def undivided(self, split: Split) -> Split:
        """The split that a fold is a part of; any other split itself."""
        fold = self._fold(split.name)
        return self.split(fold.split) if fold else split

    def _fold(self, name: str) -> Fold | None:
        fold = Fold.named(name)
        return fold if name not in self.splits and fold and fold.split in self.splits else None

    def summary(self, name: str) -> SplitSummary:
        """Size of a split or of a fold; raises as `split` does."""
        return self.splits[name] if name in self.splits else self.split(name).summary()

    def kept_bins(self, num_feats: int | None) -> int:
        """Number of mel bins that a model sees: `num_feats` (`features.num_feats`), or all bins if that is None.

        Raises:
            InputError: the corpus has fewer bins.
        """
        bins = self.recipe.bins
        if num_feats is not None and num_feats > bins:
            raise InputError(
                f"features.num_feats: {num_feats}, but {self.path} has {bins} bins", f"Say at most {bins}."
            )
        return num_feats or bins

    def training_split(self, data: Data = DATA) -> Split:
        """The split `data.train`, or the only one named train*; with `data.folds`, without one fold's speakers."""
        return self._with_texts(self.training_name(data), "training", "data.train")

    @property
    def training_splits(self) -> list[str]:
        """Names of the splits named train*, in upper or lower case."""
        return [split for split in self.splits if trains(split)]

    @property
    def validation_splits(self) -> list[str]:
        """Names of the splits named dev* or val*, in upper or lower case."""
        return [split for split in self.splits if validates(split)]

    def training_name(self, data: Data = DATA) -> str:
        """Name of the training split, without opening it."""
        name = self._trained_on(data)
        return Fold(name, data.fold, data.folds, validates=False).name if data.folds else name

    def _trained_on(self, data: Data) -> str:
        """Name of the training split, undivided."""
        return self._chosen(data.train, self.training_splits, "training", "data.train")

    def validation_split(self, data: Data = DATA) -> Split:
        """The split `data.validation`, or the only one named dev* or val*; with `data.folds`, the fold's speakers.

        Of several, `dev-clean` is taken: LibriSpeech's usual choice.
        """
        key = "data.train" if data.folds else "data.validation"
        return self._with_texts(self.validation_name(data), "validation", key)

    def validation_name(self, data: Data = DATA) -> str:
        """Name of the validation split, without opening it."""
        if data.folds:
            return Fold(self._trained_on(data), data.fold, data.folds, validates=True).name
        found = ["dev-clean"] if "dev-clean" in self.validation_splits else self.validation_splits
        return self._chosen(data.validation, found, "validation", "data.validation")

    def _chosen(self, name: str | None, found: list[str], purpose: str, key: str) -> str:
        if name is None and len(found) == 1:
            name = found[0]
        if name is None or name not in self.splits:
            reason = f"no split named {name!r}" if name is not None else f"{len(found) or 'no'} {purpose} splits"
            raise InputError(f"{self.path}: {reason}", self._choice(name, found, purpose, key))
        return name

    def _choice(self, name: str | None, found: list[str], purpose: str, key: str) -> str:
        """Remedy where a split cannot be chosen; what is trained or tested on is not offered for validation."""
        choices = found if len(found) > 1 and name is None else list(self.splits)
        if purpose == "training":
            return f"Set {key} to one of: {', '.join(choices)}."
        choices = [split for split in choices if not trains(split) and not split.lower().startswith("test")]
        chosen = f"et {key} to one of: {', '.join(choices)}."
        again = "Prepare the corpus again: `platform prepare` takes a dev split from the training data"
        return f"S{chosen}" if found else f"{again}, or s{chosen}" if choices else f"{again}."

    def _with_texts(self, name: str, purpose: str, key: str) -> Split:
        split = self.split(name)
        if split.texts is None:
            raise InputError(
                f"{self.path}: the split {name} has no transcripts, so it cannot serve for {purpose}",
                f"Set {key} to a split with transcripts.",
            )
        return split


def _tensor(values: list[float] | None) -> torch.Tensor | None:
    return None if values is None else torch.tensor(values, dtype=torch.float32)


def _read_description(path: Path) -> Description:
    file = path / DESCRIPTION_FILE
    if not file.is_file():
        raise InputError(f"{path}: no corpus here ({DESCRIPTION_FILE} is missing)", f"{PREPARE}, or correct the path.")
    try:
        tree: Any = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: unreadable: {error}", "Prepare the corpus again.") from None
    version = tree.get("format_version") if isinstance(tree, dict) else None
    if version != FORMAT_VERSION:
        raise InputError(
            f"{file}: corpus format {version}, but this version reads format {FORMAT_VERSION}",
            "Prepare the corpus again with this version.",
        )
    try:
        return Description.model_validate(tree)
    except ValidationError as error:
        reasons = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise InputError(f"{file}: {reasons}", "Prepare the corpus again.") from None


def _map_split(file: Path, name: str) -> Split:
    batch = pa.ipc.open_file(pa.memory_map(str(file), "r")).get_batch(0)
    lists = batch.column("features")
    vectors = lists.values  # fixed-size lists of F float16 values
    values = vectors.values.to_numpy(zero_copy_only=True).reshape(len(vectors), vectors.type.list_size)
    offsets = lists.offsets.to_numpy()
    texts = batch.column("text")
    with warnings.catch_warnings():
        # torch has no read-only tensors; nothing writes to this one.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        features = torch.from_numpy(values)
    return Split(
        name=name,
        ids=batch.column("id").to_pylist(),
        texts=None if texts.null_count else texts.to_pylist(),
        seconds=batch.column("duration").to_numpy(),
        frames=np.diff(offsets),
        offsets=offsets[:-1],
        features=features,
        speakers=batch.column("speaker").to_pylist() if "speaker" in batch.schema.names else None,
        stored_recordings=batch.column("recordings") if "recordings" in batch.schema.names else None,
    )
