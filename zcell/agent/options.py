"""The options of an agent. Invariant owned here: the parent that writes them down and the job that reads them apply the same rules."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zcell.pipe.arguments import channel, flag, seconds, seconds_or_none
from zcell.pipe.pipe import Mode, Pipe
from zcell.pipe.settings import HandlerSettings


@dataclass(slots=True, kw_only=True)
class AgentOptions:
    """The keyword arguments of `Agent`, which says what they mean. Raises `ValueError` or `TypeError` naming the wrong one."""

    task_channel: str = "task"
    metric_channel: str = "metric"
    close_pipe: bool = True
    close_metric_pipe: bool = True
    submit_result_timeout: float = 60.0
    streaming_idle_timeout: float | None = 600.0
    download_complete_timeout: float = 1800.0
    launch_once: bool = False
    read_interval: float = 0.1
    heartbeat_interval: float = 5.0
    heartbeat_timeout: float = 60.0
    resend_interval: float | None = 2.0
    max_resends: int | None = None

    def __post_init__(self) -> None:
        check_channels(self.task_channel, self.metric_channel)
        for name in ("close_pipe", "close_metric_pipe", "launch_once"):
            flag(name, getattr(self, name))
        self.submit_result_timeout = seconds("submit_result_timeout", self.submit_result_timeout, above=0)
        self.streaming_idle_timeout = seconds_or_none("streaming_idle_timeout", self.streaming_idle_timeout, above=0)
        self.download_complete_timeout = seconds("download_complete_timeout", self.download_complete_timeout, above=0)
        self.handler_settings()

    def handler_settings(self) -> HandlerSettings:
        """Those that the handlers of the pipes get."""
        return HandlerSettings(
            self.read_interval, self.heartbeat_interval, self.heartbeat_timeout, self.resend_interval, self.max_resends
        )


def checked_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """`options` for an agent elsewhere. Raises `TypeError` for one that there is not, and what `AgentOptions` raises."""
    known = {field.name for field in dataclasses.fields(AgentOptions)}
    unknown = sorted(set(options) - known)
    if unknown:
        raise TypeError(f"{unknown[0]} is no option of Agent; there are {', '.join(sorted(known))}")
    checked = AgentOptions(**options)
    return {name: getattr(checked, name) for name in options}


def check_channels(task_channel: object, metric_channel: object) -> None:
    """Raises `ValueError` unless these are the names of two conversations."""
    if channel("task_channel", task_channel) == channel("metric_channel", metric_channel):
        raise ValueError(f"task_channel and metric_channel must be different names, got {task_channel!r} for both")


def check_ends(mode: Mode, pipe: object, metric_pipe: object) -> None:
    """Raises unless `pipe` and `metric_pipe`, where given, are two ends of `mode`."""
    for name, end in (("pipe", pipe), ("metric_pipe", metric_pipe)):
        if end is not None and not isinstance(end, Pipe):
            raise TypeError(f"{name} must be a Pipe, not {type(end).__name__}")
        if end is not None and end.mode is not mode:
            raise ValueError(
                f"{name} must be {mode.value}, got the {end.mode.value} end: the job's is ACTIVE, its parent's PASSIVE"
            )
    if pipe is not None and pipe is metric_pipe:
        raise ValueError("pipe and metric_pipe must be two pipes, got the same one for both")
