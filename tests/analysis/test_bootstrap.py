"""The bootstrap is the textbook's, and says no more than the data does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from records import errors_of
from scipy import stats

from asr_platform.analysis import bootstrap
from asr_platform.analysis.bootstrap import (
    ConfidenceInterval,
    Difference,
    cer_intervals,
    difference,
    error_interval,
    resampled_rates,
)

counts = st.lists(st.integers(0, 20), min_size=5, max_size=40)


def drawn(seed: int, utterances: int, rate: float) -> list[int]:
    """Errors in utterances of 20 characters; some are harder than others."""
    random = np.random.default_rng(seed)
    return random.binomial(20, rate * random.choice([0.5, 1.5], utterances)).tolist()


# The textbook's


def test_rates_are_those_of_a_direct_loop() -> None:
    random = np.random.default_rng(1)
    errors, lengths = random.integers(0, 9, (50, 3)), random.integers(1, 30, 50)
    found = resampled_rates(errors, lengths, resamples=40)
    again = np.random.default_rng(bootstrap.SEED).integers(50, size=(40, 50))
    for rate_M, chosen in zip(found, again, strict=True):
        for model in range(3):
            wrong, length = 0, 0
            for utterance in chosen:
                wrong += errors[utterance, model]
                length += lengths[utterance]
            assert rate_M[model] == pytest.approx(wrong / length, rel=1e-12)


def test_every_draw_is_as_likely() -> None:
    """Of three utterances there are 27, which give these rates."""
    errors, lengths = [1, 0, 5], [2, 10, 5]
    expected = Counter(
        round(sum(errors[i] for i in draw) / sum(lengths[i] for i in draw), 9) for draw in product(range(3), repeat=3)
    )
    found = Counter(np.round(resampled_rates(np.array([errors]).T, lengths, resamples=27_000)[:, 0], 9).tolist())
    assert found.keys() == expected.keys()
    for rate, ways in expected.items():
        assert found[rate] == pytest.approx(1000 * ways, abs=5 * (1000 * ways) ** 0.5)


def test_speakers_are_drawn_and_then_their_utterances(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resamples of a speaker a with two utterances and b with one draw aa, ab, ba and bb equally often."""
    errors, lengths, speakers = [1, 0, 5], [2, 10, 5], ["a", "a", "b"]
    pairs = [[(0, 0), (0, 1), (1, 0), (1, 1)], [(2,)] * 4]  # utterances drawn of each speaker, equally likely
    expected: Counter[float] = Counter()
    for one, other in product(range(2), repeat=2):
        for draw in product(pairs[one], pairs[other]):
            chosen = [*draw[0], *draw[1]]
            expected[round(sum(errors[i] for i in chosen) / sum(lengths[i] for i in chosen), 9)] += 1
    monkeypatch.setattr(bootstrap, "DRAWN_AT_ONCE", 10_000)
    rates = resampled_rates(np.array([errors]).T, lengths, speakers, 64_000)
    found = Counter(np.round(rates[:, 0], 9).tolist())
    assert found.keys() == expected.keys()
    for rate, ways in expected.items():
        assert found[rate] == pytest.approx(1000 * ways, abs=5 * (1000 * ways) ** 0.5)


@pytest.mark.parametrize("speakers", [None, ["a"] * 50, ["a", None] * 25])
def test_without_two_known_speakers_utterances_are_drawn(speakers: list[str | None] | None) -> None:
    random = np.random.default_rng(1)
    errors, lengths = random.integers(0, 9, (50, 1)), random.integers(1, 30, 50)
    np.testing.assert_array_equal(resampled_rates(errors, lengths, speakers), resampled_rates(errors, lengths))


def test_the_mean_of_new_speakers_lies_in_intervals_by_speaker_but_not_in_others() -> None:
    """Errors of twenty speakers with 30 utterances each, whose error rates lie between 2% and 18%."""
    inside = {"speakers": 0, "utterances": 0}
    names = [f"s{number // 30:02}" for number in range(600)]
    for seed in range(200):
        random = np.random.default_rng(seed)
        errors = random.binomial(20, np.repeat(random.uniform(0.02, 0.18, 20), 30))[:, None]
        for unit, speakers in (("speakers", names), ("utterances", None)):
            low, high = ConfidenceInterval.of(resampled_rates(errors, [20] * 600, speakers, 400)[:, 0])
            inside[unit] += low <= 0.1 <= high
    assert 0.88 <= inside["speakers"] / 200 <= 0.99
    assert inside["utterances"] / 200 < 0.6


