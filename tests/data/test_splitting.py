"""A validation split out of training data: by speakers, recordings or utterances, and always the same."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ready import Ready

from trainables.data.splitting import DEV, DevRequest, DevSpeakers, chosen_speakers, with_dev
from trainables.data.utterance import AudioSegment, Utterance
from trainables.errors import InputError

Speakers = list[str | None]


def spoken(speakers: Speakers, split: str = "train") -> list[Utterance]:
    return [Utterance(f"{index:03}", split, "A", Ready(), speaker=name) for index, name in enumerate(speakers)]


def dev_of(utterances: list[Utterance]) -> list[str]:
    return [item.id for item in utterances if item.split == DEV]


def test_speakers_are_in_one_part_alone() -> None:
    utterances = spoken([f"s{index % 40}" for index in range(400)])
    done, made = with_dev(utterances, DevRequest(0.05))
    assert made is not None and (made.by, made.units, made.utterances, made.share) == ("speaker", 2, 20, 0.05)
    heard = {split: {item.speaker for item in done if item.split == split} for split in ("train", DEV)}
    assert len(heard[DEV]) == 2 and not heard["train"] & heard[DEV]
    assert [item.id for item in done] == [item.id for item in utterances]
    assert made.text == "20 utterances (5.0%) taken from training: all of 2 speakers"


def test_the_choice_depends_on_the_names_alone() -> None:
    utterances = spoken([f"s{index % 40}" for index in range(400)])
    shuffled = random.Random(0).sample(utterances, len(utterances))
    assert sorted(dev_of(with_dev(utterances, DevRequest())[0])) == sorted(dev_of(with_dev(shuffled, DevRequest())[0]))


@pytest.mark.parametrize(
    ("speakers", "share", "taken"),
    [
        (5 * ["a", "b", "c", "d", "e"], 0.05, 5),  # one speaker, though that is 20%
        (["a"] + 10 * ["b", "c", "d", "e", "f"], 0.05, 11),  # one utterance would tell nothing
        (50 * ["a", "b", "c", "d"] + 5 * ["e"] + 6 * ["f"], 0.05, 11),
    ],
)
def test_few_speakers(speakers: Speakers, share: float, taken: int) -> None:
    _, made = with_dev(spoken(speakers), DevRequest(share))
    assert made is not None and (made.by, made.utterances) == ("speaker", taken)


def segments(*counts: int) -> list[Utterance]:
    """Utterances of one speaker: so many segments of each recording."""
    return [
        Utterance(
            f"{recording}-{index}", "train", "A", AudioSegment(Path(f"{recording}.wav"), float(index)), speaker="a"
        )
        for recording, count in enumerate(counts)
        for index in range(count)
    ]


def test_recordings_where_speakers_are_too_few() -> None:
    done, made = with_dev(segments(*20 * [10]), DevRequest(0.05))
    assert made is not None and (made.by, made.units, made.utterances) == ("recording", 1, 10)
    assert len({item.id.partition("-")[0] for item in done if item.split == DEV}) == 1
    assert made.text.endswith("all of 1 recording; speakers may be in both")


def test_utterances_where_recordings_are_too_few() -> None:
    _, made = with_dev(segments(50, 50), DevRequest(0.05))
    assert made is not None and (made.by, made.units, made.utterances) == ("utterance", 5, 5)
    assert made.text == "5 utterances (5.0%) taken from training, one by one; speakers and recordings may be in both"


def test_a_source_that_has_or_wants_none() -> None:
    training = spoken(["a", "b", "c"])
    for utterances, share in [
        (training, 0.0),
        (training + spoken(["d"], "Val-a"), 0.05),
        (training[:1], 0.05),
        (spoken(["a", "b"], "test"), 0.05),
    ]:
        assert with_dev(utterances, DevRequest(share)) == (utterances, None)


def test_equal_ids_of_two_training_splits_stay_apart() -> None:
    done, made = with_dev(
        spoken(["a"], "train-x") + spoken(["a"], "train-y") + spoken(4 * ["b", "c", "d"], "train-z"), DevRequest(0.1)
    )
    assert made is not None and made.units == 1
    if {item.speaker for item in done if item.split == DEV} == {"a"}:
        assert dev_of(done) == ["train-x-000", "train-y-000"]
    assert len({(item.split, item.id) for item in done}) == len(done)


@given(st.lists(st.none() | st.sampled_from("abcdefghij"), min_size=2, max_size=60), st.floats(0.01, 0.3))
def test_something_is_left_in_both_parts(speakers: Speakers, share: float) -> None:
    done, made = with_dev(spoken(speakers), DevRequest(share))
    assert made is not None and made.utterances == len(dev_of(done))
    assert 1 <= made.utterances <= max(1, 0.45 * len(speakers))
    if made.by == "speaker":
        heard = [{item.speaker for item in done if item.split == split} for split in ("train", DEV)]
        assert not heard[0] & heard[1]


# A number of speakers


def speakers_of(utterances: list[Utterance], split: str) -> set[str | None]:
    return {item.speaker for item in utterances if item.split == split}


def test_a_number_of_speakers() -> None:
    utterances = spoken(9 * ["a", "b", "c", "d"])
    done, made = with_dev(utterances, DevRequest(speakers=2))
    assert made is not None and made.text == "18 utterances (50.0%) taken from training: all of 2 speakers"
    assert len(speakers_of(done, DEV)) == 2 == len(speakers_of(done, "train"))
    assert [item.id for item in done] == [item.id for item in utterances]
    assert with_dev(utterances, DevRequest(speakers=2)) == (done, made)
    shuffled = random.Random(0).sample(utterances, len(utterances))
    assert speakers_of(with_dev(shuffled, DevRequest(speakers=2))[0], DEV) == speakers_of(done, DEV)
    drawn = {
        frozenset(speakers_of(with_dev(utterances, DevRequest(speakers=2, seed=seed))[0], DEV)) for seed in range(20)
    }
    assert len(drawn) > 3
    named, _ = with_dev(utterances, DevRequest(speakers=("a", "c")))
    assert speakers_of(named, DEV) == {"a", "c"}


def test_a_validation_split_with_speakers_of_training_is_divided_again() -> None:
    """As the digits have it: what the others say in dev goes to training; the test split stays."""
    utterances = spoken(3 * ["a", "b", "c"]) + spoken(["a", "b", "c", "e"], "Val-x") + spoken(["a"], "test")
    done, made = with_dev(utterances, DevRequest(speakers=("a", "e")))
    assert made is not None and (made.utterances, made.replaced, made.units) == (5, ["Val-x"], 2)
    assert made.text == "5 utterances (38.5%) taken from training and Val-x: all of 2 speakers"
    assert {item.split for item in done} == {"train", DEV, "test"}
    assert (speakers_of(done, DEV), speakers_of(done, "train")) == ({"a", "e"}, {"b", "c"})
    assert len({(item.split, item.id) for item in done}) == len(done)


@pytest.mark.parametrize(
    ("utterances", "wanted", "problem"),
    [
        (
            spoken(["a", "b"]),
            2,
            r"2 of 2 known speakers for validation leave nobody.*at most 1\. The speakers are a, b",
        ),
        (spoken(["a", "b"]), ("a", "b"), "2 of 2 known speakers"),
        (spoken(["a", "b"]), ("x", "a"), "no speaker named x.*The speakers are a, b"),
        (spoken(["a", "a"]), 1, "1 of 1 known speakers.*Leave out --dev-speakers"),
        (spoken([f"{number}" for number in range(30)]), 31, "The speakers are 0, 1, 10.*…"),
        (spoken(["a", None, "b"]), 1, "1 of 3 utterances have no known speaker, such as train/001.*--dev-share"),
        (spoken(["a", "b"]) + spoken(["c", None], "dev"), 1, "such as dev/001"),
        (spoken(["a", "b"]) + spoken(["c"], "dev-clean"), 1, "no speaker of dev-clean is in a training split"),
        (spoken(["a", "b"], "test"), 1, "1 of 0 known speakers"),
    ],
)
def test_speakers_who_cannot_be_held_out(utterances: list[Utterance], wanted: DevSpeakers, problem: str) -> None:
    with pytest.raises(InputError, match=f"(?s)--dev-speakers: .*{problem}"):
        with_dev(utterances, DevRequest(speakers=wanted))


@given(st.lists(st.sampled_from("abcdefghij"), min_size=2), st.lists(st.sampled_from("abcde")), st.integers(0, 99))
def test_held_out_speakers_are_in_dev_alone(training: Speakers, validation: Speakers, seed: int) -> None:
    utterances = spoken(training) + (spoken(validation, "dev-x") if set(training) & set(validation) else [])
    everybody = {item.speaker for item in utterances}
    for count in range(1, len(everybody)):
        done, made = with_dev(utterances, DevRequest(speakers=count, seed=seed))
        assert made is not None and made.units == len(speakers_of(done, DEV)) == count
        assert speakers_of(done, DEV) | speakers_of(done, "train") == everybody
        assert not speakers_of(done, DEV) & speakers_of(done, "train")
        assert len(done) == len(utterances) == len({(item.split, item.id) for item in done})


def test_nobody_is_chosen_where_nobody_is_wanted() -> None:
    assert chosen_speakers([], None) == set()
