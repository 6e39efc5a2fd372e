"""What launchers for engines elsewhere share. Invariant: the engine is told names and addresses; the work and the secrets go around it."""

from __future__ import annotations

import logging
import math
import socket
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from zcell.cell.endpoints import check_endpoint, is_local
from zcell.errors import CellClosedError, LaunchError
from zcell.launch.launcher import HandOver, Launcher, LifecycleHook
from zcell.launch.output import JobOutput, OutputCallback
from zcell.launch.remote.course import Bounds, Course
from zcell.launch.remote.desk import Desk
from zcell.launch.remote.engine import Engine
from zcell.launch.remote.handle import RemoteHandle
from zcell.launch.remote.messages import Work, node_name
from zcell.launch.remote.watcher import Watcher
from zcell.launch.selection import launcher_names, select_launcher
from zcell.launch.spec import JobSpec

if TYPE_CHECKING:
    from zcell.cell import Cell
    from zcell.security.credentials import Credentials
    from zcell.workspace.meter import ProgressCallback

log = logging.getLogger("zcell.launch")

COMMON_SETTINGS = {
    "python": "interpreter on the node that has zcell",
    "parent_url": "address under which nodes reach the parent, tcp://HOST:PORT",
    "insecure": "true: accept a parent_url beyond this machine without kits",
    "lease": "seconds without a link to the parent after which a node ends its job",
    "start_limit": "seconds from a job's start in the engine to its node's first word",
    "absence_deadline": "seconds after which a job that the engine does not list has vanished",
}


@dataclass(frozen=True)
class RemoteHandOver(HandOver):
    """A hand-over that knows the parent, which the job's node will call."""

    parent: Cell
    url: str
    renew: Callable[[], Credentials]
    """Makes fresh credentials for a job that begins again."""


