"""What every launcher does around an engine. Invariant: whatever was prepared for a job is undone once, when it ends or never starts.

A launcher for an engine is a subclass with `_start` (and `check`, for mistakes that must be told before anything is started),
installed under the entry-point group ``zcell.launchers``.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zcell.errors import LaunchError
from zcell.launch.checkup import Check
from zcell.launch.credentials import Credentials
from zcell.launch.handle import JobHandle
from zcell.launch.output import OutputCallback
from zcell.launch.spec import JobSpec

if TYPE_CHECKING:
    from zcell.cell import Cell
    from zcell.workspace.meter import ProgressCallback

log = logging.getLogger("zcell.launch")


class LifecycleHook:
    """Override what is needed. Hooks run in the order given, in the thread that launches (`finished`: in a launcher's thread)."""

    def before_launch(self, spec: JobSpec, launcher: Launcher) -> JobSpec | None:
        """Before anything is prepared. Return a spec to use instead, or None; raise to refuse the launch."""
        return None

    def launched(self, spec: JobSpec, handle: JobHandle) -> None:
        """The engine has accepted the job. An exception is logged."""

    def finished(self, spec: JobSpec, handle: JobHandle) -> None:
        """The job has ended and its handle says how. An exception is logged. Must be quick."""


@dataclass(frozen=True)
class HandOver:
    """What a job is told: variables (names and addresses only), and credentials for `write_credentials`."""

    env: Mapping[str, str]
    credentials: Credentials


class Launcher(ABC):
    """Starts jobs. One launcher may run many jobs at once; all methods may be called from any thread."""

    name: str = ""
    """The name under which it is installed."""
    command_settings: Mapping[str, Any] = {}
    """What ``zcell run`` sets unless it is told otherwise."""
    goes_elsewhere = False
    """Whether its jobs may reach their parent over a network, which the setting ``insecure`` then allows."""

    def __init__(self, settings: Mapping[str, Any] | None = None, *, hooks: Iterable[LifecycleHook] = ()) -> None:
        self.settings = dict(settings or {})
        self.hooks = tuple(hooks)

    def launch(
        self,
        spec: JobSpec,
        parent: Cell,
        *,
        on_output: OutputCallback | None = None,
        on_progress: ProgressCallback | None = None,
    ) -> JobHandle:
        """Start `spec` as a child of the running cell `parent`, which owns the job's workspace.

        `on_output(stream, line)` gets the job's output line by line; it must be quick. `on_progress(event)` gets a
        `WorkspaceProgress` for the job's files, both ways. Raises `LaunchError` naming the job, the
        launcher and the setting to change when the job cannot be started; then nothing of it is left.
        """
        spec = self._ask_hooks(spec)
        self.check(spec)
        hand_over = self._hand_over(spec, parent, on_progress)
        try:
            self._check_files(spec, parent)
            handle = self._start(spec, hand_over, on_output)
        except BaseException:
            self._take_back(spec, parent)
            raise
        self._follow(spec, handle, parent)
        return handle

    def _follow(self, spec: JobSpec, handle: JobHandle, parent: Cell) -> None:
        """The job has been started: take back what was prepared once it has ended, and tell the hooks."""
        handle.in_place = not self._ships(spec)
        handle.before_finished(lambda _: self._take_back(spec, parent))
        for hook in self.hooks:
            try:
                hook.launched(spec, handle)
            except Exception:
                log.exception("job %s: the launched hook %r raised", spec.job_id, hook)
            handle.on_finished(lambda ended, hook=hook: hook.finished(spec, ended))  # type: ignore[misc]

    def endpoints(self) -> list[str]:
        """Where a parent listens that is there for this launcher's jobs alone. Raises `LaunchError`."""
        return ["tcp://127.0.0.1:0"]

    def check(self, spec: JobSpec) -> None:  # noqa: B027  most launchers have something to check, none has to
        """Raise `LaunchError` for a mistake in `spec` or the settings, before anything is prepared."""

    def examine(self) -> Iterator[Check]:
        """Whether the engine will take jobs, as far as asking tells; ``zcell doctor`` shows it before it starts one."""
        yield from ()

    def left(self) -> Check | None:
        """Whether the engine still has anything of this launcher's jobs; None where it is not asked. Raises `LaunchError`."""
        return None

    def close(self) -> None:  # noqa: B027  a launcher that holds nothing has nothing to close
        """End every job that still runs and release what the launcher holds. Idempotent."""

    @abstractmethod
    def _start(self, spec: JobSpec, hand_over: HandOver, on_output: OutputCallback | None) -> JobHandle:
        """Start the job's runner (``python -m zcell.launch.job``) in the engine. Raises `LaunchError`."""

    def _ships(self, spec: JobSpec) -> bool:
        """Whether the job's files travel over the cell."""
        return True

    def _ask_hooks(self, spec: JobSpec) -> JobSpec:
        for hook in self.hooks:
            try:
                spec = hook.before_launch(spec, self) or spec
            except LaunchError:
                raise
            except Exception as error:
                raise LaunchError(f"job {spec.job_id}: the hook {hook!r} refused the launch: {error}") from error
        return spec

    def _hand_over(self, spec: JobSpec, parent: Cell, on_progress: ProgressCallback | None) -> HandOver:
        from zcell.launch.handover import hand_over

        return hand_over(spec, parent, on_progress, ships=self._ships(spec))

    def _check_files(self, spec: JobSpec, parent: Cell) -> None:
        """Once, before the job is started: one that begins again asks for them in its own time."""
        from zcell.launch.handover import check_files

        if self._ships(spec):
            check_files(spec, parent)

    def _take_back(self, spec: JobSpec, parent: Cell) -> None:
        from zcell.launch.handover import take_back

        if self._ships(spec):
            take_back(spec, parent)
