"""`platform ui` serves MLflow's pages, and the view of a sweep shows its trials: seen in a browser."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import records
import shown
from browser import Browser
from command import OTHERS, PATIENCE, PLATFORM, unused_port, wait_for
from mlflow.tracking import MlflowClient
from place import Ended, Run

from asr_platform.storage.home import Home
from asr_platform.study.ledger import Ledger
from asr_platform.study.run_record import MLFLOW_VIEW
from asr_platform.study.steering.notes import note_of
from asr_platform.tracking.deletion import Deletion
from asr_platform.tracking.runs import DESCRIPTION
from asr_platform.tuning.callbacks.mlflow import MLflowCallback
from trainables.data.corpus import Corpus

HEADINGS = ["asr/best_cer_percent", "interval", "parameters", "stopped"]
ROWS = "[...document.querySelectorAll('.ag-center-cols-container [role=row]')]"
AXES = "[...document.querySelectorAll('.parcoords .axis-title')].map(axis => axis.textContent)"  # of compared runs
LABELS = "[...document.querySelectorAll('.parcoords .label')].map(label => label.textContent)"  # among charts
SECTIONS = "[...document.querySelectorAll('[data-testid=experiment-view-compare-runs-section-header]')]"


@dataclass
class Served:
    """`platform ui` over a home with one sweep.

    Attributes:
        lines: what it has said before it served.
    """

    home: Home
    process: subprocess.Popen[str]
    lines: list[str]

    @property
    def address(self) -> str:
        return self.lines[2].split()[1]

    @property
    def view(self) -> str:
        """Address of the sweep's view."""
        return self.lines[1].split()[1]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, tiny_corpus: Corpus) -> Iterator[Served]:
    home = Home.at(tmp_path_factory.mktemp("home") / "50% of #1 q%41?")
    shown.show(home, shown.finished_sweep(home, tiny_corpus), tiny_corpus)
    port = unused_port()
    process = ui(home, port)
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        assert page(port) is not None, "an address that has been printed answers"
        assert lines[0] == "MLflow's server starts ...\n"
        assert lines[1].startswith(f"{shown.NAME}: http://127.0.0.1:{port}/#/experiments/1/runs?viewStateShareKey=")
        assert lines[1].endswith("   (Ctrl-C ends it)\n") and lines[2] == f"MLflow: http://127.0.0.1:{port}\n"
        yield Served(home, process, lines)
    finally:
        process.terminate()
        process.communicate()
    assert list(home.path.parent.iterdir()) == [home.path], "nothing beside it by an address's text"


def ui(home: Home, port: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(PLATFORM), "--home", str(home.path), "ui", "--port", str(port)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, env=OTHERS,
    )  # fmt: skip


def page(port: int) -> str | None:
    """The first page's HTML; None while no server answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
            return str(answer.read().decode())
    except OSError:
        return None


def cells(browser: Browser) -> list[dict[str, str]]:
    """The visible table of runs: for each row, texts by column heading."""
    script = f"""
        const names = Object.fromEntries([...document.querySelectorAll('[col-id][role=columnheader]')].map(
            heading => [heading.getAttribute('col-id'), heading.innerText.trim()]));
        return {ROWS}.map(row => {{
            const id = row.getAttribute('row-id');
            const parts = [...document.querySelectorAll(`[row-id="${{id}}"] [role=gridcell]`)];
            const text = cell => cell.innerText.trim().split('\\n').pop();  // without the colour of a run
            return Object.fromEntries(parts.map(cell => [names[cell.getAttribute('col-id')], text(cell)]));
        }});
    """
    found: list[dict[str, str]] = browser.run(script)
    return found


@pytest.fixture(scope="module")
def visitor(served: Served, browser: Browser, pictures: Path) -> Browser:
    """A browser in which MLflow's assistant, which opens at the first visit, has been closed."""
    browser.resize(1600, 900)
    browser.open(served.view)
    closing = "document.querySelector('[data-assistant-ui] [aria-label^=Close]')"
    browser.wait(closing)
    browser.wait(f"{ROWS}.length == {shown.TRIALS}")
    browser.screenshot(pictures / "first_visit.png")
    browser.run(f"{closing}.click()")
    browser.resize(2200, 1000)  # as wide as all columns: others are not in the page
    return browser


