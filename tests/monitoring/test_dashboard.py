"""Optuna Dashboard over a ledger: what its pages are told, and what they may change."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
import records
import seen
from browser import Browser
from command import PLATFORM, ServerProcess, unused_port

from asr_platform.compat import optuna as compat
from asr_platform.monitoring.dashboard import application
from asr_platform.storage.home import Home
from asr_platform.study.ledger import PAUSED, Ledger
from asr_platform.study.run_record import RunRecord
from asr_platform.study.steering.notes import LONGEST, note_of, version_of, write_note

WIDER = records.SPACE.replace("[char, bpe]", "[char, bpe, unigram]")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """A complete trial, a pruned, a failed, one in training and a paused one, the last of a wider space."""
    made = records.ledger_in(tmp_path, corpus="/corpus")
    records.add(made, "complete", [0.5, 0.25])
    records.add(made, "pruned", [0.9], "rung at epoch 1")
    records.add(made, "failed", [], "DivergedError: nan")
    busy = records.add(made, "running", [0.4])
    wider = records.space(WIDER)
    made.widen(wider, Path("/"), {trial.number: trial.params for trial in made.trials()})
    paused = made.propose(wider, records.parameters_of).number
    made.record(paused, records.row(1, 0.6))
    made.describe(paused, PAUSED, True)
    RunRecord(made, 1, 1, "", "").on_trial_start(made.trial(busy))
    return made


def asks(home: Home, path: str, method: str = "GET", body: Any = None, host: str = "127.0.0.1:5000") -> tuple[int, Any]:
    """Status and JSON that the pages' server answers."""
    sent = json.dumps(body).encode()
    environment: dict[str, Any] = {
        "REQUEST_METHOD": method, "PATH_INFO": path, "HTTP_HOST": host, "wsgi.input": io.BytesIO(sent),
        "CONTENT_LENGTH": str(len(sent)), "CONTENT_TYPE": "application/json",
    }  # fmt: skip
    setup_testing_defaults(environment)
    statuses: list[str] = []
    answer = b"".join(
        application(home, pytest.fail)(environment, lambda status, headers, error=None: statuses.append(status))
    )
    return int(statuses[0].split()[0]), json.loads(answer) if answer else None


def test_trials_are_told_in_the_words_of_a_reader(ledger: Ledger, tmp_path: Path) -> None:
    """Error rates in percent, whole names, states, and none of the ledger's own attributes."""
    home = Home(tmp_path)
    with home.lock("small"):
        status, told = asks(home, f"/api/studies/{ledger.study._study_id}")
    assert status == 200 and told["objective_names"] == ["val CER (%)"]
    trials = told["trials"]
    assert [trial["state"] for trial in trials] == ["Complete", "Pruned", "Fail", "Running", "Waiting"]
    assert trials[0]["values"] == [25.0]
    assert trials[0]["intermediate_values"] == [{"step": 1, "value": 50.0}, {"step": 2, "value": 25.0}]
    attributes = [{one["key"]: one["value"] for one in trial["user_attrs"]} for trial in trials]
    assert (
        attributes[0]["epochs"] == "2" and attributes[0]["best epoch"] == "2" and attributes[0]["val WER (%)"] == "50.0"
    )
    assert attributes[1]["state"] == "pruned: rung at epoch 1" and attributes[4]["state"] == "paused"
    assert {key for row in attributes for key in row} == {
        "state", "epochs", "parameters", "best epoch", "val WER (%)", "train loss",
    }  # fmt: skip
    for trial, record in zip(trials, ledger.trials(), strict=True):
        shown = {one["name"]: one["param_external_value"] for one in trial["params"]}
        assert shown == {key: str(value) for key, value in record.params.items()}
    # The page has another place for the values of waiting trials.
    enqueued = [{one["name"]: one["param_external_value"] for one in trial["fixed_params"]} for trial in trials]
    assert enqueued == [{}] * 4 + [{key: str(value) for key, value in ledger.trial(4).params.items()}]
    space = [one["name"] for one in told["union_search_space"]]
    assert len(space) == len(set(space)), "a key whose choices have changed is there once"
    assert {one["key"] for one in told["user_attrs"]}.isdisjoint(ledger.study.user_attrs)


def test_pages_change_notes_alone(ledger: Ledger, tmp_path: Path) -> None:
    home, study = Home(tmp_path), ledger.study._study_id
    before = ledger.about, ledger.trials()
    trial = ledger.frozen()[3]._trial_id
    for method, path, body in (
        ("DELETE", f"/api/studies/{study}", {}), ("POST", f"/api/studies/{study}/rename", {"study_name": "x"}),
        ("POST", "/api/studies", {"study_name": "new", "directions": ["minimize"]}),
        ("POST", f"/api/trials/{trial}/tell", {"state": "Fail"}),
        ("POST", f"/api/trials/{trial}/user-attrs", {"user_attrs": {"reason": "x"}}),
    ):  # fmt: skip
        status, told = asks(home, path, method, body)
        assert status == 403 and "platform stop" in told["reason"]
    assert (ledger.about, ledger.trials()) == before
    note = {"body": "too **slow**", "version": 1}
    assert asks(home, f"/api/studies/{study}/note", "PUT", note)[0] == 204
    assert asks(home, f"/api/studies/{study}")[1]["note"] == note