def test_every_interval_is_by_speaker() -> None:
    random = np.random.default_rng(0)
    names = [f"s{number // 30}" for number in range(300)]
    rates = np.repeat(random.uniform(0.02, 0.4, 10), 30)
    one, other = (errors_of(random.binomial(20, rates + shift).tolist()) for shift in (0, 0.02))
    spoken, other_spoken = replace(one, speakers=names), replace(other, speakers=names)
    assert np.ptp(error_interval(spoken)) > 2 * np.ptp(error_interval(one))
    assert np.ptp(error_interval(spoken, words=True)) > 1.3 * np.ptp(error_interval(one, words=True))
    found = cer_intervals(0, {0: spoken, 1: other_spoken})
    assert found[0].interval == error_interval(spoken)
    assert found[1].tied == difference(spoken, other_spoken).tied
    uneven = replace(
        other, character_errors=[count + (name < "s5") for count, name in zip(one.character_errors, names, strict=True)]
    )
    assert not difference(one, uneven).tied
    apart = difference(spoken, replace(uneven, speakers=names))
    assert np.ptp(apart.interval) > 2 * np.ptp(difference(one, uneven).interval)


def test_intervals_are_scipys() -> None:
    random = np.random.default_rng(0)
    lengths = random.integers(5, 40, 200)
    errors, other = random.binomial(lengths, 0.2), random.binomial(lengths, 0.22)
    found_RM = resampled_rates(np.column_stack([errors, other]), lengths, resamples=20_000)

    def reference(*columns: np.ndarray, paired_difference: bool = False) -> tuple[float, float]:
        def statistic(*data: np.ndarray, axis: int = -1) -> np.ndarray:
            *wrong, length = (column.sum(axis=axis) for column in data)
            return (wrong[0] - wrong[1]) / length if paired_difference else wrong[0] / length

        found = stats.bootstrap(
            columns, statistic, paired=True, vectorized=True, method="percentile", n_resamples=20_000, random_state=1
        )
        return found.confidence_interval

    width = np.ptp(ConfidenceInterval.of(found_RM[:, 0]))
    assert ConfidenceInterval.of(found_RM[:, 0]) == pytest.approx(reference(errors, lengths), abs=0.03 * width)
    expected = reference(errors, other, lengths, paired_difference=True)
    assert ConfidenceInterval.of(found_RM[:, 0] - found_RM[:, 1]) == pytest.approx(
        expected, abs=0.03 * np.ptp(expected)
    )


def test_the_true_rate_lies_in_95_of_100_intervals() -> None:
    inside = 0
    for seed in range(300):
        low, high = ConfidenceInterval.of(
            resampled_rates(np.array([drawn(seed, 150, 0.1)]).T, [20] * 150, resamples=400)[:, 0]
        )
        inside += low <= 0.1 <= high
    assert 0.91 <= inside / 300 <= 0.98


