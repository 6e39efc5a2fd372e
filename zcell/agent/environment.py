"""How a launched job learns of its pipes. Invariant owned here: the variable holds names and addresses, never a secret."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from zcell.launch.credentials import credentials_from_env
from zcell.pipe.cell_pipe import CellPipe
from zcell.pipe.pipe import Mode, Pipe
from zcell.pipe.rebuild import rebuild

VARIABLE = "ZAGENT_PIPES"
"""Not among the launcher's own (``ZCELL_``), so that a job's specification may carry it."""
Exported = tuple[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """What the parent tells its job."""

    task: Exported | None
    metric: Exported | None
    options: dict[str, Any] = field(default_factory=dict)


def describe(pipe: Pipe | None, metric_pipe: Pipe | None, options: Mapping[str, Any]) -> dict[str, str]:
    """The environment that lets a job build the other ends of `pipe` and `metric_pipe`."""
    exported = {
        "task": None if pipe is None else pipe.export(Mode.ACTIVE),
        "metric": None if metric_pipe is None else metric_pipe.export(Mode.ACTIVE),
        "options": dict(options),
    }
    return {VARIABLE: json.dumps(exported)}


def read(env: Mapping[str, str] | None = None) -> AgentSettings | None:
    """The settings in the environment, None when there are none. Raises `ValueError` naming the variable."""
    text = (os.environ if env is None else env).get(VARIABLE)
    if text is None:
        return None
    try:
        found = json.loads(text)
        return AgentSettings(_exported(found["task"]), _exported(found["metric"]), dict(found["options"]))
    except (ValueError, TypeError, KeyError) as e:
        raise ValueError(f"{VARIABLE} does not describe pipes; expected what TaskExchange.job_environment gave: {e}") from None


def _exported(value: Any) -> Exported | None:
    if value is None:
        return None
    path, kwargs = value
    if not isinstance(path, str) or not isinstance(kwargs, dict):
        raise ValueError("a pipe is described by its import path and its arguments")
    return path, kwargs


def build_pipes(settings: AgentSettings, env: Mapping[str, str] | None = None) -> tuple[Pipe | None, Pipe | None]:
    """This process's ends. Pipes over cells share one cell, reach the parent as the launcher says, and know the job's secret.

    An address beyond this machine is taken where the launcher says (``ZCELL_INSECURE``) that the parent's cell insists on it.
    """
    env = os.environ if env is None else env
    extra: dict[str, Any] = {}
    built: list[Pipe | None] = []
    for exported in (settings.task, settings.metric):
        if exported is None:
            built.append(None)
            continue
        path, kwargs = exported
        if path == "zcell.pipe.CellPipe" and not extra:
            credentials = credentials_from_env(env)
            extra = {"insecure": env.get("ZCELL_INSECURE") == "1"}
            extra |= {"secret": credentials.link_secret} if credentials is not None else {}
            kwargs = {**kwargs, "parent": env.get("ZCELL_PARENT") or kwargs.get("parent")}
        elif path == "zcell.pipe.CellPipe":
            kwargs = {**kwargs, "parent": None}
        pipe = rebuild(path, kwargs, **(extra if path == "zcell.pipe.CellPipe" else {}))
        if isinstance(pipe, CellPipe):
            extra = {"cell": pipe.cell}
        built.append(pipe)
    return built[0], built[1]
