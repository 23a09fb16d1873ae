"""From what a cluster has to what trials ask for: they fit together, whatever the numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import combinations

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from asr_platform.tuning.cluster import UNITS, Cluster, Node, NoRoom, Options, Workers
from trainables.errors import InputError


def cluster(cpus: float, gpus: float = 0) -> Cluster:
    return nodes((cpus, gpus))


def nodes(*resources: tuple[float, float]) -> Cluster:
    """A cluster of nodes with these CPUs and GPUs."""
    return Cluster([Node(float(cpus), float(gpus)) for cpus, gpus in resources])


def in_units(amount: float) -> int:
    """As Ray counts: in ten-thousandths, rounded to the nearest."""
    return int(amount * UNITS + 0.5)


@pytest.mark.parametrize(
    ("machine", "options", "expected", "concurrent"),
    [
        (cluster(2), Options(), Workers(1, 1, 0.0), 2),
        (cluster(16), Options(), Workers(1, 1, 0.0), 16),
        (cluster(16), Options(max_concurrent=3), Workers(1, 1, 0.0), 3),
        (cluster(16), Options(max_concurrent=99), Workers(1, 1, 0.0), 16),
        (cluster(7), Options(workers_per_trial=2), Workers(2, 1, 0.0), 3),
        (cluster(16, 4), Options(), Workers(1, 1, 1.0), 4),
        (cluster(3, 4), Options(), Workers(1, 1, 1.0), 3),
        (cluster(16, 4), Options(workers_per_trial=2), Workers(2, 1, 1.0), 2),
        (cluster(16, 4), Options(gpus_per_worker=2), Workers(1, 1, 2.0), 2),
        (cluster(16, 1), Options(gpus_per_worker=0.25), Workers(1, 1, 0.25), 4),
        (cluster(16, 1), Options(gpus_per_worker=1 / 3), Workers(1, 1, 0.3333), 3),
        (cluster(16, 1), Options(gpus_per_worker=1 / 6), Workers(1, 1, 0.1666), 6),
        (cluster(16, 2), Options(gpus_per_worker=0.6), Workers(1, 1, 0.6), 2),
        (cluster(16, 4), Options(gpus_per_worker=0), Workers(1, 1, 0.0), 16),
        (cluster(2), Options(alone=True), Workers(1, 2, 0.0), 1),
        (cluster(7), Options(alone=True, workers_per_trial=2), Workers(2, 3, 0.0), 1),
        (cluster(16, 4), Options(alone=True), Workers(4, 4, 1.0), 1),
        (cluster(16, 4), Options(alone=True, workers_per_trial=1), Workers(1, 16, 1.0), 1),
        (cluster(16, 4), Options(alone=True, gpus_per_worker=2), Workers(2, 8, 2.0), 1),
        (cluster(16, 4), Options(alone=True, gpus_per_worker=0), Workers(1, 16, 0.0), 1),
        (cluster(2, 8), Options(alone=True), Workers(2, 1, 1.0), 1),
        (nodes((1, 0), (1, 0)), Options(), Workers(1, 1, 0.0), 2),
        (nodes((1, 0), (1, 0)), Options(workers_per_trial=2), Workers(2, 1, 0.0), 1),
        (nodes((0, 0), (1.5, 0), (1.5, 0)), Options(), Workers(1, 1, 0.0), 2),
        (nodes((8, 0), (2, 0)), Options(alone=True), Workers(1, 8, 0.0), 1),
        (nodes((8, 0), (2, 0)), Options(alone=True, workers_per_trial=2), Workers(2, 4, 0.0), 1),
        (nodes((8, 0), (6, 0)), Options(alone=True, workers_per_trial=2), Workers(2, 6, 0.0), 1),
        (nodes((1, 0), (1, 0), (1, 0)), Options(alone=True), Workers(1, 1, 0.0), 1),
        (nodes((16, 0), (8, 4), (4, 4)), Options(), Workers(1, 1, 1.0), 8),
        (nodes((16, 0), (8, 4), (4, 4)), Options(alone=True), Workers(8, 1, 1.0), 1),
        (nodes((16, 0), (8, 4), (4, 4)), Options(alone=True, workers_per_trial=2), Workers(2, 4, 1.0), 1),
        (nodes((8, 3), (8, 3)), Options(gpus_per_worker=2), Workers(1, 1, 2.0), 2),
    ],
)
def test_workers_and_concurrency(machine: Cluster, options: Options, expected: Workers, concurrent: int) -> None:
    workers = machine.workers(options)
    assert workers == expected
    assert machine.concurrency(workers, options) == concurrent


@pytest.mark.parametrize(
    ("machine", "options"),
    [
        (cluster(2), Options(workers_per_trial=3)),
        (cluster(2), Options(gpus_per_worker=1)),
        (cluster(2), Options(gpus_per_worker=0.1)),
        (cluster(16, 1), Options(workers_per_trial=2)),
        (cluster(16, 2), Options(workers_per_trial=3, gpus_per_worker=0.6)),
        (cluster(16, 1), Options(alone=True, gpus_per_worker=2)),
        (cluster(2), Options(alone=True, workers_per_trial=3)),
        (cluster(0.5), Options()),
        (nodes((0.5, 0), (0.5, 0)), Options()),
        (nodes((8, 1), (8, 1)), Options(gpus_per_worker=2)),
        (nodes((8, 0), (0, 1)), Options(gpus_per_worker=1)),
        (nodes(), Options()),
    ],
)
def test_a_trial_that_cannot_fit_is_refused(machine: Cluster, options: Options) -> None:
    """The message says what was asked for and what there is."""
    there_is = f"of {machine.nodes[-1].cpus:g} CPUs and " if machine.nodes else "no nodes"
    with pytest.raises(InputError, match=rf"a trial of \d workers? of 1 CPU.* does not fit .*{there_is}") as error:
        machine.workers(options)
    assert "--workers-per-trial" in error.value.remedy and "--gpus-per-worker" in error.value.remedy


def test_parts_of_several_gpus_are_refused() -> None:
    with pytest.raises(InputError, match=r"--gpus-per-worker 1\.5"):
        cluster(16, 4).workers(Options(gpus_per_worker=1.5))


def most_workers(machine: Cluster, workers: Workers) -> int:
    """The most workers that any way of placing them finds room for, one after the other, in Ray's own counting.

    A worker lies on one node, with whole GPUs or a share of a single one.
    """
    threads, gpus = in_units(workers.resources["CPU"]), in_units(workers.resources.get("GPU", 0.0))

    @cache
    def most(free: tuple[tuple[int, tuple[int, ...]], ...]) -> int:
        found = 0
        for place, (cpus, cards) in enumerate(free):
            if cpus < threads:
                continue
            for taken in taken_cards(cards, gpus):
                rest = tuple(sorted((*free[:place], (cpus - threads, taken), *free[place + 1 :])))
                found = max(found, 1 + most(rest))
        return found

    return most(tuple(sorted((in_units(node.cpus), (UNITS,) * int(node.gpus)) for node in machine.nodes)))


def taken_cards(cards: tuple[int, ...], gpus: int) -> Iterator[tuple[int, ...]]:
    """Free shares of a node's GPUs after a worker takes `gpus`, for each choice of whole GPUs, or of one to share."""
    if not gpus:
        yield cards
    elif gpus < UNITS:
        for place, left in enumerate(cards):
            if left >= gpus:
                yield tuple(sorted((*cards[:place], left - gpus, *cards[place + 1 :])))
    else:
        whole = [place for place, left in enumerate(cards) if left == UNITS]
        for chosen in combinations(whole, gpus // UNITS):
            yield tuple(sorted(0 if place in chosen else left for place, left in enumerate(cards)))


@given(
    resources=st.lists(
        st.tuples(st.sampled_from([0, 0.5, 1, 1.5, 2, 3, 4]), st.integers(0, 3)), min_size=1, max_size=3
    ),
    count=st.none() | st.integers(1, 4),
    share=st.none() | st.integers(0, 2) | st.floats(0.2, 1),
    alone=st.booleans(),
    most=st.none() | st.integers(1, 5),
)
def test_as_many_trials_run_as_the_best_packing_has_room_for(
    resources: list[tuple[float, int]], count: int | None, share: float | None, alone: bool, most: int | None
) -> None:
    """Against every way to place their workers; a trial that is refused has none. Threads are the most that fit."""
    options, machine = Options(most, count, share, None, alone), nodes(*resources)
    try:
        workers = machine.workers(options)
    except InputError:
        share = float(bool(machine.gpus)) if share is None else int(share * UNITS + 1e-6) / UNITS
        assert most_workers(machine, Workers(1, 1, share)) < (count or 1)
        return
    fit = most_workers(machine, workers) // workers.count
    assert fit >= 1
    assert machine.concurrency(workers, options) == min(fit, 1 if alone else most or fit)
    if alone:
        assert most_workers(machine, replace(workers, threads=workers.threads + 1)) < workers.count


@pytest.mark.parametrize(
    ("machine", "options", "beginning", "expected"),
    [
        (cluster(8), Options(max_workers=4), 1, [4]),
        (cluster(8), Options(min_workers=2), 1, [8]),
        (cluster(8), Options(max_workers=16), 3, [2, 3, 3]),
        (cluster(8), Options(max_workers=16), 100, [1] * 8),
        (cluster(8), Options(min_workers=3), 100, [4, 4]),
        (cluster(8), Options(2, min_workers=1), 100, [4, 4]),
        (nodes((3, 1), (1, 2)), Options(max_workers=4), 2, [1, 1]),  # a CPU and a GPU for each
        (cluster(2, 2), Options(gpus_per_worker=0.5, max_workers=3), 2, [1, 1]),
        (cluster(8), Options(min_workers=9, max_workers=9), 1, None),
    ],
)
def test_elastic_trials_share_the_room(
    machine: Cluster, options: Options, beginning: int, expected: list[int] | None
) -> None:
    if expected is None:
        with pytest.raises(NoRoom):
            machine.workers(options)
        return
    least, training = machine.workers(options), list[int]()
    while (workers := machine.sized(least, options, training, lambda: beginning - len(training))) is not None:
        training.append(workers.count)
        if len(training) == beginning:
            break
    assert training == expected
    for place, own in enumerate(training):
        others = training[:place] + training[place + 1 :]
        assert machine.grown(least, options, others, own, lambda: 0) == own, "nothing is left to grow"


def test_a_trial_grows_into_the_room_that_others_leave_and_no_further_than_its_share() -> None:
    options = Options(max_workers=6)
    least = cluster(8).workers(options)
    assert cluster(8).grown(least, options, [], 2, lambda: 0) == 6
    assert cluster(8).grown(least, options, [2], 2, lambda: 0) == 4
    assert cluster(8).grown(least, options, [6], 1, lambda: 0) == 2, "which is all that is free"
    assert cluster(1).grown(least, options, [2], 2, lambda: 0) == 2, "nodes were lost, and nothing shrinks for that"


def test_a_trial_grows_beside_those_that_wait_where_these_may_not_begin() -> None:
    held_back = Options(max_concurrent=2, max_workers=8)
    least = cluster(8).workers(held_back)
    assert cluster(8).grown(least, held_back, [3], 2, lambda: 9) == 4, "its share of two"
    assert cluster(8).grown(least, held_back, [], 2, lambda: 9) == 2, "another trial begins first"
    assert cluster(8).grown(least, held_back, [], 2, lambda: 0) == 8
    too_large = Options(min_workers=2, max_workers=8)
    least = cluster(9).workers(too_large)
    assert cluster(9).grown(least, too_large, [2, 2, 2], 2, lambda: 9) == 3, "nobody could use the ninth alone"
    assert cluster(9).grown(least, too_large, [6], 2, lambda: 9) == 2, "the room would be shared with those that wait"


@example(slots=3, sizes=[1, 1], most=2, least=1, concurrent=1, waiting=0)  # more in training than may be
@given(
    slots=st.integers(1, 40),
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    most=st.integers(1, 20),
    least=st.integers(1, 4),
    concurrent=st.none() | st.integers(1, 8),
    waiting=st.integers(0, 9),
)
def test_a_trial_that_is_started_anew_to_grow_gets_what_it_was_promised(
    slots: int, sizes: list[int], most: int, least: int, concurrent: int | None, waiting: int
) -> None:
    """Else it would be started again after each epoch."""
    assume(least <= min(slots, most))
    options = Options(concurrent, min_workers=least, max_workers=most)
    machine, (own, *others) = cluster(slots), sizes
    workers = machine.workers(options)
    promised = machine.grown(workers, options, others, own, lambda: waiting)
    if promised > own:
        assert machine.sized(workers, options, others, lambda: waiting + 1) == replace(workers, count=promised)


def test_an_elastic_training_alone_gives_its_workers_all_threads() -> None:
    options = Options(alone=True, min_workers=2, max_workers=4)
    machine = nodes((8, 0), (8, 0))
    least = machine.workers(options)
    assert least == Workers(2, 1, 0.0)
    assert machine.sized(least, options, [], lambda: 1) == Workers(4, 4, 0.0)
    assert nodes((8, 0)).sized(least, options, [], lambda: 1) == Workers(4, 2, 0.0)
    assert nodes((3, 0)).sized(least, options, [], lambda: 1) == Workers(3, 1, 0.0)
    assert machine.sized(least, options, [4], lambda: 1) is None


def test_workers_without_a_gpu_ask_for_none() -> None:
    """To Ray, a share of 0 is still a wish for a GPU."""
    assert Workers(2, 3, 0.0).resources == {"CPU": 3}
    assert Workers(1, 1, 0.5).resources == {"CPU": 1, "GPU": 0.5}
