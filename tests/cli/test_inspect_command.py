"""`platform inspect`: its tables, its JSON, and its page in a browser."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from browser import Browser
from place import Run

CARDS = """
return [...document.querySelectorAll("article")].map(card => ({
    id: card.querySelector("h3").textContent, words: card.innerText,
    picture: card.querySelector("img").naturalWidth, sound: card.querySelector("audio") !== null,
}));
"""
DURATION = """
const sound = document.querySelector("audio");
return new Promise(done => {
    sound.addEventListener("loadedmetadata", () => done(sound.duration));
    sound.addEventListener("error", () => done(-1));
    sound.load();
});
"""


@pytest.fixture
def corpus(run: Run, tmp_path: Path) -> Path:
    """A corpus of six recordings, one of them clipped, one without its file."""
    lines = []
    for number in range(6):
        samples = (5.0 if number == 2 else 0.1) * np.random.default_rng(number).normal(size=8000 * (number + 1))
        soundfile.write(tmp_path / f"{number}.wav", np.clip(samples, -1, 1), 16_000, subtype="FLOAT")
        split, name = ("train", "dev")[number == 5], ("ann", "<ben>")[number % 2]
        line = {"audio_filepath": f"{number}.wav", "text": f"SAY <b>{number}", "split": split, "speaker": name}
        lines.append(json.dumps(line))
    (tmp_path / "speech.jsonl").write_text("\n".join(lines))
    out = tmp_path / "corpus"
    assert run("prepare", "manifest", str(tmp_path / "speech.jsonl"), "--out", str(out)).code == 0
    (tmp_path / "0.wav").unlink()
    return out


def test_tables_and_json(run: Run, corpus: Path) -> None:
    ended = run("inspect", str(corpus))
    assert ended.code == 0, ended
    lines = [line.split() for line in ended.out.splitlines()]
    assert ["train", "5", "0.00", "0.50", "0.60", "1.50", "2.40", "2.50", "40", "5.3", "5", "2"] in lines
    assert "speakers of train: ann (3), <ben> (2)" in ended.out
    assert ["dev", "with", "train", "0", "0", "0", "1"] in lines
    told = json.loads(run("inspect", str(corpus), "--json").out)
    dev, train = told["splits"]
    assert train["audio"] == {"checked": 5, "missing": 1, "clipped": 1, "examples": ["2-000003"]}
    assert [one["id"] for one in train["longest"]] == [f"{number}-{number + 1:06}" for number in (4, 3, 2, 1, 0)]
    assert dev["speakers"] == [{"name": "<ben>", "utterances": 1, "seconds": 3.0}]
    assert told["hash"] == json.loads((corpus / "corpus.json").read_text())["hash"]


def test_the_page_is_heard_and_seen(run: Run, corpus: Path, tmp_path: Path, browser: Browser) -> None:
    page = tmp_path / "page.html"
    ended = run("inspect", str(corpus), "--out", str(page))
    assert ended.code == 0 and f"page: {page}" in ended.out
    for width in (1200, 390):
        browser.resize(width)
        browser.open(page)
        assert browser.run("return document.documentElement.scrollWidth") <= width
        cards = {card["id"]: card for card in browser.run(CARDS)}
        assert len(cards) == 6 and all(card["picture"] > 0 for card in cards.values())
        assert [id for id, card in cards.items() if not card["sound"]] == ["0-000001"]
        assert "SAY <b>2" in cards["2-000003"]["words"] and "clipped" in cards["2-000003"]["words"]
        assert "speaker <ben>" in cards["3-000004"]["words"]
        assert browser.run(DURATION) == pytest.approx(3.0, abs=0.15), "the first card is dev's only utterance"
        assert browser.console() == [] and browser.requests() == [page.as_uri()]
