"""Jobs in Docker containers. Invariant: a job's container is there from its launch until its end is known, and not after that.

In the container runs the job's node, as the user who launches, on a network that the engine has. Its credentials are put into the
container before it starts, so that neither the container's description nor its environment holds a secret.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from zcell.cell.endpoints import is_local
from zcell.errors import CellClosedError, LaunchError
from zcell.launch.checkup import Check
from zcell.launch.docker import reach, settings, view
from zcell.launch.docker.archive import private_archive
from zcell.launch.docker.checkup import examine
from zcell.launch.docker.engine import DockerEngine, NoSuchContainerError
from zcell.launch.docker.gpus import device_requests
from zcell.launch.docker.names import container_name
from zcell.launch.docker.orphans import Janitor, orphans
from zcell.launch.docker.request import JOB_LABEL, OWNER_LABEL, Identity, container_request, node_arguments
from zcell.launch.docker.settings import SHARED, JobSettings, SiteSettings
from zcell.launch.docker.study import STUDIES, study_data
from zcell.launch.launcher import LifecycleHook
from zcell.launch.owner import Owner
from zcell.launch.remote import EngineError, RemoteHandle, RemoteLauncher
from zcell.launch.remote.course import Bounds
from zcell.launch.selection import launcher_names, select_launcher
from zcell.launch.spec import JobSpec

if TYPE_CHECKING:
    from zcell.cell import Cell

log = logging.getLogger("zcell.launch.docker")

_PAUSE = 0.05


class DockerLauncher(RemoteLauncher):
    """Starts each job in a container of its own. `zcell.launch.docker.settings.SITE_SETTINGS` says what may be set.

    A job's own settings are those that `select_launcher` finds in its spec for ``docker``.
    """

    name = "docker"
    own_settings = settings.SITE_SETTINGS
    command_settings = {"workspace": settings.TRANSFER}  # noqa: RUF012  never changed
    # the engine's view of a container does not lag, and an engine that hangs must not keep a caller from the job's end
    bounds_by_default = Bounds(absence=2.0, exact=True, margin=2.0, late_words=2.0, unconfirmed=1.0)

    def __init__(self, settings: Mapping[str, Any] | None = None, *, hooks: Iterable[LifecycleHook] = ()) -> None:
        self.site = SiteSettings.parse(dict(settings or {}))
        self.owner = Owner.here()
        super().__init__(settings, hooks=hooks)
        device_requests({}, self.site.gpus, site_place="the docker launcher's settings")

    def _engine(self) -> DockerEngine:
        self.engine = DockerEngine(self.site.engine, str(self.owner))
        self._janitor = Janitor(self.engine.remove)
        self.engine.remove_later = self._janitor.take
        return self.engine

    def close(self) -> None:
        """Kill every job that still runs and let the engine's connections go. Idempotent; the launcher can be used again."""
        super().close()
        self._janitor.close()
        self.engine.close()

    def endpoints(self) -> list[str]:
        """The engine's host as its containers see it; every address when they are told another one."""
        if self.site.parent_host or self._parent_url:
            return [f"tcp://{reach.EVERYWHERE}:0"]
        try:
            return [f"tcp://{reach.listening_host(self._known_network())}:0"]
        except EngineError as error:
            raise error.for_the_user("the docker launcher cannot say where its jobs reach their parent") from error

    # before anything is started

    def check(self, spec: JobSpec) -> None:
        """Every mistake that can be found without starting anything. Raises `LaunchError` naming the job and the setting."""
        job = self._job_settings(spec)
        self._devices(spec, job)
        self._mounts(spec)
        try:
            self._known_network()
            if not self.engine.has_image(job.image):
                self._fetch_image(spec, job.image)
        except EngineError as error:
            raise error.for_the_user(f"job {spec.job_id}") from error
        except LaunchError as error:
            raise LaunchError(f"job {spec.job_id}: {error}") from error

    def examine(self) -> Iterator[Check]:
        yield from examine(self.engine, self.site, self._known_network)

    def _job_settings(self, spec: JobSpec) -> JobSettings:
        chosen = select_launcher(spec, default=self.name, known={*launcher_names(), self.name})
        own, place = (chosen.settings, chosen.place) if chosen.launcher == self.name else ({}, "the default")
        return JobSettings.merge(spec, own, place, self.site)

    def _devices(self, spec: JobSpec, job: JobSettings) -> list[dict[str, Any]]:
        site_place = "the docker launcher's settings"
        return device_requests(job.gpus, self.site.gpus, job_place=f"job {spec.job_id}", site_place=site_place)

    def _mounts(self, spec: JobSpec) -> list[dict[str, Any]]:
        mounts = view.shared_mounts(spec) if self.site.workspace == SHARED else []
        if spec.study and spec.workspace is not None:
            try:
                sets = study_data(spec.workspace / view.LOCAL / STUDIES, spec.study)
                mounts += view.study_mounts(sets, self.engine.socket)
            except LaunchError as error:
                raise LaunchError(f"job {spec.job_id}: {error}") from error
        return mounts

    def _known_network(self) -> dict[str, Any]:
        name = self.site.network
        network = self.engine.network(name)
        if network is None:
            raise LaunchError(
                f"the Docker engine has no network {name!r}; create it: docker network create {name}, or name another one in the "
                "docker launcher's setting network"
            )
        if network.get("Driver") == "null":
            raise LaunchError(
                f"the network {name!r} connects to nothing, and a job must reach its parent: name another network"
            )
        return network

    def _fetch_image(self, spec: JobSpec, image: str) -> None:
        if self.site.pull == "never":
            raise LaunchError(
                f"the Docker engine does not have the image {image!r}; docker pull {image}, or set the docker launcher's setting pull "
                "to 'missing'"
            )
        log.info("job %s: pulling the image %s", spec.job_id, image)
        self.engine.pull(image)

    # what the job is told

    def _reachable(self, spec: JobSpec, parent: Cell) -> str:
        if self._parent_url:
            return self._parent_url
        try:
            endpoints = parent.endpoints
        except CellClosedError as error:
            raise LaunchError(f"job {spec.job_id}: its parent {parent.fqcn!r} is not running: {error}") from error
        try:
            names = [spec.site, container_name(spec.site, "")]
            host = self.site.parent_host or reach.parent_host(self._known_network(), names)
            return reach.parent_url(endpoints, host)
        except EngineError as error:
            raise error.for_the_user(f"job {spec.job_id}") from error
        except LaunchError as error:
            raise LaunchError(f"job {spec.job_id}: {error}") from error

    def _ships(self, spec: JobSpec) -> bool:
        return self.site.workspace != SHARED

    def _directory(self, spec: JobSpec) -> str:
        is_there = spec.workspace is not None or spec.job_directory is not None
        return f"{view.WORKSPACE}/{spec.job_id}" if is_there and not self._ships(spec) else ""

    # the container

    def _submit(self, handle: RemoteHandle, url: str) -> None:
        self._sweep()
        try:
            handle.engine_id = self._create(handle, url)
            self._start_container(handle)
        except EngineError as error:
            raise error.for_the_user(f"job {handle.job_id}") from error

    def _create(self, handle: RemoteHandle, url: str) -> str:
        spec, job = handle.spec, self._job_settings(handle.spec)
        mounts = self._mounts(spec)
        view.make_job_directory(mounts, spec.job_id)
        request = container_request(
            spec,
            self.site,
            job,
            arguments=node_arguments(url, handle.node, insecure=not is_local(url)),
            identity=Identity.of_this_process(),
            owner=str(self.owner),
            mounts=mounts,
            devices=self._devices(spec, job),
        )
        self._await_name(spec.job_id, request["name"])
        try:
            return self.engine.create(request)
        except (TypeError, ValueError) as error:  # how the SDK refuses arguments
            why = str(error).replace("run() got an unexpected keyword argument", "containers have no argument")
            raise LaunchError(f"job {spec.job_id}: the settings of its container are refused: {why}") from error

    def _await_name(self, job_id: str, name: str) -> None:
        """Wait for the container of an earlier job of this name while it is being removed. Raises `LaunchError` for any other."""
        end = time.monotonic() + self.site.timeout
        pause = threading.Event()
        while (other := self.engine.using_name(name)) is not None:
            is_going = other["State"]["Status"] == "removing" or self._janitor.has(other["Id"])
            if not is_going or time.monotonic() >= end:
                labels = (other.get("Config") or {}).get("Labels") or {}
                ours = labels.get(OWNER_LABEL) == str(self.owner)
                job = f"job {labels.get(JOB_LABEL)!r}{'' if ours else ' of another launcher'}"
                whose = job if JOB_LABEL in labels else "somebody else"
                raise LaunchError(
                    f"job {job_id}: the engine has a container {name!r} already, of {whose}; end that first, or give the job another "
                    "job_id"
                )
            pause.wait(_PAUSE)

    def _start_container(self, handle: RemoteHandle) -> None:
        container = handle.engine_id
        try:
            shared = not self._ships(handle.spec)
            self.engine.put(
                container, private_archive(Identity.of_this_process(), handle.credentials, handle.job_id, shared=shared)
            )
            self.engine.start(container)
            self._await_running(handle)
        except BaseException:
            self.engine.release(handle)
            raise

    def _await_running(self, handle: RemoteHandle) -> None:
        end = time.monotonic() + self.site.timeout
        pause = threading.Event()
        while True:
            try:
                state = self.engine.inspect(handle.engine_id)["State"]
            except NoSuchContainerError:
                return  # gone again: the job's course tells how that counts
            if state["Status"] not in ("created", "restarting"):
                return
            if time.monotonic() >= end:
                raise LaunchError(
                    f"job {handle.job_id}: its container was not running after {self.site.timeout:g} s but {state['Status']!r}; see the "
                    "engine's log, or raise the docker launcher's setting timeout"
                )
            pause.wait(_PAUSE)

    def _sweep(self) -> None:
        """Remove what launchers left that are dead."""
        try:
            for container, job in orphans(self.engine.labelled()):
                log.warning("job %s: its parent is dead; its container %s is removed", job, container[:12])
                self.engine.remove(container)
        except EngineError as error:
            log.info("the containers of dead parents cannot be removed now: %s", error)