def test_memory_is_bounded_however_long_the_split(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = np.array([drawn(0, 100, 0.1)]).T
    whole = ConfidenceInterval.of(resampled_rates(errors, [20] * 100)[:, 0])
    monkeypatch.setattr(bootstrap, "DRAWN_AT_ONCE", 250)
    in_parts = resampled_rates(errors, [20] * 100)
    assert len(in_parts) == bootstrap.RESAMPLES
    assert ConfidenceInterval.of(in_parts[:, 0]) == pytest.approx(whole, abs=0.003)


# What it says


@settings(max_examples=50)
@given(counts)
def test_an_interval_holds_the_rate_and_is_the_same_each_time(errors: list[int]) -> None:
    one = errors_of(errors)
    (confidence,) = cer_intervals(0, {0: one}).values()
    assert confidence.interval.low <= one.cer <= confidence.interval.high
    assert cer_intervals(0, {0: one})[0] == confidence
    assert confidence.tied is False, "there is nobody to be tied with"


@settings(max_examples=50)
@given(counts, st.integers(1, 5))
def test_identical_models_are_tied_and_a_constant_shift_is_not(errors: list[int], shift: int) -> None:
    """Where one model is worse by the same number on every utterance of one length, no resample thinks otherwise."""
    one, worse = errors_of(errors), errors_of([count + shift for count in errors])
    same = difference(one, one)
    assert same == Difference(0, ConfidenceInterval(0, 0), 0.5)
    assert same.tied
    apart = difference(one, worse)
    assert apart.value == pytest.approx(-shift / 20)
    assert apart.interval == pytest.approx((-shift / 20, -shift / 20))
    assert apart.better == 1 and not apart.tied


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=5, max_size=40))
def test_a_comparison_read_from_the_other_side_is_its_mirror(pairs: list[tuple[int, int]]) -> None:
    one, other = (errors_of(column) for column in zip(*pairs, strict=True))
    there, back = difference(one, other), difference(other, one)
    assert back.value == -there.value
    assert back.interval == pytest.approx((-there.interval.high, -there.interval.low))
    assert back.better == pytest.approx(1 - there.better)
    assert back.tied == there.tied
    assert there.interval.low - 1e-12 <= there.value <= there.interval.high + 1e-12


def test_more_utterances_say_more() -> None:
    widths = []
    for utterances in (50, 200, 800):
        one, other = errors_of(drawn(0, utterances, 0.10)), errors_of(drawn(1, utterances, 0.12))
        widths.append(np.ptp(difference(one, other).interval))
    assert widths[0] > 1.5 * widths[1] > 2.2 * widths[2]


def test_pairs_tell_apart_what_intervals_alone_cannot() -> None:
    """Both find the same utterances hard; one is a little better on most of them."""
    hard = drawn(3, 300, 0.2)
    better, worse = errors_of(hard), errors_of([count + (number % 3 == 0) for number, count in enumerate(hard)])
    found = cer_intervals(0, {0: better, 1: worse})
    assert found[0].interval.high > found[1].interval.low, "the intervals overlap"
    assert not difference(better, worse).tied
    assert (found[0].tied, found[1].tied) == (False, False)


def test_words_have_a_difference_of_their_own() -> None:
    one, other = errors_of([0, 0, 0, 9] * 20), errors_of([1, 1, 1, 0] * 20)
    assert difference(one, other).value == pytest.approx(6 / 80)
    assert difference(one, other, words=True).value == pytest.approx(-0.5)


# A leaderboard


def test_intervals_and_ties_are_those_of_single_comparisons() -> None:
    errors = {number: errors_of(drawn(number, 200, 0.1 + 0.006 * number)) for number in range(10)}
    best = min(errors, key=lambda number: errors[number].cer)
    found = cer_intervals(best, errors)
    for number, one in errors.items():
        assert found[number].interval == cer_intervals(number, {number: one})[number].interval
        if number != best:
            assert found[number].tied == difference(errors[best], one).tied
    ties = [number for number in errors if found[number].tied]
    assert best in ties and 1 < len(ties) < len(errors)


@pytest.mark.parametrize("best", [1, 7])
def test_what_cannot_be_paired_with_the_best_has_an_interval_alone(best: int) -> None:
    """Another split, or a best trial that has no errors on record."""
    errors = {0: errors_of([1, 2, 3]), 1: errors_of([1, 2]), 2: errors_of([1, 2, 3])}
    found = cer_intervals(best, errors)
    assert found[0] == found[2]
    expected: Sequence[bool | None] = [None, False, None] if best == 1 else [None] * 3
    assert [found[number].tied for number in range(3)] == expected
    assert cer_intervals(best, {}) == {}


def test_empty_references_are_no_division_by_zero() -> None:
    """An insertion into an empty reference counts as one error, as in the rates."""
    (confidence,) = cer_intervals(0, {0: errors_of([1, 0, 0], [0, 0, 3])}).values()
    assert 0 <= confidence.interval.low <= 1 / 3 <= confidence.interval.high <= 3
