"""Docker's own rules, on a real engine."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engines.docker_site import DockerSite
from tests.engines.dockerd import BARE_IMAGE, IMAGE, NETWORK, DockerEngine
from tests.eventually import eventually
from tests.launch.conformance import LIMIT, SECRET, SLEEPER, STUBBORN, Starter, processes
from zcell import Cell
from zcell.errors import LaunchError, LinkRefusedError
from zcell.launch import JobReturnCode, JobSpec
from zcell.launch.docker import DockerLauncher
from zcell.launch.docker.request import Identity
from zcell.launch.remote import RemoteHandle

Make = Callable[..., Starter]


@pytest.fixture
def parent(dockerd: DockerEngine) -> Iterator[Cell]:
    with Cell("server", listen=[f"tcp://{dockerd.gateway}:0"], insecure=True, secret=SECRET) as cell:
        yield cell


@pytest.fixture
def make(dockerd: DockerEngine, parent: Cell) -> Iterator[Make]:
    """Makes launchers; afterwards nothing of their jobs is left."""
    starters: list[Starter] = []

    def make_starter(**settings: Any) -> Starter:
        starters.append(Starter(DockerSite(dockerd, **settings).make(), parent))
        return starters[-1]

    yield make_starter
    for starter in starters:
        starter.launcher.close()
        eventually(lambda mark=starter.mark: not processes(mark), 10)  # type: ignore[misc]


def described(dockerd: DockerEngine, handle: Any) -> dict[str, Any]:
    assert isinstance(handle, RemoteHandle)
    return dict(dockerd.client.api.inspect_container(handle.engine_id))


def spec(**fields: Any) -> JobSpec:
    return JobSpec(**({"job_id": "job-1", "command": ["true"]} | fields))


# what others can see


@pytest.mark.parametrize("workspace", ["transfer", "shared"])
def test_nothing_that_the_engine_shows_of_a_job_is_a_secret(
    make: Make, dockerd: DockerEngine, tmp_path: Path, workspace: str
) -> None:
    (tmp_path / "job-1").mkdir()
    start = make(workspace=workspace)
    handle = start.shell(SLEEPER, workspace=tmp_path, env={"LEVEL": "3"})
    start.wait_for(b"ready\n")
    assert isinstance(handle, RemoteHandle)
    api = dockerd.client.api
    shown = json.dumps(described(dockerd, handle)) + json.dumps(api.top(handle.engine_id)) + str(api.logs(handle.engine_id))
    assert "zcell.launch.remote.node" in shown
    assert start.mark in json.dumps(api.top(handle.engine_id)), "the command is seen where processes are"
    for secret in (SECRET.hex(), SECRET.decode(), handle.credentials.transfer_token):
        assert not secret or secret not in shown
    assert (workspace == "transfer") == bool(handle.credentials.transfer_token)
    left = dockerd.client.containers.get(handle.engine_id).exec_run(["sh", "-c", "cat /zcell/private/credentials"])
    assert b"No such file" in left.output, "the node removes what it has read"
    handle.kill()


def test_the_engines_own_log_shows_the_output_and_ours_outlives_the_container(make: Make, dockerd: DockerEngine) -> None:
    start = make()
    handle = start.shell(f"echo kept; {SLEEPER}")
    start.wait_for(b"ready\n")
    assert isinstance(handle, RemoteHandle)
    eventually(lambda: b"kept" in dockerd.client.api.logs(handle.engine_id))
    handle.kill()
    assert dockerd.left() == []
    assert handle.logs() == "kept\nready\n"


def test_containers_say_whose_they_are(make: Make, dockerd: DockerEngine) -> None:
    start = make()
    handle = start.shell(SLEEPER, site="Site A")
    start.wait_for(b"ready\n")
    shown = described(dockerd, handle)
    assert shown["Name"] == "/site-a-job-1"
    assert shown["Config"]["Labels"]["zcell.job"] == "job-1"
    assert shown["Path"] == "python3"
    assert shown["Args"][:4] == ["-u", "-P", "-m", "zcell.launch.remote.node"]
    assert shown["HostConfig"]["Privileged"] is False
    assert shown["HostConfig"]["SecurityOpt"] == ["no-new-privileges:true"]
    assert not any("docker.sock" in str(mount) for mount in shown["Mounts"])
    handle.kill()


# the view of a shared workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    root = tmp_path / "workspace"
    for name in ("startup", "local", "job-1", "job-2"):
        (root / name).mkdir(parents=True)
        (root / name / "file").write_text(name)
    (root / "notes").write_text("private")
    return root


LOOK = """
pwd; ls -1 ..; cat file ../startup/file ../local/file; echo
stat -c %a ..
for place in ../startup ../local; do touch $place/new 2>/dev/null && echo wrote $place; done
touch ../mine && echo the root is writable
test -e ../job-2 || echo no other job
test -S /var/run/docker.sock || echo no socket
echo result > result
"""


def test_a_shared_workspace_is_seen_isolated(make: Make, workspace: Path) -> None:
    start = make(workspace="shared")
    handle = start.shell(LOOK, workspace=workspace)
    assert handle.wait(LIMIT) is JobReturnCode.SUCCESS, handle.logs()
    assert handle.logs().splitlines() == [
        "/zcell/workspace/job-1",
        *("job-1", "local", "startup"),
        "job-1startuplocal",
        "1777",
        "the root is writable",
        "no other job",
        "no socket",
    ]
    assert (workspace / "job-1" / "result").read_text() == "result\n"
    assert sorted(p.name for p in workspace.iterdir()) == ["job-1", "job-2", "local", "notes", "startup"]
    assert sorted(p.name for p in (workspace / "local").iterdir()) == ["file"]


def test_a_jobs_modules_are_found_in_a_shared_workspace(make: Make, workspace: Path) -> None:
    (workspace / "job-1" / "custom").mkdir()
    (workspace / "job-1" / "custom" / "mine.py").write_text("import os; print(os.environ['PYTHONPATH'])")
    start = make(workspace="shared")
    handle = start(spec(command=["python3", "-c", "import mine"], workspace=workspace, code=["custom"]))
    assert handle.wait(LIMIT) is JobReturnCode.SUCCESS, handle.logs()
    assert handle.logs() == "/zcell/workspace/job-1/custom\n"


def test_results_of_a_killed_job_are_in_the_shared_directory(make: Make, workspace: Path) -> None:
    start = make(workspace="shared")
    handle = start.shell(f"echo half > model; {STUBBORN}", workspace=workspace)
    start.wait_for(b"ready\n")
    assert handle.kill() is JobReturnCode.ABORTED
    assert (workspace / "job-1" / "model").read_text() == "half\n"


@pytest.mark.parametrize("how", ["transfer", "shared"])
def test_a_job_runs_as_the_parents_user_whoever_that_is(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(Identity, "of_this_process", classmethod(lambda cls: cls(12345, 23456, "somebody")))
    job = tmp_path / "job-1"
    job.mkdir()
    os.chown(job, 12345, 23456)
    tmp_path.chmod(0o755)
    start = make(workspace=how)
    script = "id -u; id -g; echo $USER; cd && touch here && pwd; cd - >/dev/null; echo x > made; touch $TMPDIR/x; ls -A /zcell/private"
    handle = start.shell(script, workspace=tmp_path)
    assert handle.wait(LIMIT) is JobReturnCode.SUCCESS, handle.logs()
    uid, gid, user, home, *private = handle.logs().split()
    assert (uid, gid, user, home) == ("12345", "23456", "somebody", "/zcell/home")
    assert [name for name in private if not name.startswith("zcell-")] == [], "the credentials are gone"
    expected = 12345 if how == "shared" else os.getuid()
    assert (job / "made").stat().st_uid == expected


def test_data_sets_of_the_study_are_mounted_with_their_modes(make: Make, workspace: Path, tmp_path: Path) -> None:
    for name in ("images", "scratch"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    images, scratch = f"images: {{source: {tmp_path}/images}}", f"scratch: {{source: {tmp_path}/scratch, mode: rw}}"
    (workspace / "local" / "study_data.yaml").write_text(f"lungs:\n  {images}\n  {scratch}\nhearts: {{}}\n")
    start = make()
    script = (
        "cat /data/lungs/*/file; echo; touch /data/lungs/images/x || echo read-only; touch /data/lungs/scratch/new; ls /data"
    )
    handle = start.shell(f"{script}; test -e ../local/study_data.yaml || echo stayed home", workspace=workspace, study="lungs")
    assert handle.wait(LIMIT) is JobReturnCode.SUCCESS, handle.logs()
    said = [line for line in handle.logs().splitlines() if not line.startswith("touch:")]
    assert said == ["imagesscratch", "read-only", "lungs", "stayed home"]
    assert (tmp_path / "scratch" / "new").exists()


# settings of site and job


def test_settings_of_site_and_job_reach_the_container(make: Make, dockerd: DockerEngine) -> None:
    container = {"shm_size": "32m", "mem_limit": "512m", "pids_limit": 100}
    start = make(container=container, env={"COLOUR": "blue", "LEVEL": "1", "HOME": "/nowhere"})
    own = {"site-1": {"docker": {"shm_size": "48m", "ipc_mode": "private", "user": "0:0", "network": "host"}}}
    script = f"echo $COLOUR,$LEVEL,$HOME; {SLEEPER}"
    handle = start.shell(script, site="site-1", launcher_spec=own, env={"LEVEL": "2"})
    start.wait_for(b"ready\n")
    assert handle.logs().splitlines()[0] == "blue,2,/zcell/home"
    host = described(dockerd, handle)["HostConfig"]
    assert (host["ShmSize"], host["Memory"], host["PidsLimit"], host["IpcMode"]) == (48 << 20, 512 << 20, 100, "private")
    assert host["NetworkMode"] == NETWORK
    handle.kill()


def test_a_jobs_resources_are_limits_of_its_container(make: Make, dockerd: DockerEngine) -> None:
    start = make()
    handle = start.shell(SLEEPER, resources={"cpus": 0.5, "memory": "256M"})
    start.wait_for(b"ready\n")
    host = described(dockerd, handle)["HostConfig"]
    assert (host["NanoCpus"], host["Memory"]) == (500_000_000, 256 << 20)
    handle.kill()


@pytest.mark.parametrize(
    "where",
    [
        {"launcher_spec": {"site-1": {"docker": {"image": IMAGE}}, "default": {"docker": {"image": "not:this"}}}},
        {"launcher_spec": {"default": {"docker": {"image": IMAGE}}}},
        {"resource_spec": {"site-1": {"docker": {"image": IMAGE}}}},
    ],
)
def test_the_jobs_image_is_found_in_each_place_for_it(make: Make, where: dict[str, Any]) -> None:
    handle = make(image="site:default").shell("true", site="site-1", **where)
    assert handle.wait(LIMIT) is JobReturnCode.SUCCESS, handle.reason


def test_gpus_are_asked_for_in_the_engines_words(make: Make, dockerd: DockerEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    start = make(num_of_gpus=4)
    assert isinstance(start.launcher, DockerLauncher)
    asked: list[Any] = []
    start_container = start.launcher.engine.start

    def look_and_start(container: str) -> None:
        asked.append(dockerd.client.api.inspect_container(container))
        start_container(container)

    monkeypatch.setattr(start.launcher.engine, "start", look_and_start)
    own = {"local": {"docker": {"device_requests": [{"device_ids": ["0", "2"], "capabilities": [["gpu", "compute"]]}]}}}
    for fields, expected in (
        ({}, {"Count": 4, "DeviceIDs": None, "Capabilities": [["gpu"]]}),
        ({"launcher_spec": {"local": {"docker": {"num_of_gpus": 2}}}}, {"Count": 2}),
        ({"launcher_spec": own}, {"Count": 0, "DeviceIDs": ["0", "2"], "Capabilities": [["gpu", "compute"]]}),
    ):
        # no GPU is here: the engine understands the request, and refuses it
        with pytest.raises(LaunchError, match=r"job job-1: .*could not select device driver"):
            start(spec(**fields))
        (request,) = asked.pop()["HostConfig"]["DeviceRequests"]
        assert {name: request[name] or None for name in expected} == {name: value or None for name, value in expected.items()}
        assert dockerd.left() == []
    none = start.shell("true", launcher_spec={"local": {"docker": {"num_of_gpus": 0}}})
    assert none.wait(LIMIT) is JobReturnCode.SUCCESS


# mistakes, told before anything is started


@pytest.mark.parametrize(
    ("settings", "fields", "text"),
    [
        ({"image": ""}, {}, "job job-1 names no image. Set it in one of three places"),
        ({"image": "no/such:image", "pull": "never"}, {}, "does not have the image 'no/such:image'; docker pull no/such:image"),
        ({"image": "localhost:1/no/such:image"}, {}, "cannot pull the image 'localhost:1/no/such:image'"),
        ({"network": "no-such-net"}, {}, "has no network 'no-such-net'; create it: docker network create no-such-net"),
        ({"network": "none"}, {}, "the network 'none' connects to nothing"),
        ({"container": {"no_such_argument": 1}}, {}, "no_such_argument"),
        ({"container": {"shm_size": "huge"}}, {}, r"memory \(huge\) should specify the units"),
        ({"python": "/no/python"}, {}, "/no/python"),
        ({}, {"launcher_spec": {"local": {"docker": {"mem_limit": "1g"}}}}, "which a job may not at this site"),
        ({}, {"launcher_spec": {"local": {"docker": {"num_of_gpus": "x"}}}}, "num_of_gpus must be a number"),
        ({}, {"resources": {"time_limit": 60}}, "has no resource 'time_limit'"),
        ({"container": {"mem_limit": "64m"}}, {"resources": {"memory": "1G"}}, "gives 67108864 at most"),
        ({}, {"resources": {"cpus": 4096}}, "CPUs"),
        ({"workspace": "shared"}, {"workspace": Path("/nowhere")}, "workspace must be an existing directory"),
    ],
)
def test_a_mistake_is_told_and_leaves_nothing(
    make: Make, dockerd: DockerEngine, settings: dict[str, Any], fields: dict[str, Any], text: str
) -> None:
    start = make(**settings)
    with pytest.raises(LaunchError, match=text) as caught:
        start(spec(**fields))
    assert "job-1" in str(caught.value)
    assert dockerd.left() == []


def test_an_unknown_study_is_told(make: Make, workspace: Path) -> None:
    (workspace / "local" / "study_data.yaml").write_text("hearts: {}\n")
    with pytest.raises(LaunchError, match=r"job job-1: study 'lungs' is not in .*which has hearts"):
        make()(spec(workspace=workspace, study="lungs"))


def test_a_parent_that_containers_cannot_reach_is_told_how_to_listen(dockerd: DockerEngine, make: Make) -> None:
    told = pytest.raises(LaunchError, match=rf"listen=\['tcp://{dockerd.gateway}:0'\], insecure=True")
    with Cell("server", listen=["tcp://127.0.0.1:0"], secret=SECRET) as deaf, told:
        make().launcher.launch(spec(), deaf)
    with pytest.raises(ValueError, match="insecure=True"):
        Cell("server", listen=[f"tcp://{dockerd.gateway}:0"], secret=SECRET)


def test_an_image_without_zcell_is_told_with_what_it_said(make: Make) -> None:
    handle = make(image=BARE_IMAGE).shell("true")
    assert handle.wait(LIMIT) is JobReturnCode.EXECUTION_ERROR
    assert "No module named" in handle.logs()
    assert handle.reason == "its container ended with code 1"


def test_a_name_that_is_taken_is_told_with_whose_it_is(make: Make, dockerd: DockerEngine) -> None:
    other = dockerd.client.containers.create(BARE_IMAGE, command=["true"], name="local-job-1")
    try:
        with pytest.raises(LaunchError, match="has a container 'local-job-1' already, of somebody else"):
            make()(spec())
    finally:
        other.remove()
    first, second = make(), make()
    handle = first.shell(SLEEPER)
    first.wait_for(b"ready\n")
    told = pytest.raises(LaunchError, match="already, of job 'job-1' of another launcher")
    with Cell("server", listen=[f"tcp://{dockerd.gateway}:0"], insecure=True, secret=SECRET) as another, told:
        second.launcher.launch(spec(), another)
    assert handle.poll() is JobReturnCode.UNKNOWN, "and the other is left alone"
    handle.kill()


def test_a_container_that_does_not_come_to_run_is_removed(
    make: Make, dockerd: DockerEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = make(timeout=0.3)
    assert isinstance(start.launcher, DockerLauncher)
    inspect = start.launcher.engine.inspect

    def still_made(container: str, *timeout: float) -> dict[str, Any]:
        """An engine that takes too long cannot be had at will, so its answer is changed."""
        return inspect(container, *timeout) | {"State": {"Status": "created"}}

    monkeypatch.setattr(start.launcher.engine, "inspect", still_made)
    began = time.monotonic()
    with pytest.raises(LaunchError, match=r"job job-1: its container was not running after 0\.3 s but 'created'"):
        start(spec())
    assert time.monotonic() - began < 10
    assert dockerd.left() == []


# trouble with the engine


def test_an_engine_that_is_away_leaves_the_job_unknown(make: Make, dockerd: DockerEngine) -> None:
    start = make()
    handle = start.shell(SLEEPER)
    start.wait_for(b"ready\n")
    dockerd.kill()
    try:
        assert handle.wait(4) is JobReturnCode.UNKNOWN, "longer than a job may be missing from the engine's list"
    finally:
        dockerd.start()
    assert handle.terminate(1) is JobReturnCode.ABORTED


@pytest.mark.parametrize("script", [SLEEPER, STUBBORN])
def test_terminate_ends_in_time_with_an_engine_that_hangs(make: Make, dockerd: DockerEngine, script: str) -> None:
    start = make()
    handle = start.shell(script)
    start.wait_for(b"ready\n")
    dockerd.pause()
    began = time.monotonic()
    assert handle.terminate(grace=0.5) is JobReturnCode.ABORTED
    assert time.monotonic() - began < 0.5 + 5
    assert handle.reason == "terminated by its parent"
    dockerd.resume()
    eventually(lambda: dockerd.left() == [], 30, dockerd.left)


def test_terminate_ends_in_time_with_an_engine_that_is_gone_and_a_node_that_hangs(make: Make, dockerd: DockerEngine) -> None:
    start = make()
    handle = start.shell(SLEEPER)
    start.wait_for(b"ready\n")
    dockerd.client.api.pause(handle.engine_id)  # type: ignore[attr-defined]
    dockerd.kill()
    try:
        began = time.monotonic()
        assert handle.terminate(grace=0.5) is JobReturnCode.ABORTED
        assert time.monotonic() - began < 0.5 + 5
        assert "the engine has not confirmed it" in handle.reason
    finally:
        dockerd.start()
    eventually(lambda: dockerd.left() == [], 30, dockerd.left)


@pytest.mark.parametrize(
    ("signal_name", "outcome"), [("SIGKILL", JobReturnCode.EXECUTION_ERROR), ("SIGTERM", JobReturnCode.ABORTED)]
)
def test_a_container_ended_by_somebody_else(
    make: Make, dockerd: DockerEngine, signal_name: str, outcome: JobReturnCode
) -> None:
    start = make()
    handle = start.shell(SLEEPER)
    start.wait_for(b"ready\n")
    dockerd.client.api.kill(handle.engine_id, signal=signal_name)  # type: ignore[attr-defined]
    assert handle.wait(LIMIT) is outcome
    assert handle.reason


def test_a_container_that_is_stopped_by_somebody_else_is_not_its_parents_doing(make: Make, dockerd: DockerEngine) -> None:
    start = make()
    handle = start.shell(SLEEPER)
    start.wait_for(b"ready\n")
    dockerd.client.containers.get(handle.engine_id).stop(timeout=20)  # type: ignore[attr-defined]
    assert handle.wait(LIMIT) is JobReturnCode.ABORTED
    assert handle.reason.startswith("its node was told to end by somebody else than its parent")


def test_a_job_out_of_memory_is_told_so(make: Make) -> None:
    start = make(container={"mem_limit": "96m", "memswap_limit": "96m"})
    handle = start.shell("python3 -c 'b = bytearray(1 << 30)'")
    assert handle.wait(LIMIT) is JobReturnCode.EXECUTION_ERROR
    assert handle.reason == "its container ran out of memory"


def test_living_launchers_leave_each_others_jobs_alone(make: Make) -> None:
    first, second = make(), make()
    longer = first.shell(SLEEPER, job_id="longer")
    first.wait_for(b"ready\n")
    assert second.shell("true", job_id="shorter").wait(LIMIT) is JobReturnCode.SUCCESS
    assert longer.poll() is JobReturnCode.UNKNOWN
    longer.kill()


# networks


def test_on_the_hosts_network_a_loopback_parent_is_enough(dockerd: DockerEngine) -> None:
    with Cell("server", listen=["tcp://127.0.0.1:0"], secret=SECRET) as cell:
        start = Starter(DockerSite(dockerd, network="host").make(), cell)
        assert start.launcher.endpoints() == ["tcp://127.0.0.1:0"]
        handle = start.shell("echo $ZCELL_PARENT")
        assert handle.wait(LIMIT) is JobReturnCode.SUCCESS, handle.reason
        assert handle.logs() == f"{cell.endpoints[0]}\n"
        start.launcher.close()


def test_a_parent_in_a_container_of_the_site_is_called_by_its_name(make: Make, dockerd: DockerEngine, parent: Cell) -> None:
    start = make()
    assert isinstance(start.launcher, DockerLauncher)
    assert start.launcher.endpoints() == [f"tcp://{dockerd.gateway}:0"]
    port = parent.endpoints[0].rpartition(":")[2]
    assert start.launcher._reachable(spec(site="site-1"), parent) == f"tcp://{dockerd.gateway}:{port}"
    site = dockerd.client.containers.run(BARE_IMAGE, ["sleep", "60"], name="site-1", network=NETWORK, detach=True)
    try:
        assert start.launcher._reachable(spec(site="site-1"), parent) == f"tcp://site-1:{port}"
    finally:
        site.remove(force=True)


def test_an_address_the_operator_names_is_used_as_it_is(make: Make, dockerd: DockerEngine, parent: Cell) -> None:
    """As behind a translated port: the parent is not asked where it listens."""
    port = parent.endpoints[0].rpartition(":")[2]
    url = f"tcp://{dockerd.gateway}:{port}"
    start = make(parent_url=url, insecure=True)
    assert start.launcher.endpoints() == ["tcp://0.0.0.0:0"]
    handle = start.shell("echo $ZCELL_PARENT")
    assert handle.wait(LIMIT) is JobReturnCode.SUCCESS
    assert handle.logs() == f"{url}\n"


def test_a_parent_that_cannot_be_reached_is_told_by_name(make: Make) -> None:
    start = make(parent_url="tcp://10.255.255.1:9", insecure=True, start_limit=3.0)
    handle = start.shell("true")
    assert handle.wait(LIMIT) is JobReturnCode.ABORTED
    assert handle.reason == "its node did not call back within 3 s"


def test_a_stranger_without_the_secret_is_no_job(make: Make, parent: Cell) -> None:
    """The link secret is proved although the address is open."""
    start = make()
    handle = start.shell(SLEEPER)
    start.wait_for(b"ready\n")
    stranger = Cell("server.launch_job-2", parent=parent.endpoints[0], secret=b"another secret of some length", insecure=True)
    with stranger, pytest.raises(LinkRefusedError):
        stranger.wait_ready(5)
    assert handle.poll() is JobReturnCode.UNKNOWN
    handle.kill()
