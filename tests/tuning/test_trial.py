"""A trial's reports, and what it finds in its folder when it goes on."""

from __future__ import annotations

import subprocess
import sys
from multiprocessing.connection import Client
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
import ray.train

from asr_platform.compat.ray import CHECKPOINT_LIST
from asr_platform.tuning.mailbox import Mailbox
from asr_platform.tuning.trial import repair_checkpoint_list
from trainables.training.checkpoint_files import TRAINING


def checkpoint(folder: Path, name: str, whole: bool = True) -> Path:
    path = folder / f"checkpoint_{name}"
    path.mkdir(parents=True)
    if whole:
        (path / TRAINING).write_text("{}")
    return path


def test_a_new_trial_and_a_whole_list_need_no_mending(tmp_path: Path) -> None:
    assert repair_checkpoint_list(tmp_path / "missing") is None
    (tmp_path / CHECKPOINT_LIST).write_text("{}")
    assert repair_checkpoint_list(tmp_path) is None
    assert (tmp_path / CHECKPOINT_LIST).exists()


def test_half_a_list_is_removed_and_the_latest_whole_checkpoint_found(tmp_path: Path) -> None:
    checkpoint(tmp_path, "2026-11-21_10-00-00.000001")
    latest = checkpoint(tmp_path, "2026-11-21_10-00-09.000001")
    checkpoint(tmp_path, "2026-11-21_10-00-10.000001", whole=False)
    (tmp_path / CHECKPOINT_LIST).write_text('{"checkpoint_results": [')
    for _ in range(2):  # the run that finds it may be killed before it has written a list
        assert repair_checkpoint_list(tmp_path) == str(latest)
        assert not (tmp_path / CHECKPOINT_LIST).exists()
    (tmp_path / CHECKPOINT_LIST).write_text("{}")
    assert repair_checkpoint_list(tmp_path) is None


def test_half_a_list_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT_LIST).write_text("")
    assert repair_checkpoint_list(tmp_path) is None


@pytest.fixture
def reports() -> SimpleQueue[Any]:
    return SimpleQueue()


def test_reports_wait_until_they_are_asked_for(reports: SimpleQueue[Any], tmp_path: Path) -> None:
    """However many there are: the sender waits for nobody. The first worker's metrics count."""
    mailbox = Mailbox(reports)
    sender = mailbox.sender()
    for epoch in range(50):
        checkpoint = ray.train.Checkpoint(str(tmp_path)) if epoch % 2 else None
        sender.after_report(None, [{"epoch": epoch}, {"epoch": -1}], checkpoint)
    assert reports.qsize() == 50
    found = [reports.get() for _ in range(50)]
    assert found[:2] == [{"epoch": 0, "checkpoint": None}, {"epoch": 1, "checkpoint": str(tmp_path)}]
    assert [report["epoch"] for report in found] == list(range(50))
    mailbox.close()


def test_the_group_that_was_told_last_is_kept_apart_from_reports(reports: SimpleQueue[Any]) -> None:
    mailbox = Mailbox(reports)
    assert mailbox.group == ""
    for group in ("aa", "bb"):
        mailbox.sender().tell_group(group)
    assert mailbox.group == "bb" and reports.empty()
    mailbox.close()


def test_a_sender_in_another_process_that_is_killed_takes_no_other_report_with_it(reports: SimpleQueue[Any]) -> None:
    mailbox = Mailbox(reports)
    program = (
        "import os, signal\nfrom multiprocessing.connection import Client\n"
        f"Client({mailbox.address!r}, 'AF_UNIX', {mailbox.key!r})\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    mailbox.sender().after_report(None, [{"epoch": 1}], None)
    assert reports.get() == {"epoch": 1, "checkpoint": None}
    mailbox.close()


def test_who_does_not_know_the_key_is_turned_away(reports: SimpleQueue[Any]) -> None:
    mailbox = Mailbox(reports)
    with pytest.raises(Exception, match="digest"):
        Client(mailbox.address, "AF_UNIX", b"another")
    mailbox.sender().after_report(None, [{"epoch": 1}], None)
    assert reports.qsize() == 1
    mailbox.close()


def test_a_closed_mailbox_is_the_senders_error(reports: SimpleQueue[Any]) -> None:
    mailbox = Mailbox(reports)
    sender = mailbox.sender()
    mailbox.close()
    with pytest.raises(OSError):
        sender.after_report(None, [{"epoch": 1}], None)
