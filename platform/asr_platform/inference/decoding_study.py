"""An Optuna study of a recogniser's decoding options over encoder states that are computed once.

Method, beam, CTC weight, length penalty and the weight of a language model (of a transcript editor: editing steps, or
the beam of the draft) are searched for the lowest CER. A search that is worse than the best one so far is given up
early, by Wilcoxon's signed-rank test over the batches.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from optuna.trial import TrialState
from torch import Tensor

from asr_platform.inference.evaluate import frames_of, references_of
from trainables.config.tree import Decoding
from trainables.data.corpus import Split
from trainables.decoding import Search
from trainables.evaluation.utterance_errors import UtteranceErrors
from trainables.inference.decoding_options import NO_LANGUAGE_MODEL, SEARCHED, checked, in_words
from trainables.inference.recognizer import BATCH_FRAMES, Recognizer
from trainables.models.speech_transformer import Encoded

MOST_SEARCHES = 40
FEWEST_SEARCHES = 12  # for which the time must be enough; if the split is too long, a part of it is searched
MOST_REPEATED = 20  # proposals in a row that were known: little is left to find
PROBED = 16  # utterances by which the speed is estimated
BATCHES = 16  # at least, where there are so many utterances; a search can be given up after each
FEWEST_BATCHES = 4  # after which a search can be given up
WORSE, MOST_SIGNS = 0.1, 10_000  # p-value below which it is; signs that are tried for it
LARGEST_BEAM = 16
MOST_STEPS = 5  # editing steps
GREEDY: dict[str, Any] = {"method": "greedy"}
FIRST: tuple[dict[str, Any], ...] = (
    {"method": "joint", "beam": 4, "length_penalty": 0.0, "ctc_weight": 0.3, "lm_weight": 0.0},
    {"method": "beam", "beam": 4, "length_penalty": 1.0, "lm_weight": 0.0},
    {"method": "joint", "beam": 8, "length_penalty": 0.0, "ctc_weight": 0.5, "lm_weight": 0.3},
)
"""Values that the study of an encoder-decoder begins with."""


@dataclass(frozen=True)
class Batch:
    """Encoded utterances, with the lengths of their features in frames."""

    ids: list[str]
    references: list[str]
    encoded: Encoded
    frames_B: Tensor


@dataclass(frozen=True)
class Searched:
    """Errors of a search of all utterances of a study, the CER of each batch, and its seconds of computing."""

    decoding: Decoding
    errors: UtteranceErrors
    rates: list[float]
    seconds: float


def surely_worse(rates: Sequence[float], best: Sequence[float]) -> bool:
    """Whether error rates of the same batches are higher than those of the best search, beyond chance.

    Wilcoxon's signed-rank test: under the null hypothesis, every difference is as likely to have the other sign
    (Wilcoxon, 1945, doi:10.2307/3001968). Its p-value is exact up to 13 batches, and from random signs above.
    `optuna.pruners.WilcoxonPruner` runs nearly the same test by `scipy.stats.wilcoxon`, which takes seconds with ties.
    """
    differences = np.subtract(rates, best).round(9)  # equal ones stay equal
    count = len(differences)
    if count < FEWEST_BATCHES or differences.mean() <= 0:
        return False
    from scipy.stats import rankdata  # slow to import, and a sweep imports this module as it starts

    ranks = rankdata(np.abs(differences))
    if 2**count <= MOST_SIGNS:
        signs = 2.0 * ((np.arange(2**count)[:, None] >> np.arange(count)) % 2) - 1
    else:
        signs = np.random.default_rng(0).choice([-1.0, 1.0], (MOST_SIGNS, count))
    sums = signs @ np.where(differences, ranks, 0.0)
    return bool(np.mean(sums >= np.sign(differences) @ ranks - 1e-9) < WORSE)


class OutOfTimeError(Exception):
    """A study must end now."""

    def __init__(self) -> None:
        super().__init__("the time is over")


class Study:
    """A study of one recogniser on one split.

    Args:
        language_model: directory of a language model that searches may use; None: none.
        say: is given a line for each search that is the best so far.
        stop: asked after each batch whether the study must end.

    Attributes:
        found: all searches by their options; None for one that was given up.
        utterances: number of utterances that are searched.
        audio: their length in seconds.
        encoding: seconds that it took to encode them.
    """

    def __init__(
        self, recognizer: Recognizer, split: Split, language_model: Path | None = None,
        say: Callable[[str], None] = lambda line: None, stop: Callable[[], bool] = lambda: False,
    ) -> None:  # fmt: skip
        self.recognizer, self.split, self.say, self.stop = recognizer, split, say, stop
        self.edits = recognizer.config.model.kind == "transcript_editor"
        self.has_ctc = recognizer.has_times
        self.folder = str(language_model.resolve()) if language_model else ""
        self.language_model = recognizer.language_model(self.folder) if self.folder else None
        self.found: dict[Decoding, Searched | None] = {}
        self.batches: list[Batch] = []
        self.audio = self.encoding = 0.0
        self.deadline = math.inf

    @torch.no_grad()
    def run(self, minutes: float) -> tuple[Searched, Searched]:
        """Searches until the time is over, enough has been tried, or nothing new is proposed.

        Returns:
            Greedy search, and the search with the lowest CER; of equal ones, the fastest.
        """
        begin = time.monotonic()
        self.batches = self.encode(self.sample(minutes * 60 / FEWEST_SEARCHES))
        greedy = self.search(self.options(GREEDY))
        self.deadline = begin + minutes * 60
        with suppress(OutOfTimeError):
            for decoding in self.baselines():
                self.search(decoding)
            self.optimize()
        return greedy, self.best or greedy

    @torch.no_grad()
    def compare(self, chosen: Sequence[int], decodings: Sequence[Decoding], seconds: float) -> list[Searched]:
        """Searches the chosen utterances of the split with each of these options.

        Raises:
            OutOfTimeError: it takes longer than `seconds`, or the study was stopped.
        """
        self.deadline = time.monotonic() + seconds
        self.batches = self.encode(chosen)
        return [self.search(decoding) for decoding in decodings]

    @property
    def utterances(self) -> int:
        return sum(len(batch.ids) for batch in self.batches)

    def sample(self, seconds: float) -> list[int]:
        """Indices of as many random utterances as a joint search (of an editor: three steps) decodes in `seconds`.

        At least `PROBED` of them, by which the speed is estimated.
        """
        durations = self.split.seconds
        order = np.random.default_rng(0).permutation(len(durations))
        probed = order[:PROBED]
        steps = {"method": "greedy", "editing_steps": 3}
        search = self.ready(self.options(steps if self.edits else FIRST[0] if self.has_ctc else FIRST[1]))
        features = frames_of(self.split)
        for _ in range(2):  # the first time warms up
            begin = time.monotonic()
            self.recognizer.transcribe([features[index] for index in probed], search)
        speed = float(durations[probed].sum()) / (time.monotonic() - begin)
        fitting = int((np.cumsum(durations[order]) <= speed * seconds).sum())
        return sorted(order[: max(len(probed), fitting)].tolist())

    def encode(self, chosen: Sequence[int]) -> list[Batch]:
        """Encodes the chosen utterances of the split; the batches are in a random order.

        Raises:
            OutOfTimeError: the deadline has passed, or the study was stopped.
        """
        begin = time.monotonic()
        self.audio = float(self.split.seconds[chosen].sum())
        features = [frames_of(self.split)[index] for index in chosen]
        size = min(BATCH_FRAMES, max(1, sum(map(len, features)) // BATCHES))
        texts, found = references_of(self.recognizer, self.split), []
        for places, encoded, frames_B in self.recognizer.encode(features, size):
            indices = [chosen[place] for place in places]
            ids, references = [self.split.ids[index] for index in indices], [texts[index] for index in indices]
            found.append(Batch(ids, references, encoded, frames_B))
            self.check_time()
        self.encoding = time.monotonic() - begin
        return [found[place] for place in np.random.default_rng(0).permutation(len(found))]

    def baselines(self) -> list[Decoding]:
        """Searches to compare with that need no proposal: the model's present options, and greedy CTC."""
        present = self.recognizer.config.decoding
        usable = not present.lm_weight or present.language_model == self.folder
        return [*([present] if usable else []), *([self.options({"method": "ctc"})] if self.has_ctc else [])]

    def optimize(self) -> None:
        """Searches with options that Optuna proposes.

        Raises:
            OutOfTimeError: the deadline has passed, or the study was stopped.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
        for values in () if self.edits else FIRST:
            if self.has_ctc or values["method"] != "joint":
                study.enqueue_trial(values)
        repeated = 0
        while len(self.found) < MOST_SEARCHES and repeated < MOST_REPEATED:
            trial = study.ask()
            decoding = self.options(self.proposal(trial))
            repeated = repeated + 1 if decoding in self.found else 0
            try:
                study.tell(trial, self.search(decoding, trial).errors.cer)
            except optuna.TrialPruned:
                study.tell(trial, state=TrialState.PRUNED)

    def proposal(self, trial: optuna.Trial) -> dict[str, Any]:
        """Values of a trial. They are coarse, since few splits are large enough to tell finer ones apart."""
        methods = [*(["greedy"] if self.edits else ["beam"]), *(["ctc_beam"] if self.has_ctc else [])]
        if self.has_ctc and not self.edits:
            methods.append("joint")
        values: dict[str, Any] = {"method": trial.suggest_categorical("method", methods)}
        if values["method"] == "greedy":
            return {**values, "editing_steps": trial.suggest_int("editing_steps", 1, MOST_STEPS)}
        values["beam"] = trial.suggest_int("beam", 2, LARGEST_BEAM, log=True)
        if values["method"] == "ctc_beam":
            return values
        values["length_penalty"] = round(trial.suggest_float("length_penalty", 0, 2, step=0.1), 1)
        if values["method"] == "joint":
            values["ctc_weight"] = round(trial.suggest_float("ctc_weight", 0.05, 0.95, step=0.05), 2)
        if self.language_model is not None:
            values["lm_weight"] = round(trial.suggest_float("lm_weight", 0, 1, step=0.05), 2)
        return values

    def options(self, values: Mapping[str, Any]) -> Decoding:
        """Default options with these values, and the model's own hotwords where the method uses them.

        Without a language model, `lm_weight` is left out.
        """
        own = self.recognizer.config.decoding
        if "hotwords" in SEARCHED[values["method"]]:
            values = {"hotwords": own.hotwords, "hotword_weight": own.hotword_weight, **values}
        fused = self.language_model is not None and values.get("lm_weight")
        added = {"language_model": self.folder} if fused else NO_LANGUAGE_MODEL
        return checked(self.recognizer.config, {**Decoding().model_dump(), **values, **added})

    def ready(self, decoding: Decoding) -> Search:
        """The search with these options."""
        return self.recognizer.search_with(decoding, self.language_model)

    def search(self, decoding: Decoding, trial: optuna.Trial | None = None) -> Searched:
        """Searches all utterances, unless these options are known already.

        Raises:
            TrialPruned: the trial is worse than the best one.
            OutOfTimeError: the deadline has passed, or the study was stopped.
        """
        if decoding in self.found:
            known = self.found[decoding]
            if known is None:
                raise optuna.TrialPruned
            return known
        search, texts, rates, begin = self.ready(decoding), [], [], time.monotonic()
        best = self.best.rates if self.best else []
        for number, batch in enumerate(self.batches):
            self.check_time()
            with self.recognizer.autocast():
                found = self.recognizer.decode(search, batch.encoded, batch.frames_B)
            texts += found
            rates.append(UtteranceErrors.of("", None, batch.ids, batch.references, found).cer)
            if trial is not None:
                trial.report(rates[-1], number)
                if best and number + 1 < len(self.batches) and surely_worse(rates, best[: number + 1]):
                    self.found[decoding] = None
                    raise optuna.TrialPruned
        return self.record(decoding, texts, rates, time.monotonic() - begin)

    def check_time(self) -> None:
        """Ends what has a deadline once that has passed or the study was stopped.

        Raises:
            OutOfTimeError: it has.
        """
        if self.deadline < math.inf and (time.monotonic() > self.deadline or self.stop()):
            raise OutOfTimeError

    @property
    def best(self) -> Searched | None:
        """The search with the lowest CER; of equal ones, the fastest. None: there is none yet."""
        whole = [one for one in self.found.values() if one is not None]
        return min(whole, key=lambda one: (one.errors.cer, one.seconds), default=None)

    def record(self, decoding: Decoding, texts: list[str], rates: list[float], seconds: float) -> Searched:
        """Adds a search of all utterances to those found."""
        best = self.best
        ids, references = (
            [each for batch in self.batches for each in getattr(batch, name)] for name in ("ids", "references")
        )
        speakers = self.split.speakers_of(ids)
        errors = UtteranceErrors.of(self.split.name, None, ids, references, texts, speakers)
        searched = self.found[decoding] = Searched(decoding, errors, rates, seconds)
        if best is None or errors.cer < best.errors.cer:
            self.say(f"{errors.cer:7.2%}  {in_words(decoding)}")
        return searched
