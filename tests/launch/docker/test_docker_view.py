"""What a container sees of a shared workspace, and of data sets."""

from __future__ import annotations

from pathlib import Path

import pytest

from zcell.errors import LaunchError
from zcell.launch import JobSpec
from zcell.launch.docker.study import study_data
from zcell.launch.docker.view import TMPFS_MODE, make_job_directory, shared_mounts, study_mounts, workspace_child


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    root = tmp_path / "workspace"
    for name in ("startup", "local", "job-1", "job-2"):
        (root / name).mkdir(parents=True)
    return root


def spec(**fields: object) -> JobSpec:
    return JobSpec(**({"job_id": "job-1", "command": ["true"]} | fields))  # type: ignore[arg-type]


def test_the_root_is_a_writable_tmpfs_and_only_the_jobs_directory_is_shared_for_writing(workspace: Path) -> None:
    root, *binds = shared_mounts(spec(workspace=workspace))
    assert root == {"Type": "tmpfs", "Target": "/zcell/workspace", "TmpfsOptions": {"Mode": 0o1777}}
    assert TMPFS_MODE == 0o1777
    assert {bind["Target"]: (bind["Source"], bind["ReadOnly"]) for bind in binds} == {
        "/zcell/workspace/startup": (str(workspace / "startup"), True),
        "/zcell/workspace/local": (str(workspace / "local"), True),
        "/zcell/workspace/job-1": (str(workspace / "job-1"), False),
    }
    assert all(bind["Type"] == "bind" for bind in binds)


def test_where_the_data_of_studies_is_stays_hidden(workspace: Path) -> None:
    (workspace / "local/study_data.yaml").touch()
    hidden = {"Type": "bind", "Source": "/dev/null", "Target": "/zcell/workspace/local/study_data.yaml", "ReadOnly": True}
    assert shared_mounts(spec(workspace=workspace))[-1] == hidden


def test_other_jobs_and_other_files_are_not_seen(workspace: Path) -> None:
    (workspace / "notes").write_text("private")
    assert not any("job-2" in str(mount) or "notes" in str(mount) for mount in shared_mounts(spec(workspace=workspace)))


def test_parts_that_a_workspace_lacks_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "job-1").mkdir()
    assert [m["Target"] for m in shared_mounts(spec(workspace=tmp_path))] == ["/zcell/workspace", "/zcell/workspace/job-1"]


def test_a_job_without_a_directory_yet_gets_one(tmp_path: Path) -> None:
    mounts = shared_mounts(spec(workspace=tmp_path))
    assert not (tmp_path / "job-1").exists(), "looking makes nothing"
    make_job_directory(mounts, "job-1")
    assert (tmp_path / "job-1").is_dir()


def test_a_directory_elsewhere_can_be_the_jobs_own(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    mounts = shared_mounts(spec(job_directory=tmp_path / "train"))
    assert mounts[1:] == [
        {"Type": "bind", "Source": str(tmp_path / "train"), "Target": "/zcell/workspace/job-1", "ReadOnly": False}
    ]


def test_a_job_without_files_sees_nothing() -> None:
    assert shared_mounts(spec()) == []


def test_results_have_their_place_already(workspace: Path, tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="job job-1: with a shared workspace the results appear in the job's directory"):
        shared_mounts(spec(workspace=workspace, results=tmp_path / "out"))


def test_a_workspace_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="job job-1: workspace must be an existing directory"):
        shared_mounts(spec(workspace=tmp_path / "missing"))


# children of a workspace


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../job-2", "/etc", "a\0b"])
def test_a_child_is_one_name(workspace: Path, name: str) -> None:
    with pytest.raises(LaunchError, match="does not name one directory directly below the workspace"):
        workspace_child(workspace, name)


@pytest.mark.parametrize("name", ["startup", "local"])
def test_a_jobs_directory_is_not_another_part_of_the_workspace(workspace: Path, name: str) -> None:
    with pytest.raises(LaunchError, match="is another part of the workspace and cannot be a job's directory"):
        shared_mounts(spec(workspace=workspace, job_directory=workspace / name))


@pytest.mark.parametrize("name", ["startup", "local", "job-1"])
def test_a_link_is_not_followed(workspace: Path, tmp_path: Path, name: str) -> None:
    (workspace / name).rmdir()
    (tmp_path / "secret").mkdir()
    (workspace / name).symlink_to(tmp_path / "secret")
    with pytest.raises(LaunchError, match=f"{name} is a link; a job's container is given real directories"):
        shared_mounts(spec(workspace=workspace))


def test_a_link_to_another_job_is_not_followed_either(workspace: Path) -> None:
    (workspace / "job-1").rmdir()
    (workspace / "job-1").symlink_to("job-2")
    with pytest.raises(LaunchError, match="is a link"):
        shared_mounts(spec(workspace=workspace))


