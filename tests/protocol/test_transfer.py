"""Both transfer machines against each other, in virtual time."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.protocol.transfer_world import CHUNK, WINDOW, Weather, World

many = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def content(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def finish(world: World) -> None:
    assert world.run() == ("completed", "")
    assert world.final == world.data


sizes = st.one_of(st.integers(0, 3 * CHUNK), st.integers(0, 60 * CHUNK), st.sampled_from([CHUNK, 8 * CHUNK, 64 * CHUNK]))
rates = st.sampled_from([0.0, 0.0, 0.02, 0.1, 0.3])


@st.composite
def weathers(draw: st.DrawFn) -> Weather:
    outages = [
        (begin, begin + length) for begin, length in draw(st.lists(st.tuples(st.floats(0, 3), st.floats(0.01, 4)), max_size=2))
    ]
    return Weather(
        delay=draw(st.sampled_from([0.0001, 0.01, 0.3])),
        chunk_seconds=draw(st.sampled_from([0.0, 0.001, 0.2])),
        store_seconds=draw(st.sampled_from([0.0, 0.001, 0.5])),
        loss=draw(rates),
        duplicate=draw(rates),
        jitter=draw(st.sampled_from([0.0, 0.0, 0.05])),
        corrupt=draw(st.sampled_from([0.0, 0.0, 0.1])),
        outages=outages,
        until=30.0,
    )


@many
@given(sizes, weathers(), st.booleans(), st.sampled_from(["tree", "checksum"]), st.booleans(), st.integers(0, 2**32))
def test_a_transfer_completes_with_identical_bytes_in_any_weather(
    size: int, weather: Weather, stream: bool, verify: str, announce: bool, seed: int
) -> None:
    world = World(content(size), weather, seed=seed, stream=stream, verify=verify, announce=announce)
    world.start_receiver()
    outcome = world.run()
    if outcome is not None and outcome[0] == "corrupt":
        assert weather.corrupt, "corrupt only where chunks were corrupted"
        return
    assert outcome == ("completed", "")
    assert world.final == world.data


crashes = st.lists(
    st.tuples(st.sampled_from(["sender", "receiver"]), st.floats(0.0, 2.0), st.floats(0.0, 3.0), st.integers(0, 47)), max_size=4
)


@many
@given(st.integers(0, 80 * CHUNK), weathers(), crashes, st.booleans(), st.integers(0, 2**32))
def test_crashes_of_either_end_at_any_moment_end_in_identical_bytes(
    size: int, weather: Weather, crashes: list[tuple[str, float, float, int]], stream: bool, seed: int
) -> None:
    weather.corrupt = 0.0
    world = World(content(size), weather, seed=seed, stream=stream)
    for end, when, back, torn in crashes:
        if end == "sender":
            world.at(when, lambda back=back: world.crash_sender(back))  # type: ignore[misc]
        else:
            world.at(when, lambda back=back, torn=torn: world.crash_receiver(back, torn))  # type: ignore[misc]
    world.start_receiver()
    world.run()
    if world.outcome is None:
        pytest.fail("neither end has anything left to do")
    finish(world)


@many
@given(st.integers(1, 80), st.floats(0.0, 0.15), st.integers(0, 47), st.booleans())
def test_only_unverified_chunks_travel_after_a_restart(chunks: int, when: float, torn: int, stream: bool) -> None:
    world = World(content(chunks * CHUNK - 3), stream=stream)
    world.start_receiver()
    world.run(until=when)
    if world.outcome:
        return
    world.crash_receiver(0.5, torn)
    verified = world.verified()
    world.chunks_sent.clear()
    world.run(until=world.now + 0.4)  # what was on its way is lost
    world.chunks_sent.clear()
    finish(world)
    assert sorted(world.chunks_sent) == sorted(set(range(chunks)) - verified)


@many
@given(
    st.integers(1, 60), st.floats(0.0, 0.5), st.floats(0.0, 3.0), st.floats(0.001, 1.5), st.sampled_from([WINDOW, 9 * CHUNK])
)
def test_nothing_is_sent_twice_over_a_slow_but_healthy_path(
    chunks: int, delay: float, chunk_seconds: float, store_seconds: float, window: int
) -> None:
    weather = Weather(delay=delay, chunk_seconds=chunk_seconds, load_seconds=0.01, store_seconds=store_seconds)
    world = World(content(chunks * CHUNK), weather, window=window)
    world.start_receiver()
    finish(world)
    assert sorted(world.chunks_sent) == list(range(chunks))
    assert world.receiver is not None
    assert world.receiver.statistics().chunks_asked_again == 0


def test_lost_chunks_are_found_within_a_round_trip_or_a_probe() -> None:
    world = World(content(200 * CHUNK), Weather(loss=0.05, delay=0.01), seed=3)
    world.start_receiver()
    finish(world)
    assert world.now < 20.0
    assert len(world.chunks_sent) < 260


def test_a_lost_tail_is_found_by_the_mark_behind_it() -> None:
    world = World(content(4 * CHUNK), Weather(delay=0.01))
    world.start_receiver()
    world.run(until=0.025)
    lost: list[bool] = []
    carry = world._on_data_lane

    def lose_the_last(frame: tuple[object, ...], seconds: float) -> None:
        if frame[0] == "chunk" and frame[1] == 3 and not lost:
            lost.append(True)
        else:
            carry(frame, seconds)

    world._on_data_lane = lose_the_last  # type: ignore[method-assign]
    finish(world)
    assert lost
    assert world.now < 0.2, "no timer was needed"


def test_a_changed_source_is_named_and_never_delivered_mixed() -> None:
    world = World(content(60 * CHUNK))
    world.start_receiver()
    world.run(until=0.04)
    world.change_source(content(60 * CHUNK, seed=2))
    outcome = world.run()
    assert outcome is not None
    assert outcome[0] == "source_failed"
    assert world.final is None


def test_other_content_under_a_resumed_download_moves_only_the_chunks_that_differ() -> None:
    world = World(content(60 * CHUNK))
    world.start_receiver()
    world.run(until=0.05)
    world.crash_receiver(0.1)
    world.crash_sender(0.05)
    kept = world.verified()
    assert kept
    changed = bytearray(world.data)
    changed[0] ^= 1
    world.data = bytes(changed)
    finish(world)
    assert world.chunks_sent.count(0) == 2


def test_a_restarted_sender_that_offers_another_size_is_refused() -> None:
    world = World(content(60 * CHUNK))
    world.start_receiver()
    world.run(until=0.04)
    world.crash_sender(0.05)
    world.data = world.data[:-CHUNK]
    outcome = world.run()
    assert outcome is not None
    assert outcome[0] == "source_failed"


def test_a_restarted_sender_that_announces_another_digest_is_refused() -> None:
    world = World(content(60 * CHUNK), announce=True)
    world.start_receiver()
    world.run(until=0.04)
    world.crash_sender(0.05)
    world.data = content(60 * CHUNK, seed=9)
    outcome = world.run()
    assert outcome is not None
    assert outcome[0] == "source_failed"


@pytest.mark.parametrize("reason", ["unknown_ref", "gone", "denied"])
def test_a_refused_open_names_the_owners_reason(reason: str) -> None:
    world = World(content(CHUNK))
    world.ref_known = reason
    world.start_receiver()
    outcome = world.run()
    assert outcome is not None
    assert outcome[0] == reason


def test_an_owner_that_cannot_be_reached_ends_in_link() -> None:
    world = World(content(CHUNK), idle_timeout=5.0)
    world.sender_up = False
    world.start_receiver()
    outcome = world.run()
    assert outcome is not None
    assert outcome[0] == "link"
    assert 4.9 < world.now < 8.0


def test_a_silent_sender_ends_in_idle() -> None:
    world = World(content(60 * CHUNK), idle_timeout=5.0)
    world.start_receiver()
    world.run(until=0.04)
    world._pump_sender = lambda stream: None  # type: ignore[method-assign]
    outcome = world.run()
    assert outcome is not None
    assert outcome[0] == "idle"
    assert world.now < 6.0


def test_the_deadline_ends_a_transfer_that_makes_progress() -> None:
    world = World(content(60 * CHUNK), Weather(chunk_seconds=1.0), deadline=10.0)
    world.start_receiver()
    outcome = world.run()
    assert outcome is not None
    assert outcome[0] == "deadline"
    assert world.now == pytest.approx(10.0, abs=0.01)


def test_a_slow_transfer_that_makes_progress_is_never_idle() -> None:
    world = World(content(20 * CHUNK), Weather(chunk_seconds=4.0), idle_timeout=5.0)
    world.start_receiver()
    finish(world)


def test_a_slow_receiver_is_not_idle_while_it_works() -> None:
    world = World(content(10 * CHUNK), Weather(store_seconds=30.0), idle_timeout=5.0)
    world.start_receiver()
    finish(world)


def test_cancel_ends_at_once_and_keeps_what_is_verified() -> None:
    world = World(content(60 * CHUNK))
    world.start_receiver()
    world.run(until=0.05)
    assert world.receiver is not None
    world.receiver.cancel("the user pressed Ctrl-C")
    world._act()
    assert world.outcome == ("aborted", "the user pressed Ctrl-C")
    kept = world.verified()
    assert kept
    world.outcome = None
    world.chunks_sent.clear()
    world.start_receiver()
    finish(world)
    assert not kept & set(world.chunks_sent)


def test_chunks_that_always_arrive_damaged_end_in_corrupt() -> None:
    world = World(content(4 * CHUNK), Weather(corrupt=1.0))
    world.start_receiver()
    outcome = world.run()
    assert outcome is not None
    assert outcome[0] == "corrupt"
    assert len(world.chunks_sent) < 40, "asking again is bounded"


def test_a_wrong_root_although_all_chunks_agree_ends_in_corrupt() -> None:
    world = World(content(4 * CHUNK))
    world.announced = bytes(32)
    world.start_receiver()
    outcome = world.run()
    assert outcome is not None
    assert outcome[0] == "corrupt"
    assert world.final is None


def test_a_lost_confirmation_is_repeated_until_the_owner_knows() -> None:
    world = World(content(4 * CHUNK), Weather(outages=[(0.05, 5.0)]))
    world.start_receiver()
    finish(world)
    assert world.confirmed
    assert world.receiver is not None
    assert world.receiver.confirmed


def test_an_owner_that_vanished_before_the_confirmation_does_not_undo_the_result() -> None:
    world = World(content(4 * CHUNK), idle_timeout=3.0)
    world.start_receiver()
    while world.final is None:
        world.run(until=world.now + 0.0005, steps=1000)
        world.now += 0.0005
    world.sender_up = False
    finish(world)
    assert world.receiver is not None
    assert not world.receiver.confirmed
    assert not world.confirmed
