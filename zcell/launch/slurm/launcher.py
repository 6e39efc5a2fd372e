"""Jobs on a Slurm cluster. Invariant: whatever Slurm would refuse, or a node could not reach, is told before anything is submitted."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zcell.cell.endpoints import is_local
from zcell.errors import LaunchError
from zcell.launch.checkup import Check
from zcell.launch.launcher import LifecycleHook
from zcell.launch.output import OutputCallback
from zcell.launch.owner import Owner
from zcell.launch.remote.handle import RemoteHandle
from zcell.launch.remote.launcher import RemoteLauncher
from zcell.launch.slurm.checkup import examine
from zcell.launch.slurm.commands import Commands, SlurmError
from zcell.launch.slurm.engine import SlurmEngine, Submission
from zcell.launch.slurm.orphans import cancel_orphans, comment_of
from zcell.launch.slurm.script import Batch, render, shared_place_of
from zcell.launch.slurm.settings import OPTIONS, OWN_SETTINGS, RESOURCES, SlurmSettings, job_resources, resource_options
from zcell.launch.spec import JobSpec
from zcell.security.credentials import write_credentials

if TYPE_CHECKING:
    from zcell.cell import Cell
    from zcell.workspace.meter import ProgressCallback

MAX_ARRAY = 1000
"""Most jobs of one array; a cluster's MaxArraySize may be lower, which sbatch tells."""