def test_the_view_shows_the_trials_best_first(served: Served, visitor: Browser, pictures: Path) -> None:
    """Columns are CER, interval, size, reason for stopping and the varied keys, without a click."""
    visitor.open(served.view)
    visitor.wait(f"{ROWS}.length == {shown.TRIALS}")
    visitor.screenshot(pictures / "runs.png")
    rows = cells(visitor)
    assert {*HEADINGS, *records.space().vary} <= set(rows[0])
    assert [row["Run Name"] for row in rows][:4] == ["trial-0000", "trial-0002", "trial-0004", "trial-0006"]
    assert float(rows[0]["asr/best_cer_percent"]) == 10
    low, high = rows[0]["interval"].rstrip("%").split("–")
    assert float(low) < 10 < float(high)
    assert rows[0]["parameters"].isdigit() and rows[0]["stopped"] in ("", "-")
    assert any(row["stopped"].startswith("rung at epoch 3") for row in rows)
    assert rows[-1]["stopped"].startswith("DivergedError") and rows[-1]["asr/best_cer_percent"] in ("", "-")


def test_the_best_ten_are_compared(served: Served, visitor: Browser, pictures: Path) -> None:
    """The comparison of ticked runs shows parallel coordinates of the varied keys and the CER."""
    visitor.open(served.view)
    visitor.wait(f"{ROWS}.length == {shown.TRIALS}")
    visitor.run("""
        const boxes = [...document.querySelectorAll('.ag-pinned-left-cols-container .ag-selection-checkbox input')];
        boxes.slice(0, 10).forEach(box => box.click());
    """)
    visitor.wait("[...document.querySelectorAll('button')].some(button => button.innerText == 'Compare')")
    visitor.run("[...document.querySelectorAll('button')].find(button => button.innerText == 'Compare').click()")
    visitor.wait("document.querySelectorAll('.parcoords .axis-title').length")
    visitor.screenshot(pictures / "compared.png", whole=True)
    runs = json.loads(parse_qs(urlsplit(visitor.driver.current_url).fragment.partition("?")[2])["runs"][0])
    assert len(runs) == 10
    axes = visitor.run(f"return {AXES}")
    assert "asr/best_cer_percent" in axes
    assert len(set(axes) & set(records.space().vary)) >= 3


def test_the_charts_begin_with_what_varied(served: Served, visitor: Browser, pictures: Path) -> None:
    """Learning curves over epochs and over hours of audio come next."""
    visitor.open(served.view.replace("&workflowType", "&compareRunsMode=CHART&workflowType"))
    visitor.wait(f"{LABELS}.length")
    visitor.screenshot(pictures / "charts.png")
    always = {key for key, variable in records.space().vary.items() if not variable.when}
    assert set(visitor.run(f"return {LABELS}")) == {*always, "asr/best_cer_percent"}
    visitor.run(f"{SECTIONS}.find(section => section.innerText.startsWith('learning curves')).scrollIntoView()")
    titles = "[...document.querySelectorAll('.xtitle')].map(title => title.textContent)"
    visitor.wait(f"['Step', 'train/audio_hours'].every(title => {titles}.includes(title))")
    visitor.screenshot(pictures / "curves.png")


def test_the_sweeps_run_leads_to_the_view(served: Served, visitor: Browser, pictures: Path) -> None:
    client = MlflowClient(served.home.tracking)
    (experiment,) = client.search_experiments(filter_string="name LIKE 'tiny%'")
    (parent,) = client.search_runs([experiment.experiment_id], "tags.kind = 'sweep'")
    visitor.open(f"{served.address}/#/experiments/{experiment.experiment_id}/runs/{parent.info.run_id}")
    links = "[...document.querySelectorAll('a')].map(link => link.getAttribute('href') || '')"
    visitor.wait(f"{links}.some(link => link.includes('viewStateShareKey'))")
    visitor.screenshot(pictures / "sweep.png")
    found: list[Any] = visitor.run(f"return {links}")
    assert "http://127.0.0.1:8265" in found
    assert any(link in served.view for link in found if "viewStateShareKey" in link)


