"""Optuna Dashboard over the ledger: the pages of the package, with trials prepared so that they can be read there.

The pages change nothing but notes: other changes would go past the sweep's driver (`study/steering/`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Container, Iterable, Mapping
from socketserver import ThreadingMixIn
from typing import Any
from urllib.parse import urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.storages import BaseStorage
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState

from asr_platform.compat.optuna import dashboard_note, is_dashboard_note, note_in_dashboard
from asr_platform.monitoring.pictures import Pictures, pictures_of
from asr_platform.monitoring.status import training
from asr_platform.storage.database import open_storage
from asr_platform.storage.home import Home
from asr_platform.storage.ports import listen
from asr_platform.study.ledger import ABOUT, Ledger, TrialRecord
from asr_platform.study.recorded_space import recorded_space
from asr_platform.study.samplers import distributions_of
from asr_platform.study.steering.notes import note_of, version_of
from asr_platform.tracking.notes import annotate, read_notes
from asr_platform.tracking.server import interrupted_by
from trainables.errors import InputError
from trainables.evaluation.metrics import OBJECTIVES, objective

NOTE_ON_TRIAL = re.compile(r"/api/studies/(?P<study>\d+)/(?P<trial>\d+)/note")
CHANGED = "The text you are editing has changed. Please copy your edits and refresh the page."
LOOPBACK = ("127.0.0.1", "localhost", "::1")
READING = ("GET", "HEAD")
FIXED_PARAMS = "fixed_params"  # the attribute of `Study.enqueue_trial`, which the pages show of a waiting trial
METRIC_NAMES = "study:metric_names"  # the attribute that Optuna's `Study.set_metric_names` sets
MANAGED = "Optuna Dashboard only shows this sweep; steer it with platform stop, pause, unpause, add and change."

Environment = dict[str, Any]
Start = Callable[..., Any]
Application = Callable[[Environment, Start], Iterable[bytes]]


def watch(home: Home, ledger: Ledger, host: str, port: int | None, say: Callable[[str], None]) -> int:
    """Serves Optuna Dashboard for a sweep until Ctrl-C, SIGTERM or SIGHUP; returns an exit code.

    Args:
        host, port: address to listen on; default: the first free port from `FIRST_PORT` on.
        say: prints a line for the user: the address of the sweep's page, once it answers.

    Raises:
        InputError: the address cannot be listened on.
    """
    pages = application(home, say, host)
    with listen(host, port, lambda port: make_server(host, port, pages, _Server, _Quiet)) as server:
        read_notes(home, ledger, say)
        page = f"http://{host}:{server.server_port}/dashboard/studies/{ledger.study._study_id}"
        say(f"{ledger.name}: {page}   (Ctrl-C ends it)")
        with interrupted_by():
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                return 0
    return 0


def application(home: Home, say: Callable[[str], None], host: str = "127.0.0.1") -> Application:
    """Optuna Dashboard over a home's ledger, as a WSGI application that changes notes alone.

    Args:
        say: takes a line for the user, such as that MLflow lacks a note.
        host: address that is listened on; on a loopback address, requests to other names of the host are refused, so
            that no page of the internet reaches the ledger by a name of its own (DNS rebinding).
    """
    from optuna_dashboard import wsgi

    storage = Pages(home, say)
    pages: Application = wsgi(storage, Pictures(storage.ledger_of))

    def guarded(environment: Environment, start: Start) -> Iterable[bytes]:
        asked = urlsplit(f"//{environment.get('HTTP_HOST', '')}").hostname
        if host in LOOPBACK and asked not in LOOPBACK:
            return _refuse(start, f"This server answers to {host} alone.")
        if not _is_allowed(environment["REQUEST_METHOD"], environment["PATH_INFO"]):
            return _refuse(start, MANAGED)
        trial = NOTE_ON_TRIAL.fullmatch(environment["PATH_INFO"])
        if trial and environment["REQUEST_METHOD"] == "PUT":
            return storage.note(int(trial["study"]), int(trial["trial"]), environment, start)
        return pages(environment, start)

    return guarded


def _is_allowed(method: str, path: str) -> bool:
    return method in READING or (method == "PUT" and path.startswith("/api/studies/") and path.endswith("/note"))


def _refuse(start: Start, reason: str) -> list[bytes]:
    return _answer(start, "403 Forbidden", {"reason": reason})


def _answer(start: Start, status: str, content: Mapping[str, Any]) -> list[bytes]:
    start(status, [("Content-Type", "application/json")])
    return [json.dumps(content).encode()] if content else []


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Prints nothing: a page asks every few seconds."""


