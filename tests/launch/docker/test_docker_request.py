"""The request for a container: the launcher's part wins, and nothing in it is a secret."""

from __future__ import annotations

import io
import os
import tarfile
from typing import Any

from zcell.launch import JobSpec
from zcell.launch.docker.archive import private_archive
from zcell.launch.docker.gpus import device_requests
from zcell.launch.docker.request import Identity, container_request, node_arguments
from zcell.launch.docker.settings import RESERVED, JobSettings, SiteSettings
from zcell.launch.docker.view import CREDENTIALS, HOME
from zcell.security.credentials import Credentials

ALICE = Identity(1234, 567, "alice")
SECRET = b"a link secret for the tests only"
TOKEN = "a-transfer-token-for-the-tests"
MOUNTS = [{"Type": "bind", "Source": "/srv/w/job-1", "Target": "/zcell/workspace/job-1", "ReadOnly": False}]


def request(job: dict[str, Any] | None = None, **site: Any) -> dict[str, Any]:
    settings = SiteSettings.parse({"image": "img:1", "network": "net"} | site)
    spec = JobSpec(job_id="job-1", command=["train", "--fast"], site="Site A", env={"LEVEL": "3"})
    merged = JobSettings.merge(spec, job or {}, "the job", settings)
    return container_request(
        spec,
        settings,
        merged,
        arguments=node_arguments("tcp://10.0.0.1:5000", "server.launch_job-1", insecure=True),
        identity=ALICE,
        owner="mark",
        mounts=MOUNTS,
        devices=device_requests(merged.gpus, settings.gpus),
    )


def test_the_command_is_the_interpreter_with_the_nodes_module() -> None:
    made = request({"python_path": "/opt/conda/bin/python"})
    assert made["command"][:5] == ["/opt/conda/bin/python", "-u", "-P", "-m", "zcell.launch.remote.node"]
    assert made["entrypoint"] == [], "an image's own program is not run in front of it"
    arguments = made["command"][5:]
    assert arguments[arguments.index("--parent") + 1] == "tcp://10.0.0.1:5000"
    assert arguments[arguments.index("--name") + 1] == "server.launch_job-1"
    assert arguments[arguments.index("--credentials") + 1] == CREDENTIALS
    assert "--insecure" in arguments
    assert "--insecure" not in node_arguments("tcp://127.0.0.1:1", "server.x", insecure=False)


def test_it_runs_as_the_parents_user_with_a_name_and_a_home() -> None:
    made = request()
    assert made["user"] == "1234:567"
    assert made["environment"] == {"HOME": HOME, "USER": "alice", "LOGNAME": "alice"}
    me = Identity.of_this_process()
    assert (me.uid, me.gid) == (os.getuid(), os.getgid())
    assert me.name


def test_it_is_named_and_found_again_by_site_and_job() -> None:
    made = request()
    assert made["name"] == "site-a-job-1"
    labels = {"zcell.launcher": "docker", "zcell.owner": "mark", "zcell.job": "job-1", "zcell.site": "Site A"}
    assert made["labels"] == labels
    assert made["network"] == "net"
    assert made["working_dir"] == "/zcell/workspace/job-1"
    assert made["mounts"] == MOUNTS
    assert made["image"] == "img:1"


def test_the_launchers_variables_win_over_the_sites() -> None:
    made = request(env={"HOME": "/elsewhere", "USER": "root", "COLOUR": "blue"})
    assert made["environment"] == {"COLOUR": "blue", "HOME": HOME, "USER": "alice", "LOGNAME": "alice"}


def test_the_jobs_own_variables_are_not_in_the_containers_description() -> None:
    assert "LEVEL" not in str(request()), "they go to the node over the cell"


def test_a_job_that_asks_for_reserved_things_gets_the_launchers() -> None:
    usual = request()
    asked = dict.fromkeys(RESERVED, "theirs")
    assert request(asked) == usual


def test_arguments_of_site_and_job_reach_the_container() -> None:
    made = request({"shm_size": "2g", "num_of_gpus": 2}, container={"shm_size": "1g", "mem_limit": "4g"}, num_of_gpus=1)
    assert (made["shm_size"], made["mem_limit"]) == ("2g", "4g")
    assert made["device_requests"] == [{"Driver": "", "Count": 2, "DeviceIDs": [], "Capabilities": [["gpu"]], "Options": {}}]
    assert "device_requests" not in request()


def test_a_program_in_the_image_cannot_make_the_job_another_user() -> None:
    made = request()
    assert made["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in made
    assert "docker.sock" not in str(made)


def test_credentials_are_put_in_as_a_file_for_the_jobs_user_alone() -> None:
    archive = private_archive(ALICE, Credentials(SECRET, TOKEN), "job-1", shared=False)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        members = {f"/{member.name}": member for member in tar}
        file = tar.extractfile(CREDENTIALS.lstrip("/"))
        assert file is not None
        content = file.read().decode()
    assert SECRET.hex() in content
    assert TOKEN in content
    assert (members[CREDENTIALS].mode, members[CREDENTIALS].uid, members[CREDENTIALS].gid) == (0o600, 1234, 567)
    for name in ("/zcell/private", "/zcell/home", "/zcell/workspace", "/zcell/workspace/job-1"):
        assert members[name].isdir()
        assert (members[name].mode, members[name].uid, members[name].gid) == (0o700, 1234, 567)
    assert (members["/zcell"].mode, members["/zcell"].uid) == (0o755, 0)


def test_directories_that_the_host_shares_are_not_in_what_is_put_in() -> None:
    archive = private_archive(ALICE, Credentials(SECRET, TOKEN), "job-1", shared=True)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        members = {f"/{member.name}": member.mode for member in tar}
    assert members["/zcell/workspace"] == 0o1777
    assert not any(name.startswith("/zcell/workspace/") for name in members)
