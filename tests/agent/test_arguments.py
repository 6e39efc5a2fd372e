"""Arguments of agents and exchanges that make no sense: refused at once, by name, where they were written."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.agent.conftest import Place
from zcell.agent import Agent, CallStateError, TaskExchange
from zcell.pipe import FilePipe, Mode


@pytest.fixture
def ends(tmp_path: Path) -> Callable[[Mode], FilePipe]:
    """Makes ends that nobody opens."""
    return lambda mode: FilePipe(mode, tmp_path / "shared")


OPTIONS: list[tuple[str, Any]] = [
    *(
        (name, value)
        for name in (
            "submit_result_timeout",
            "streaming_idle_timeout",
            "download_complete_timeout",
            "read_interval",
            "heartbeat_interval",
            "heartbeat_timeout",
            "resend_interval",
        )
        for value in (math.nan, "1", -1)
    ),
    ("max_resends", -1),
    ("max_resends", 1.5),
    ("launch_once", "yes"),
    ("close_pipe", 1),
    ("task_channel", ""),
    ("task_channel", None),
    ("task_channel", "metric"),
    ("metric_channel", "a/b"),
]


@pytest.mark.parametrize(("option", "value"), OPTIONS)
def test_an_agents_option_is_refused_in_the_job_and_in_the_parent_alike(
    ends: Callable[[Mode], FilePipe], option: str, value: Any
) -> None:
    refused = pytest.raises((TypeError, ValueError), match=option)
    with refused:
        Agent(ends(Mode.ACTIVE), **{option: value})
    exchange = TaskExchange(ends(Mode.PASSIVE))
    with refused:
        exchange.job_environment(**{option: value})


def test_an_option_that_there_is_not_is_refused_in_the_parent(ends: Callable[[Mode], FilePipe]) -> None:
    with pytest.raises(TypeError, match=r"^foo is no option of Agent; there are .*launch_once"):
        TaskExchange(ends(Mode.PASSIVE)).job_environment(foo=1)


def test_a_job_is_told_the_channels_of_its_exchange(place: Place) -> None:
    with TaskExchange(place.pairs.build(Mode.PASSIVE, place.token), task_channel="work") as exchange:
        with pytest.raises(ValueError, match=r"^task_channel must be that of the exchange, 'work', got 'task'"):
            exchange.job_environment(task_channel="task")
        environment = exchange.job_environment()
        assert "work" in environment["ZAGENT_PIPES"]
        with Agent(place.pairs.build(Mode.ACTIVE, place.token), task_channel="work"):
            assert exchange.wait_for_peer(10)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *((name, math.nan) for name in ("peer_timeout", "read_interval", "heartbeat_interval", "heartbeat_timeout")),
        ("peer_timeout", 0),
        ("max_resends", -1),
        ("retries", True),
        ("retries", -1),
        ("task_channel", ""),
        ("metric_channel", None),
        ("metric_channel", "task"),
    ],
)
def test_an_exchanges_option_is_named(ends: Callable[[Mode], FilePipe], option: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=option):
        TaskExchange(ends(Mode.PASSIVE), **{option: value})


def test_the_ends_of_the_wrong_side_are_refused(ends: Callable[[Mode], FilePipe]) -> None:
    with pytest.raises(ValueError, match=r"^pipe must be PASSIVE, got the ACTIVE end"):
        TaskExchange(ends(Mode.ACTIVE))
    with pytest.raises(ValueError, match=r"^metric_pipe must be PASSIVE, got the ACTIVE end"):
        TaskExchange(ends(Mode.PASSIVE), ends(Mode.ACTIVE))
    with pytest.raises(ValueError, match=r"^pipe must be ACTIVE, got the PASSIVE end"):
        Agent(ends(Mode.PASSIVE))
    with pytest.raises(TypeError, match=r"^metric_pipe must be a Pipe, not str"):
        Agent(ends(Mode.ACTIVE), "metric")  # type: ignore[arg-type]


def test_one_pipe_for_both_is_refused(ends: Callable[[Mode], FilePipe]) -> None:
    passive, active = ends(Mode.PASSIVE), ends(Mode.ACTIVE)
    with pytest.raises(ValueError, match="two pipes"):
        TaskExchange(passive, passive)
    with pytest.raises(ValueError, match="two pipes"):
        Agent(active, active)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("timeout", math.nan),
        ("timeout", "1"),
        ("abort", True),
        ("task_id", 5),
        ("current_round", "x"),
        ("total_rounds", 1.5),
        ("receivers", [1]),
        ("pass_through", "yes"),
    ],
)
def test_an_argument_of_run_is_named(place: Place, argument: str, value: Any) -> None:
    exchange = place.exchange()
    with pytest.raises((TypeError, ValueError), match=f"^{argument} "):
        exchange.run("t", **{argument: value})


@pytest.mark.parametrize("seconds", [math.nan, "1"])
def test_a_timeout_that_is_no_number_is_refused(place: Place, seconds: Any) -> None:
    exchange, agent = place.both(metrics=True)
    calls: list[Callable[[], object]] = [
        lambda: exchange.wait_for_peer(seconds),
        lambda: agent.get_task(seconds),
        lambda: agent.log(1, seconds),
        lambda: agent.flush_metrics(seconds),
    ]
    for call in calls:
        with pytest.raises((TypeError, ValueError), match=r"^timeout must be a number of seconds"):
            call()


def test_a_callback_for_metrics_that_cannot_come_is_refused(ends: Callable[[Mode], FilePipe]) -> None:
    with pytest.raises(CallStateError, match="metric pipe"):
        TaskExchange(ends(Mode.PASSIVE)).on_metric(print)
    with pytest.raises(TypeError, match=r"^callback must be callable"):
        TaskExchange(ends(Mode.PASSIVE), ends(Mode.PASSIVE)).on_metric(None)  # type: ignore[arg-type]