def _refused(*arguments: Any, **options: Any) -> Any:
    raise PermissionError(MANAGED)


class Pages(BaseStorage):
    """The ledger's storage as the pages show it; of its changes, notes alone are passed on.

    Error rates are in percent, parameters have the names and choices of the sweep's present space, trials that no
    worker trains are waiting, and the attributes of trials and sweeps are those that are of use to a reader.
    """

    create_new_study: Any = _refused
    create_new_trial: Any = _refused
    delete_study: Any = _refused
    set_study_user_attr: Any = _refused
    set_trial_intermediate_value: Any = _refused
    set_trial_param: Any = _refused
    set_trial_state_values: Any = _refused
    set_trial_system_attr: Any = _refused
    set_trial_user_attr: Any = _refused

    def __init__(self, home: Home, say: Callable[[str], None]) -> None:
        self.home, self.say = home, say
        self.storage, self.file = open_storage(home.studies)

    def get_study_directions(self, study_id: int) -> list[optuna.study.StudyDirection]:
        return self.storage.get_study_directions(study_id)

    def get_study_id_from_name(self, study_name: str) -> int:
        return self.storage.get_study_id_from_name(study_name)

    def get_study_name_from_id(self, study_id: int) -> str:
        return self.storage.get_study_name_from_id(study_id)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return self._attributes(self.ledger_of(study_id))

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        return self.storage.get_study_user_attrs(study_id)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self.storage.set_study_system_attr(study_id, key, value)

    def get_all_studies(self) -> list[FrozenStudy]:
        return [self._study(study) for study in self.storage.get_all_studies() if ABOUT in study.user_attrs]

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        ledger = self.ledger_of(study_id)
        known, busy = distributions_of(recorded_space(ledger.about)), training(self.home, ledger)
        pairs = zip(ledger.frozen(), ledger.trials(), strict=False)  # a trial may begin in between
        found = [_shown(trial, record, known, record.number in busy) for trial, record in pairs]
        return [trial for trial in found if states is None or trial.state in states]

    def get_trial(self, trial_id: int) -> FrozenTrial:
        return self.storage.get_trial(trial_id)

    def note(self, study_id: int, trial_id: int, environment: Environment, start: Start) -> list[bytes]:
        """Answers a page that writes the note on a trial; as Optuna Dashboard does, unless another has written it."""
        try:
            ledger = self.ledger_of(study_id)
            number = next(trial.number for trial in ledger.frozen() if trial._trial_id == trial_id)
        except (KeyError, StopIteration):
            return _answer(start, "404 Not Found", {"reason": f"no trial {trial_id} of a study {study_id}"})
        try:
            asked = json.loads(environment["wsgi.input"].read(int(environment.get("CONTENT_LENGTH") or 0)))
            text, version = str(asked["body"]), int(asked["version"])
        except (ValueError, KeyError, TypeError):
            return _answer(start, "400 Bad Request", {"reason": "Invalid request."})
        known = note_in_dashboard(self._attributes(ledger), trial_id)
        if version != known["version"] + 1:
            return _answer(start, "409 Conflict", {"reason": CHANGED, "note": known})
        try:
            annotate(self.home, ledger, number, text, self.say, version)
        except InputError as error:
            return _answer(start, "400 Bad Request", {"reason": f"{error.problem}. {error.remedy}"})
        return _answer(start, "204 No Content", {})

    def _attributes(self, ledger: Ledger) -> dict[str, Any]:
        """System attributes of a study, with pictures and the notes on trials as Optuna Dashboard keeps them."""
        found = dict(self.storage.get_study_system_attrs(ledger.study._study_id))
        trials = list(zip(ledger.frozen(), ledger.trials(), strict=False))
        found |= pictures_of(ledger, [(trial._trial_id, record) for trial, record in trials])
        for trial, record in trials:
            if version := version_of(record):
                found = {key: value for key, value in found.items() if not is_dashboard_note(key, trial._trial_id)}
                found |= dashboard_note(note_of(record), version, trial._trial_id)
        return found

    def ledger_of(self, study_id: int) -> Ledger:
        """The ledger of a study; raises KeyError if there is none."""
        return self._ledger(self.storage.get_study_name_from_id(study_id))

    def _ledger(self, name: str) -> Ledger:
        return Ledger(optuna.load_study(storage=self.storage, study_name=name), self.file)

    def _study(self, study: FrozenStudy) -> FrozenStudy:
        ledger = self._ledger(study.study_name)
        about = ledger.about
        row = next((trial.curve[-1] for trial in ledger.trials() if trial.curve), None)
        facts = {
            "space": about["source"], "corpus": about["corpus"], "trials asked for": about["trials"],
            "epochs of a full trial": about["epochs"], "steer it": f"platform pause {study.study_name} TRIAL",
        }  # fmt: skip
        named = {METRIC_NAMES: [_metric(row)]} if row else {}
        return FrozenStudy(
            study.study_name, None, facts, {**self._attributes(ledger), **named}, study._study_id,
            directions=study.directions,
        )  # fmt: skip