def test_a_file_in_place_of_a_directory_is_refused(workspace: Path) -> None:
    (workspace / "job-1").rmdir()
    (workspace / "job-1").write_text("")
    with pytest.raises(LaunchError, match="job-1 is no directory"):
        shared_mounts(spec(workspace=workspace))


def test_a_workspace_reached_by_a_link_is_that_of_its_real_place(workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(workspace)
    mounts = shared_mounts(spec(workspace=tmp_path / "link"))
    assert mounts[-1]["Source"] == str(workspace / "job-1")


# data sets


def study_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "study_data.yaml"
    path.write_text(text)
    return path


def test_the_data_sets_of_the_jobs_study_are_mounted_with_their_modes(tmp_path: Path) -> None:
    for name in ("images", "scratch"):
        (tmp_path / name).mkdir()
    text = f"""
        lungs:
          images: {{source: {tmp_path}/images, mode: ro}}
          scratch: {{source: {tmp_path}/scratch, mode: rw}}
          plain: {{source: {tmp_path}/images}}
        hearts:
          images: {{source: {tmp_path}/hearts}}
    """
    sets = study_data(study_file(tmp_path, text), "lungs")
    assert study_mounts(sets, tmp_path / "run" / "docker.sock") == [
        {"Type": "bind", "Source": f"{tmp_path}/images", "Target": "/data/lungs/images", "ReadOnly": True},
        {"Type": "bind", "Source": f"{tmp_path}/scratch", "Target": "/data/lungs/scratch", "ReadOnly": False},
        {"Type": "bind", "Source": f"{tmp_path}/images", "Target": "/data/lungs/plain", "ReadOnly": True},
    ]


def test_a_job_without_a_study_and_a_site_without_data_get_nothing(tmp_path: Path) -> None:
    assert study_data(study_file(tmp_path, "lungs: {a: {source: /x}}"), "") == []
    assert study_data(tmp_path / "missing.yaml", "lungs") == []
    assert study_data(study_file(tmp_path, "lungs:"), "lungs") == []


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("hearts: {}", "study 'lungs' is not in .*study_data.yaml, which has hearts"),
        ("", "study 'lungs' is not in .*, which has none"),
        ("- lungs", "must map studies to their data sets, got list"),
        ("lungs: [a]", "lungs must map names of data sets"),
        ("lungs: {a: /x}", r"lungs.a must be \{source: /absolute/path, mode: ro\}"),
        ("lungs: {a: {mode: ro}}", "lungs.a must be"),
        ("lungs: {a: {source: /x, size: 3}}", "lungs.a must be"),
        ("lungs: {a: {source: data}}", "source must be an absolute path"),
        ("lungs: {a: {source: /data/../etc}}", r"source must be an absolute path without '\.\.'"),
        ("lungs: {a: {source: /x, mode: rwx}}", "lungs.a: mode must be one of ro, rw, got 'rwx'"),
        ("lungs: {../a: {source: /x}}", "a data set's name is made of letters"),
        ("lungs: {1: {source: /x}}", "a data set's name is made of letters"),
        ("lungs: {a: [", "is no YAML"),
    ],
)
def test_a_mistake_in_the_file_is_told_with_its_place(tmp_path: Path, text: str, error: str) -> None:
    path = study_file(tmp_path, text)
    with pytest.raises(LaunchError, match=error) as caught:
        study_data(path, "lungs")
    assert str(path) in str(caught.value)


def test_nothing_in_the_file_chooses_a_class(tmp_path: Path) -> None:
    path = study_file(tmp_path, "!!python/object/apply:os.system ['touch /tmp/owned']")
    with pytest.raises(LaunchError, match="is no YAML"):
        study_data(path, "lungs")


def test_a_source_that_is_not_there_is_told_before_anything_is_started(tmp_path: Path) -> None:
    sets = study_data(study_file(tmp_path, f"lungs: {{a: {{source: {tmp_path}/none}}}}"), "lungs")
    with pytest.raises(LaunchError, match=r"data set lungs\.a: .*/none does not exist on this machine"):
        study_mounts(sets, tmp_path / "docker.sock")
    assert study_mounts(sets, None)[0]["Source"] == f"{tmp_path}/none", "the engine is elsewhere, so only it can say"


def test_the_engines_socket_is_never_given_to_a_job(tmp_path: Path) -> None:
    socket = tmp_path / "run" / "docker.sock"
    socket.parent.mkdir()
    socket.write_text("")
    (tmp_path / "innocent").symlink_to("run")
    for source in (socket, socket.parent, tmp_path, tmp_path / "innocent"):
        sets = study_data(study_file(tmp_path, f"lungs: {{a: {{source: {source}}}}}"), "lungs")
        with pytest.raises(LaunchError, match="holds the engine's socket"):
            study_mounts(sets, socket)
