"""The batch script. Invariant: it holds names and addresses only, all of them quoted; everything in it may be read by others.

Slurm keeps the script and shows it to the job's owner and to administrators, so no secret and nothing of the job's environment is
in it: the credentials follow as a file, the work is asked for over the cell tree.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from zcell.cell.endpoints import is_local
from zcell.launch.remote.refusal import Refusal
from zcell.launch.slurm.settings import SlurmSettings

CREDENTIALS_WAIT = 60
"""Seconds that a node waits for its credentials."""


@dataclass(frozen=True)
class Batch:
    """One submission: a job, or an array of them."""

    name: str
    nodes: Sequence[str]
    """Names of the nodes' cells, one for each task."""
    url: str
    nonce: str
    """Makes the private directories' names unguessable before the job runs."""
    python: str
    owner: str
    """Which process submitted it: what a later one needs to know to clear up after a dead one."""
    lease: float = 30.0
    """Seconds that a node waits for credentials when nobody listens at `url`."""
    at_once: int | None = None
    """Most tasks of the array that run at once."""
    is_array: bool = False


def place_of(settings: SlurmSettings, nonce: str, task: int, run: int) -> str:
    """The private directory of one task on its node, where the credentials arrive."""
    return f"{settings.directory}/zcell-slurm-{nonce}-{task}-{run}"


def shared_place_of(settings: SlurmSettings, nonce: str) -> str:
    """The private directory of one submission in the shared directory."""
    return f"{settings.shared_directory}/zcell-slurm-{nonce}"


def render(batch: Batch, settings: SlurmSettings, resources: Mapping[str, str]) -> str:
    """The whole script."""
    return "\n".join([*_header(batch, settings, resources), *_body(batch, settings), ""])


def _header(batch: Batch, settings: SlurmSettings, resources: Mapping[str, str]) -> list[str]:
    wanted = {"job-name": batch.name, "comment": batch.owner, "nodes": "1", "ntasks-per-node": "1"}
    wanted |= dict(settings.options)
    wanted |= {name: value for name, value in resources.items() if not name.startswith("gpus-")}
    if "gpus-gres" in resources:
        wanted["gres"] = ",".join(filter(None, [settings.options.get("gres"), resources["gpus-gres"]]))
    if batch.is_array:
        wanted["array"] = f"0-{len(batch.nodes) - 1}" + (f"%{batch.at_once}" if batch.at_once else "")
    wanted["export"] = ",".join(settings.export) or "NONE"
    wanted["output"] = _output(batch, settings)
    wanted["open-mode"] = "append"
    wanted["chdir"] = "/"
    lines = ["#!/bin/sh", *(f"#SBATCH --{name}={value}" for name, value in wanted.items())]
    return [*lines, "#SBATCH --requeue" if settings.requeue else "#SBATCH --no-requeue"]


def _output(batch: Batch, settings: SlurmSettings) -> str:
    if settings.output:
        return settings.output
    if settings.shared_directory:
        return f"{shared_place_of(settings, batch.nonce)}/node-{'%a' if batch.is_array else '0'}.log"
    return "/dev/null"


def _body(batch: Batch, settings: SlurmSettings) -> list[str]:
    names = [f"{number}) name={shlex.quote(name)} ;;" for number, name in enumerate(batch.nodes)]
    return [
        "# written by zcell: names and addresses only; credentials and work take other ways",
        'task="${SLURM_ARRAY_TASK_ID:-0}"',
        'case "$task" in',
        *names,
        "esac",
        *_place(batch, settings),
        "trap clear_up EXIT",
        "trap 'exit 143' TERM INT HUP",
        *settings.setup,
        f"python={shlex.quote(batch.python)}",
        "probe='import importlib.util, sys; sys.exit(importlib.util.find_spec(\"zcell\") is None)'",
        f'"$python" -P -c "$probe" || exit {int(Refusal.NO_PYTHON)}',
        *_node(batch, settings),
        "# Slurm signals this shell, or both: the node ends its job with grace, and then this shell ends",
        "node=$!",
        "trap 'kill -TERM \"$node\" 2>/dev/null' TERM INT HUP",
        'wait "$node"; code=$?',
        'while kill -0 "$node" 2>/dev/null; do wait "$node"; code=$?; done',
        'exit "$code"',
    ]


def _place(batch: Batch, settings: SlurmSettings) -> list[str]:
    """Where the credentials arrive, and what removes them when nobody came to read them."""
    if settings.credentials == "shared":
        place = shlex.quote(shared_place_of(settings, batch.nonce))
        return [f'credentials={place}"/credentials-$task"', 'clear_up() { rm -f "$credentials"; }']
    directory, stem = settings.directory, f"{settings.directory}/zcell-slurm-{batch.nonce}"
    return [
        "# what jobs left that were killed before they had read their credentials",
        f"find {shlex.quote(directory)} -maxdepth 1 -name 'zcell-slurm-*' -user \"$(id -u)\" -mmin +30 -exec rm -rf {{}} + 2>/dev/null",
        f'place={shlex.quote(stem)}"-$task-${{SLURM_RESTART_COUNT:-0}}"',
        'credentials="$place/credentials"',
        'clear_up() { rm -rf "$place"; }',
        f'mkdir -m 700 "$place" || exit {int(Refusal.NO_DIRECTORY)}',
    ]


def _node(batch: Batch, settings: SlurmSettings) -> list[str]:
    options = ["--consume"] if settings.credentials == "shared" else ["--consume", "--tidy"]
    options += ["--insecure"] if not is_local(batch.url) else []
    options += ["--echo"] if settings.output else []
    return [
        '"$python" -P -u -m zcell.launch.remote.node \\',
        f"    --parent {shlex.quote(batch.url)} \\",
        '    --name "$name" \\',
        f'    --credentials "$credentials" --wait {CREDENTIALS_WAIT} --lease {batch.lease:g} \\',
        f"    --directory {shlex.quote(settings.directory)} \\",
        f'    --run "${{SLURM_RESTART_COUNT:-0}}" {" ".join(options)} &',
    ]