def test_notes_on_trials_are_the_platforms_and_go_both_ways(ledger: Ledger, tmp_path: Path) -> None:
    home, study = Home(tmp_path), ledger.study._study_id
    trial = ledger.frozen()[3]._trial_id
    path = f"/api/studies/{study}/{trial}/note"

    def shown() -> dict[str, Any]:
        found: dict[str, Any] = asks(home, f"/api/studies/{study}")[1]["trials"][3]["note"]
        return found

    note = {"body": "too **slow** " * 300, "version": 1}
    assert asks(home, path, "PUT", note)[0] == 204
    assert (note_of(ledger.trial(3)), version_of(ledger.trial(3))) == (note["body"].strip(), 1)
    write_note(home, ledger, 3, "by command")
    assert shown() == {"body": "by command", "version": 2}
    status, told = asks(home, path, "PUT", {"body": "of an old page", "version": 2})
    assert (status, told["note"]) == (409, {"body": "by command", "version": 2})
    assert asks(home, path, "PUT", {"body": "", "version": 3})[0] == 204
    assert (note_of(ledger.trial(3)), shown()) == ("", {"body": "", "version": 3})
    for wrong, status in (({"body": "x"}, 400), ({"body": "x" * (LONGEST + 1), "version": 4}, 400)):
        assert asks(home, path, "PUT", wrong)[0] == status
    assert asks(home, f"/api/studies/{study}/99999/note", "PUT", note)[0] == 404


def test_a_note_of_an_earlier_version_is_shown_until_it_is_replaced(ledger: Ledger, tmp_path: Path) -> None:
    """Optuna Dashboard keeps a note by Optuna's id of the trial."""
    home, study = Home(tmp_path), ledger.study._study_id
    trial = ledger.frozen()[3]._trial_id
    for key, value in compat.dashboard_note("of before", 4, trial).items():
        ledger.study._storage.set_study_system_attr(study, key, value)
    assert asks(home, f"/api/studies/{study}")[1]["trials"][3]["note"] == {"body": "of before", "version": 4}
    assert asks(home, f"/api/studies/{study}/{trial}/note", "PUT", {"body": "new", "version": 5})[0] == 204
    assert asks(home, f"/api/studies/{study}")[1]["trials"][3]["note"] == {"body": "new", "version": 5}
    assert note_of(ledger.trial(3)) == "new"


def test_pictures_are_artifacts_drawn_when_they_are_opened(ledger: Ledger, tmp_path: Path) -> None:
    """Curves of every trial with an epoch, attention where a checkpoint has it; nothing is stored."""
    home, study = Home(tmp_path), ledger.study._study_id
    ledger.record(3, {**records.row(2, 0.1), "checkpoint": seen.checkpoint(tmp_path / "checkpoint")})
    before = ledger.study._storage.get_study_system_attrs(study)
    told = asks(home, f"/api/studies/{study}")[1]
    names = [[one["filename"] for one in trial["artifacts"]] for trial in told["trials"]]
    curves, attention = "learning_curves.png", ["cross_attention.png", "self_attention.png"]
    assert names == [[curves], [curves], [], [curves, *attention], [curves]]
    assert [one["filename"] for one in told["artifacts"]] == ["sweep.png"]
    for trial in told["trials"]:
        for one in trial["artifacts"]:
            assert shows_a_picture(home, f"/artifacts/{study}/{trial['trial_id']}/{one['artifact_id']}")
    assert shows_a_picture(home, f"/artifacts/{study}/{told['artifacts'][0]['artifact_id']}")
    assert asks(home, f"/api/artifacts/{study}/{told['artifacts'][0]['artifact_id']}", "DELETE")[0] == 403
    assert ledger.study._storage.get_study_system_attrs(study) == before


def shows_a_picture(home: Home, path: str) -> bool:
    environment: dict[str, Any] = {"REQUEST_METHOD": "GET", "PATH_INFO": path, "HTTP_HOST": "127.0.0.1:5000"}
    setup_testing_defaults(environment)
    content = b"".join(application(home, pytest.fail)(environment, lambda status, headers, error=None: None))
    return content.startswith(b"\x89PNG")


def test_names_that_lead_here_from_the_internet_are_refused(ledger: Ledger, tmp_path: Path) -> None:
    for host, status in (("evil.example:5000", 403), ("localhost:5000", 200), ("127.0.0.1", 200), ("[::1]:5000", 200)):
        assert asks(Home(tmp_path), "/api/studies", host=host)[0] == status


@pytest.fixture
def address(ledger: Ledger, tmp_path: Path) -> Iterator[str]:
    port = unused_port()
    words = [str(PLATFORM), "--home", str(tmp_path), "watch", "small", "--port", str(port)]
    with ServerProcess(words, f"http://127.0.0.1:{port}/") as server:
        started, ready = server.printed().splitlines()
        assert started == "Optuna Dashboard starts ..."
        yield ready.split()[1]


def test_the_pages_in_a_browser(address: str, browser: Browser, pictures: Path) -> None:
    """The sweep's page and its trials, whose names and states are read there; nothing is asked of the internet."""
    for page, text in (("", "val CER (%)"), ("/trials", "Waiting")):
        browser.open(address + page)
        browser.wait(f"document.body.innerText.includes({json.dumps(text)})")
        assert browser.console() == []
        assert all(url.startswith("http://127.0.0.1:") for url in browser.requests())
        browser.screenshot(pictures / f"dashboard{page.replace('/', '-')}.png")
    waiting = "[...document.querySelectorAll('[role=button]')].find(one => one.innerText.includes('Waiting'))"
    browser.wait(waiting)
    browser.run(f"{waiting}.click()")
    browser.wait("document.body.innerText.includes('model.dropout')")
    browser.screenshot(pictures / "dashboard-waiting.png")