class SlurmLauncher(RemoteLauncher):
    """Settings: see docs/howto-slurm.md. The nodes need python with zcell, and a way to the parent's endpoint; nothing else."""

    name = "slurm"
    own_settings = OWN_SETTINGS
    job_may_set = (*OPTIONS, *RESOURCES)

    def __init__(self, settings: Mapping[str, Any] | None = None, *, hooks: Iterable[LifecycleHook] = ()) -> None:
        given = dict(settings or {})
        self.slurm = SlurmSettings.parse(given)
        self.may_requeue = self.slurm.requeue
        self._commands = Commands(self.slurm.bin)
        self._python = given.get("python", sys.executable)
        if not isinstance(self._python, str) or not self._python or "\n" in self._python or "\0" in self._python:
            raise LaunchError(f"the slurm launcher's setting python must be a program's name or path, got {self._python!r}")
        self._lock = threading.Lock()
        self._accepted: set[str] = set()
        self._swept = False
        self._owner = Owner.here()
        super().__init__(given, hooks=hooks)

    def _engine(self) -> SlurmEngine:
        self._slurm = SlurmEngine(self.slurm, self._commands)
        return self._slurm

    def examine(self) -> Iterator[Check]:
        yield from examine(self._commands, self.slurm.options.get("partition", ""))

    def check(self, spec: JobSpec) -> None:
        asked = self._asked_by(spec)
        self._commands.check(f"job {spec.job_id}")
        shared = self.slurm.shared_directory
        if shared and not (Path(shared).is_dir() and os.access(shared, os.W_OK)):
            raise LaunchError(
                f"job {spec.job_id}: the slurm launcher's setting shared_directory is {shared}, which is no writable directory here"
            )
        self._ask_slurm(spec, asked)

    def _asked_by(self, spec: JobSpec) -> tuple[SlurmSettings, dict[str, str]]:
        """The settings with what the job sets of them, and options for its resources. Raises `LaunchError`."""
        own = self.job_settings(spec)
        settings = SlurmSettings.parse(self.settings | own) if own else self.slurm
        return settings, resource_options(job_resources(settings, spec), f"job {spec.job_id}")

    def _ask_slurm(self, spec: JobSpec, asked: tuple[SlurmSettings, Mapping[str, str]]) -> None:
        """Have sbatch look at what the job asks for, without submitting anything; once for the same demands."""
        trial = Batch("zcell-trial", ["server.job"], "tcp://127.0.0.1:1", "0", self._python, "zcell")
        settings, resources = asked
        script = render(trial, settings, resources)
        with self._lock:
            if script in self._accepted:
                return
        try:
            self._commands.run("sbatch", "--test-only", stdin=script)
        except SlurmError as error:
            if error.unreachable:
                raise error.for_the_user(f"job {spec.job_id}: the Slurm cluster does not answer") from error
            words = ", ".join(_words(settings, resources)) or "the defaults"
            raise LaunchError(f"job {spec.job_id}: slurm refuses what the job asks for ({words}): {error}") from error
        with self._lock:
            self._accepted.add(script)

    def launch_array(
        self,
        specs: Sequence[JobSpec],
        parent: Cell,
        *,
        at_once: int | None = None,
        on_output: OutputCallback | None = None,
        on_progress: ProgressCallback | None = None,
    ) -> list[RemoteHandle]:
        """Start all `specs` as one array, `at_once` of them at a time (default: as many as the cluster has room for).

        They share the launcher's settings and must ask for the same resources. Each has its own handle, in the order given. Raises
        `LaunchError`, then none is started.
        """
        if not 1 <= len(specs) <= MAX_ARRAY or len({spec.job_id for spec in specs}) < len(specs):
            raise LaunchError(f"an array has 1 to {MAX_ARRAY} jobs, each with a job_id of its own; got {len(specs)}")
        if at_once is not None and (isinstance(at_once, bool) or not isinstance(at_once, int) or at_once < 1):
            raise LaunchError(f"at_once must be a whole number from 1, got {at_once!r}")
        specs = [self._ask_hooks(spec) for spec in specs]
        asked = [self._asked_by(spec) for spec in specs]
        if any(other != asked[0] for other in asked):
            raise LaunchError(
                f"the jobs of the array from {specs[0].job_id} on ask for different resources; launch them one by one"
            )
        for spec in specs:
            self.check(spec)
        with contextlib.ExitStack() as undo:
            handles = []
            for spec in specs:
                hand_over = self._hand_over(spec, parent, on_progress)
                undo.callback(self._take_back, spec, parent)
                self._check_files(spec, parent)
                handle, url = self._prepare(spec, hand_over, on_output)
                undo.callback(handle.abandon)
                handles.append(handle)
            self._submit_batch(handles, url, at_once=at_once, is_array=True)
            undo.pop_all()
        for handle in handles:
            self.watcher.add(handle)
            self._follow(handle.spec, handle, parent)
        return handles

    def _submit(self, handle: RemoteHandle, url: str) -> None:
        self._submit_batch([handle], url)

    def _submit_batch(
        self, handles: Sequence[RemoteHandle], url: str, *, at_once: int | None = None, is_array: bool = False
    ) -> None:
        first = handles[0]
        if not self._swept:
            self._swept = True
            cancel_orphans(self._commands)
        batch = Batch(
            name=f"zcell-{first.job_id}",
            nodes=[handle.node for handle in handles],
            url=url,
            nonce=secrets.token_hex(12),
            python=self._python,
            owner=comment_of(self._owner),
            lease=self.bounds.lease,
            at_once=at_once,
            is_array=is_array,
        )
        script = render(batch, *self._asked_by(first.spec))
        with contextlib.ExitStack() as undo:
            if self.slurm.shared_directory:
                undo.callback(shutil.rmtree, self._fill_shared_place(batch.nonce, handles), ignore_errors=True)
            try:
                text = self._commands.run("sbatch", "--parsable", stdin=script)
            except SlurmError as error:
                raise error.for_the_user(f"job {first.job_id}: the slurm launcher could not submit it") from error
            undo.pop_all()
        job = text.strip().partition(";")[0]  # with several clusters: ID;CLUSTER
        for task, handle in enumerate(handles):
            handle.engine_id = f"{job}_{task}" if is_array else job
            self._slurm.expect(handle, Submission(batch.nonce, task))

    def _fill_shared_place(self, nonce: str, handles: Sequence[RemoteHandle]) -> Path:
        place = Path(shared_place_of(self.slurm, nonce))
        try:
            place.mkdir(mode=0o700)
            if self.slurm.credentials == "shared":
                for task, handle in enumerate(handles):
                    write_credentials(place / f"credentials-{task}", handle.credentials)
        except OSError as error:
            shutil.rmtree(place, ignore_errors=True)
            raise LaunchError(f"job {handles[0].job_id}: its directory in shared_directory cannot be made: {error}") from error
        return place

    def _reachable(self, spec: JobSpec, parent: Cell) -> str:
        url = super()._reachable(spec, parent)
        if is_local(url) and (others := self._other_nodes()):
            raise LaunchError(
                f"job {spec.job_id}: its parent listens on {url}, which only this machine reaches, and the cluster has other nodes "
                f"({', '.join(others[:3])}); start the cell with listen=['tcp://0.0.0.0:PORT'], insecure=True, or set parent_url"
            )
        return url

    def _other_nodes(self) -> list[str]:
        partition = self.slurm.options.get("partition")
        options = [f"--partition={partition}"] if partition else []
        try:
            text = self._commands.run("sinfo", "--noheader", "--Node", "--format=%n", *options)
        except SlurmError as error:
            raise error.for_the_user("slurm cannot be asked for its nodes") from error
        ours = socket.gethostname().partition(".")[0]
        return sorted({name.strip().partition(".")[0] for name in text.splitlines()} - {ours, "localhost", ""})


def _words(settings: SlurmSettings, resources: Mapping[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in {**settings.options, **resources}.items()]
