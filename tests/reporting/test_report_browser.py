"""A report in a real browser: on a phone, a small and a large screen, and on paper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import reported
from browser import Browser

from asr_platform.reporting.report import PAPER_WIDTH, SECTIONS, write_report
from asr_platform.study.ledger import Ledger

MOST_PAGES = 8  # of a sweep of some dozen trials, printed
A4 = 688  # CSS pixels between the margins
DRAWN = "[...document.querySelectorAll('.plotly-graph-div')].every(one => one.querySelector('.main-svg'))"
# Of every figure: its name, the width it has, that of the drawing, marks in it, and texts that stick out of it.
LOOK = """
return [...document.querySelectorAll(".plotly-graph-div")].map(one => {
    const room = one.parentElement.getBoundingClientRect(), drawing = one.querySelector(".main-svg");
    const cut = [...one.querySelectorAll("text")].filter(text => {
        const box = text.getBoundingClientRect();
        return box.width && (box.left < room.left - 1 || box.right > room.right + 1);
    });
    return {
        id: one.id, room: room.width, width: drawing.getBoundingClientRect().width,
        marks: one.querySelectorAll(".trace path, .point path").length, cut: cut.map(text => text.textContent),
    };
});
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reported")
    home = reported.furnish(folder)
    return write_report(home, Ledger.open(home.studies, "whole"), folder / "whole.html")


def figures(browser: Browser) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = browser.run(LOOK)
    assert found
    return found


@pytest.mark.parametrize("width", [360, 800, 1400])
def test_it_is_whole_at_every_width(width: int, page: Path, browser: Browser, pictures: Path) -> None:
    browser.resize(width)
    browser.open(page)
    browser.wait(DRAWN)
    assert browser.overflow() <= 0, "what is too wide scrolls within itself"
    for figure in figures(browser):
        assert figure["width"] == pytest.approx(figure["room"], abs=2), figure
        assert figure["marks"] > 0 and figure["cut"] == [], figure
    assert browser.console() == []
    assert browser.requests() == [page.as_uri()], "it asks for nothing but itself"
    browser.screenshot(pictures / f"report-{width}.png", whole=True)
    assert (pictures / f"report-{width}.png").stat().st_size > 50_000


def test_on_paper_nothing_is_cut(page: Path, browser: Browser, tmp_path: Path) -> None:
    """Figures are drawn for the width of paper before it is printed, and for the screen again after."""
    browser.resize(1400)
    browser.open(page)
    browser.wait(DRAWN)
    before = [figure["width"] for figure in figures(browser)]
    assert min(before) > PAPER_WIDTH
    browser.run(f"addEventListener('beforeprint', () => {{ window.printed = (() => {{ {LOOK} }})(); }});")
    browser.pdf(tmp_path / "page.pdf")
    printed = browser.run("return window.printed")
    assert [figure["width"] for figure in printed] == [PAPER_WIDTH] * len(before)
    assert (tmp_path / "page.pdf").read_bytes().count(b"/Type /Page\n") in range(4, MOST_PAGES + 1)
    assert [figure["width"] for figure in figures(browser)] == before


def test_paper_has_room_for_all_of_it(page: Path, browser: Browser) -> None:
    """Tables do not scroll there; the links are left out, and every section is there."""
    browser.resize(A4)
    browser.open(page)
    browser.wait(DRAWN)
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        browser.run("dispatchEvent(new Event('beforeprint'))")
        assert browser.overflow() <= 0
        assert browser.run("return getComputedStyle(document.querySelector('nav')).display") == "none"
        heights = browser.run("return [...document.querySelectorAll('section')].map(one => one.offsetHeight)")
        assert len(heights) == len(SECTIONS) and min(heights) > 0
    finally:
        browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