class RemoteLauncher(Launcher):
    """Base of the launchers whose jobs start ``python -m zcell.launch.remote.node`` somewhere else."""

    own_settings: Mapping[str, str] = {}
    """What each of its own settings is."""
    bounds_by_default = Bounds()
    may_requeue = False
    goes_elsewhere = True
    job_may_set: Sequence[str] = ()
    """The settings that a job may set for itself, in its ``launcher_spec``."""

    def __init__(self, settings: Mapping[str, Any] | None = None, *, hooks: Iterable[LifecycleHook] = ()) -> None:
        super().__init__(settings, hooks=hooks)
        known = COMMON_SETTINGS | dict(self.own_settings)
        unknown = sorted(self.settings.keys() - known.keys())
        if unknown:
            raise LaunchError(f"the {self.name} launcher has no setting {unknown[0]!r}; it has {', '.join(sorted(known))}")
        usual = self.bounds_by_default
        self.bounds = replace(
            usual,
            absence=self._seconds("absence_deadline", usual.absence),
            lease=self._seconds("lease", usual.lease),
            start=self._seconds("start_limit", usual.start),
        )
        self.insecure = self._flag("insecure")
        self._parent_url = self._url()
        self.watcher = Watcher(self._engine())

    @abstractmethod
    def _engine(self) -> Engine:
        """The engine. Called once, by the constructor."""

    @abstractmethod
    def _submit(self, handle: RemoteHandle, url: str) -> None:
        """Hand the job to the engine and set `handle.engine_id`. Raises `LaunchError`; then nothing of it is left there."""

    def close(self) -> None:
        """Kill every job that still runs. Idempotent; the launcher can be used again."""
        handles = self.watcher.handles()
        for handle in handles:
            handle.kill(wait=False)
        for handle in handles:
            handle.wait()

    def _hand_over(self, spec: JobSpec, parent: Cell, on_progress: ProgressCallback | None) -> RemoteHandOver:
        url = self._reachable(spec, parent)
        if Desk.of(parent).expects(node_name(parent.fqcn, spec.job_id)):
            raise LaunchError(f"job {spec.job_id}: a job of that name is still running; give the new one another job_id")
        prepare = super()._hand_over
        given = prepare(spec, parent, on_progress)
        env = dict(given.env) | {"ZCELL_PARENT": url}
        if not is_local(url):
            env["ZCELL_INSECURE"] = "1"
        return RemoteHandOver(env, given.credentials, parent, url, lambda: prepare(spec, parent, on_progress).credentials)

    def _start(self, spec: JobSpec, hand_over: HandOver, on_output: OutputCallback | None) -> RemoteHandle:
        handle, url = self._prepare(spec, hand_over, on_output)
        try:
            self._submit(handle, url)
        except BaseException:
            handle.abandon()
            raise
        self.watcher.add(handle)
        return handle

    def _prepare(self, spec: JobSpec, hand_over: HandOver, on_output: OutputCallback | None) -> tuple[RemoteHandle, str]:
        assert isinstance(hand_over, RemoteHandOver)
        work = Work(
            job_id=spec.job_id,
            command=list(spec.arguments if spec.module else spec.command),
            module=spec.module,
            env=dict(spec.env),
            hand_over=dict(hand_over.env),
            grace=float(spec.grace),
            lease=self.bounds.lease,
            directory=self._directory(spec),
        )
        output = JobOutput(on_output, spec.log_file)
        try:
            handle = RemoteHandle(
                spec,
                output,
                parent=hand_over.parent,
                node=node_name(hand_over.parent.fqcn, spec.job_id),
                work=work,
                credentials=hand_over.credentials,
                course=Course(self.bounds, now=time.monotonic(), may_requeue=self.may_requeue),
                watcher=self.watcher,
                renew=hand_over.renew,
            )
        except ValueError as error:
            output.end()
            raise LaunchError(f"job {spec.job_id}: {error}") from error
        return handle, hand_over.url

    def job_settings(self, spec: JobSpec) -> dict[str, Any]:
        """What the job's own specification sets for this launcher. Raises `LaunchError` for what is not the job's to set."""
        chosen = select_launcher(spec, default=self.name, known={*launcher_names(), self.name})
        if chosen.launcher != self.name:
            return {}
        for name, value in chosen.settings.items():
            if name not in self.job_may_set and self.settings.get(name) != value:
                raise LaunchError(
                    f"job {spec.job_id}: {chosen.place}[{self.name!r}] sets {name!r}, which a job may not; it may set "
                    f"{', '.join(self.job_may_set)}. The rest is for the {self.name} launcher's own settings"
                )
        return {name: value for name, value in chosen.settings.items() if name in self.job_may_set}

    def _directory(self, spec: JobSpec) -> str:
        """Where the command runs on the node when the job's files are there already. Empty: they travel."""
        return ""

    def _reachable(self, spec: JobSpec, parent: Cell) -> str:
        """The address that nodes call. Raises `LaunchError` naming what to set."""
        if self._parent_url:
            return self._parent_url
        try:
            endpoints = [url for url in parent.endpoints if url.startswith("tcp://")]
        except CellClosedError as error:
            raise LaunchError(f"job {spec.job_id}: its parent {parent.fqcn!r} is not running: {error}") from error
        if not endpoints:
            raise LaunchError(
                f"job {spec.job_id}: its parent {parent.fqcn!r} has no tcp endpoint, and {self.name} jobs reach it over the network; "
                "start the cell with listen=['tcp://0.0.0.0:PORT'], insecure=True"
            )
        # an address of this machine's network is better than one of its loopback
        url = next((u for u in endpoints if not is_local(u)), endpoints[0])
        host, _, port = url[6:].rpartition(":")
        return f"tcp://{self._own_address()}:{port}" if host in ("0.0.0.0", "[::]", "*") else url  # noqa: S104  compared, not bound

    def _own_address(self) -> str:
        """Under which nodes reach a parent that listens on all of this machine's addresses."""
        return socket.gethostname()

    def _url(self) -> str:
        url = self.settings.get("parent_url")
        if url is None:
            return ""
        try:
            checked = check_endpoint(url, f"the {self.name} launcher's setting parent_url")
        except (TypeError, ValueError) as error:
            raise LaunchError(str(error)) from error
        if not checked.startswith("tcp://"):
            raise LaunchError(f"the {self.name} launcher's setting parent_url is {url!r}; nodes need tcp://HOST:PORT")
        if not is_local(checked) and not self.insecure:
            raise LaunchError(
                f"the {self.name} launcher's setting parent_url is {url!r}, which other machines reach, and there are no kits to "
                "prove identities with: set insecure to true to accept that anyone on the way can read and alter traffic"
            )
        return checked

    def _seconds(self, name: str, default: float) -> float:
        value = self.settings.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise LaunchError(f"the {self.name} launcher's setting {name} must be a number of seconds above 0, got {value!r}")
        return float(value)

    def _flag(self, name: str) -> bool:
        value = self.settings.get(name, False)
        if not isinstance(value, bool):
            raise LaunchError(f"the {self.name} launcher's setting {name} must be true or false, got {value!r}")
        return value