def _metric(row: dict[str, Any]) -> str:
    """Name of what is minimised, with its unit."""
    key = objective(row)
    return f"{OBJECTIVES[key]} (%)" if key == "val_cer" else OBJECTIVES[key]


def _shown(trial: FrozenTrial, record: TrialRecord, known: dict[str, BaseDistribution], busy: bool) -> FrozenTrial:
    """A trial of the ledger as the pages show it.

    Args:
        known: distributions of the present space.
        busy: whether workers train the trial.
    """
    scale = 100 if record.curve and objective(record.curve[-1]) == "val_cer" else 1
    state = TrialState.WAITING if trial.state == TrialState.RUNNING and not busy else trial.state
    state_word = "paused" if record.paused else "waiting" if state == TrialState.WAITING else record.state
    best = record.best or {}
    facts = {
        "state": f"{state_word}: {record.reason}" if record.reason else state_word,
        "epochs": record.epochs,
        "parameters": record.about.get("parameters"),
        "best epoch": best.get("epoch"),
        "val WER (%)": round(100 * best["val_wer"], 2) if "val_wer" in best else None,
        "train loss": round(best["train_loss"], 4) if "train_loss" in best else None,
    }
    distributions = {key: _distribution(trial, key, value, known) for key, value in record.params.items()}
    return FrozenTrial(
        number=trial.number,
        state=state,
        value=None,
        values=None if trial.values is None else [_scaled(value, scale) for value in trial.values],
        datetime_start=trial.datetime_start,
        datetime_complete=trial.datetime_complete,
        params=dict(record.params),
        distributions=distributions,
        user_attrs={key: fact for key, fact in facts.items() if fact is not None},
        system_attrs=trial.system_attrs | ({FIXED_PARAMS: dict(record.params)} if state == TrialState.WAITING else {}),
        intermediate_values={epoch: _scaled(value, scale) for epoch, value in trial.intermediate_values.items()},
        trial_id=trial._trial_id,
    )


def _scaled(value: float, scale: float) -> float:
    """A value with as many digits as tell something."""
    return round(scale * value, 3)


def _distribution(trial: FrozenTrial, key: str, value: Any, known: dict[str, BaseDistribution]) -> BaseDistribution:
    """Distribution of a key: of the present space, else as recorded; of a fitted width a range of that one number."""
    own = trial.distributions.get(key)
    if key in known and (own is None or known[key]._contains(known[key].to_internal_repr(value))):
        return known[key]
    return own if own is not None else IntDistribution(int(value), int(value))