def test_the_champion_has_its_card(served: Served, visitor: Browser, pictures: Path) -> None:
    visitor.open(f"{served.address}/#/models/{shown.NAME}")
    text = "document.body.innerText"
    visitor.wait(f"/Version 1\\b/.test({text}) && /@\\s*champion/.test({text})")
    visitor.open(f"{served.address}/#/models/{shown.NAME}/versions/1")
    visitor.wait(f"['Evaluation results', 'Limitations'].every(title => {text}.includes(title))")
    figures = "[...document.querySelectorAll('td')].map(cell => cell.innerText.trim())"
    assert {"CER", "10.00%"} <= set(visitor.run(f"return {figures}"))
    visitor.screenshot(pictures / "champion.png")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_pages_and_their_server(number: signal.Signals, served: Served) -> None:
    """The signal goes to the command alone, as from systemd or a closed terminal; nothing listens afterwards.

    What was written on the pages is a note then.
    """
    ledger, port = Ledger.open(served.home.studies, shown.NAME), unused_port()
    process, server = ui(served.home, port), []
    try:
        wait_for(lambda: page(port) is not None, process)
        server = children(process.pid)
        assert server
        run = ledger.trial(0).about["mlflow_run_id"]
        MlflowClient(f"http://127.0.0.1:{port}").set_tag(run, DESCRIPTION, f"until {number.name}")
        process.send_signal(number)
        out = process.communicate(timeout=PATIENCE)[0]
        assert (process.returncode, "Traceback" in out) == (0, False), out
        assert page(port) is None
        assert note_of(ledger.trial(0)) == f"until {number.name}"
        for pid in (process.pid, *server):
            with pytest.raises(ProcessLookupError):
                os.killpg(pid, 0)
    finally:
        process.kill()
        for pid in server:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)


def test_notes_are_those_of_the_sweeps_that_exist_when_the_pages_end(tmp_path: Path, tiny_corpus: Corpus) -> None:
    home, port = Home.at(tmp_path / "mlruns"), unused_port()

    def begin(name: str) -> Ledger:
        ledger = records.ledger_in(home.path, name, corpus=str(tiny_corpus.path), corpus_hash=tiny_corpus.hash)
        records.add(ledger, "running")
        MLflowCallback(home, ledger, records.space(), tiny_corpus, pytest.fail).on_sweep_start(ledger.trials())
        return ledger

    begin("deleted")
    process = ui(home, port)
    try:
        wait_for(lambda: page(port) is not None, process)
        Deletion.of(home, "deleted").delete()
        later = begin("later")
        MlflowClient(home.tracking).set_tag(later.trial(0).about["mlflow_run_id"], DESCRIPTION, "mine")
        process.send_signal(signal.SIGINT)
        out = process.communicate(timeout=PATIENCE)[0]
        assert (process.returncode, note_of(later.trial(0))) == (0, "mine"), out
    finally:
        process.terminate()
        process.communicate()


def test_the_server_sends_no_telemetry(served: Served) -> None:
    """Also where it is started from Python, whose environment is left as it is."""
    known = {name: value for name, value in OTHERS.items() if name not in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK")}
    code = "import sys; from pathlib import Path; from asr_platform.storage.home import Home\n"
    code += "from asr_platform.storage.ports import free_port; from asr_platform.tracking.server import open_pages\n"
    code += "open_pages(Home.existing(Path(sys.argv[1])), None, None, '127.0.0.1', free_port('127.0.0.1', None), print)"
    process = subprocess.Popen([sys.executable, "-c", code, str(served.home.path)], start_new_session=True, env=known)
    try:
        wait_for(lambda: len(children(process.pid)) == 1, process)
        (server,) = children(process.pid)
        wait_for(lambda: b"mlflow" in Path(f"/proc/{server}/cmdline").read_bytes(), process)
        assert b"MLFLOW_DISABLE_TELEMETRY=true" in Path(f"/proc/{server}/environ").read_bytes().split(b"\0")
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE)


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_where_the_store_is_a_server_its_address_is_told(run: Run, place: Path) -> None:
    """Nothing is served then; the address of the sweep's view is printed if the store has it."""
    server = "http://mlflow.example:5000/"
    assert run("ui", "--tracking-uri", server) == Ended(0, "MLflow: http://mlflow.example:5000\n", "")
    about = {"options": {"tracking_uri": server}, MLFLOW_VIEW: "/#/experiments/1/runs?viewStateShareKey=there"}
    records.ledger_in(place / "mlruns", "elsewhere", **about)
    expected = f"elsewhere: {server[:-1]}{about[MLFLOW_VIEW]}\nMLflow: {server[:-1]}\n"
    assert run("ui") == run("ui", "elsewhere") == Ended(0, expected, "")
