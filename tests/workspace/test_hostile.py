"""A job that lies: whatever its results claim to be, the owner refuses by name, keeps its files as they are, and goes on serving."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.trees import SECRET
from tests.workspace.conftest import JOB, Site
from tests.workspace.snapshots import snapshot, write_tree
from tests.workspace.test_manifest import packed
from zcell import Cell
from zcell.limits import MIB
from zcell.message import Reply, Request, ReturnCode, make_reply
from zcell.workspace import upload_results
from zcell.workspace.asking import CHANNEL, SELECT
from zcell.workspace.manifest import Entry, Manifest
from zcell.workspace.plan import pack_indices

DIRECTORY = Entry(JOB, True, 0o755, 1)
SMALL = Entry(f"{JOB}/a", False, 0o644, 1, 5)
LARGE = Entry(f"{JOB}/large", False, 0o644, 1, 2 * MIB)
SPARSE = Entry(f"{JOB}/sparse", False, 0o644, 1, 64 * MIB, ((0, MIB), (8 * MIB, MIB)))


class Liar:
    """A job's cell that offers a manifest and then serves whatever it likes."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.cell = Cell(f"site-1.{JOB}", parent=site.tree.listen_url("site-1"), secret=SECRET)
        self.cell.start()
        self.cell.wait_ready(10)
        self.answer: Callable[[Request], Any] = lambda request: {}
        self.cell.register(CHANNEL, SELECT, lambda request: self.answer(request))
        self.excludes: list[str] = []
        self.transaction = self.cell.downloads.transaction(idle_timeout=30)

    def publish(self, manifest: bytes) -> Reply:
        """Publish results with this manifest; the owner's answer."""
        ref = self.transaction.add_bytes(manifest)
        token = self.site.manager.add_job(JOB, self.site.root, excludes=self.excludes)
        question = {"job_id": JOB, "transfer_token": token, "ref_id": ref.id}
        return self.cell.request("site-1", CHANNEL, "publish_results", question, timeout=20)

    def serve(self, small: bytes | None = None, large: list[bytes] | None = None, same: object = b"") -> None:
        """Answer a selection with these contents."""
        small_id = "" if small is None else self.transaction.add_stream([small]).id
        large_ids = [self.transaction.add_bytes(content).id for content in large or []]
        self.answer = lambda request: {"state": "ready", "same": same, "small": small_id, "large": large_ids}


@pytest.fixture
def liar(tcp_site: Site) -> Iterator[Liar]:
    write_tree(tcp_site.root, {f"{JOB}/a": b"mine!", f"{JOB}/kept": b"kept", "local/site": b"config"}, seed=1)
    liar = Liar(tcp_site)
    yield liar
    liar.cell.stop()


@pytest.fixture(autouse=True)
def _nothing_changes(liar: Liar) -> Iterator[None]:
    """Around every test here: the owner's files stay as they were, and an honest job is still served."""
    before = snapshot(liar.site.root)
    yield
    assert snapshot(liar.site.root) == before
    write_tree(liar.site.job_root, {f"{JOB}/honest": b"work"})
    upload_results(liar.site.add_job())
    assert (liar.site.root / JOB / "honest").read_bytes() == b"work"


def archive(*entries: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in entries:
            file.writestr(name, content)
    return out.getvalue()


def link(name: str, target: str) -> tuple[zipfile.ZipInfo, bytes]:
    info = zipfile.ZipInfo(name)
    info.create_system = 3
    info.external_attr = 0o120777 << 16
    return info, target.encode()


@pytest.mark.parametrize(
    ("entries", "rule"),
    [
        ([Entry("local", True, 0o755, 1), Entry("local/site", False, 0o644, 1)], "'local' is refused: results must lie under"),
        ([Entry("job-8", True, 0o755, 1)], "'job-8' is refused"),
        ([Entry(f"{JOB}x", True, 0o755, 1)], "results must lie under"),
        ([DIRECTORY, Entry("startup", True, 0o755, 1)], "'startup' is refused"),
        ([Entry(JOB, False, 0o644, 1)], "do not hold the directory"),
        ([], "do not hold the directory"),
    ],
)
def test_results_outside_of_the_job_are_refused(liar: Liar, entries: list[Entry], rule: str) -> None:
    reply = liar.publish(Manifest(entries).packed)
    assert reply.rc is ReturnCode.INVALID_REQUEST
    assert rule in reply.error


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"no manifest",
        b"\xff" * 1000,
        packed(["../x", 0, 0o644, 0, 0, None, None]),
        packed([JOB, 1, 0o755, 0, 0, None, None], [f"{JOB}/../local/site", 0, 0o644, 0, 0, None, None]),
        packed([JOB, 1, 0o755, 0, 0, None, None], ["/etc/passwd", 0, 0o644, 0, 0, None, None]),
        packed([JOB, 1, 0o755, 0, 0, None, None], [f"{JOB}/a", 2, 0o644, 0, 0, None, None]),
        packed([JOB, 1, 0o4755, 0, 0, None, None]),
        packed([JOB, 1, 0o755, 0, 0, None, None], [f"{JOB}/x", 0, 0o644, 0, 1 << 61, None, None]),
        packed([JOB, 1, 0o755, 0, 0, None, None], [f"{JOB}/x", 0, 0o644, 0, 5, b"\xff" * 16, None]),
        packed(count=1 << 60),
    ],
)
def test_a_manifest_that_is_not_in_order_is_refused(liar: Liar, manifest: bytes) -> None:
    reply = liar.publish(manifest)
    assert reply.rc is ReturnCode.INVALID_REQUEST
    assert "results of job" in reply.error


@pytest.mark.parametrize(
    ("small", "rule"),
    [
        (archive((f"{JOB}/a", b"12345"), (f"{JOB}/b", b"more")), "not what the manifest announces"),
        (archive(("../escaped", b"12345")), "escaped"),
        (archive(("/tmp/escaped", b"12345")), "escaped"),
        (archive(("local/site", b"12345")), "local/site"),
        (archive((f"{JOB}/A", b"12345")), "not what the manifest announces"),
        (archive((f"{JOB}/a/", b"")), "not what the manifest announces"),
        (archive(link(f"{JOB}/a", "/etc/")), "link"),
        (archive((f"{JOB}/a", b"123456")), "bytes"),
        (archive((f"{JOB}/a", b"1234")), "bytes"),
        (archive((f"{JOB}/a", bytes(50 * MIB))), "bytes"),
        (archive(), "missing"),
        (archive((f"{JOB}/a", b"12345"))[:-30], ""),
        (archive((f"{JOB}/a", b"12345")) + b"more", ""),
        (b"no archive at all", ""),
        (b"", ""),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else None,  # an archive has the time in it
)
def test_an_archive_that_does_not_fit_its_manifest_is_refused(liar: Liar, small: bytes, rule: str) -> None:
    liar.serve(small=small)
    reply = liar.publish(Manifest([DIRECTORY, SMALL]).packed)
    assert reply.rc is ReturnCode.INVALID_REQUEST
    assert rule in reply.error


@pytest.mark.parametrize("content", [b"", bytes(MIB), bytes(2 * MIB - 1), bytes(2 * MIB + 1), bytes(9 * MIB)])
def test_a_large_file_of_another_size_is_refused(liar: Liar, content: bytes) -> None:
    liar.serve(large=[content])
    reply = liar.publish(Manifest([DIRECTORY, LARGE]).packed)
    assert reply.rc is ReturnCode.INVALID_REQUEST
    assert f"'{JOB}/large' is offered with {len(content)} bytes" in reply.error
    liar.serve(large=[content])
    assert liar.publish(Manifest([DIRECTORY, SPARSE]).packed).rc is ReturnCode.INVALID_REQUEST


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"state": "ready"},
        {"same": b"", "small": "", "large": []},
        {"same": b"", "small": 7, "large": []},
        {"same": b"", "small": "x", "large": "y"},
        {"same": b"", "small": "x", "large": ["y", "z"]},
        {"same": b"", "small": "x", "large": [7]},
        {"same": pack_indices({0}), "small": "x", "large": []},
        {"same": pack_indices({1, 2, 3, 4}), "small": "", "large": []},
        {"same": b"xyz", "small": "x", "large": []},
        {"same": None, "small": "x", "large": []},
    ],
)
def test_a_selection_that_makes_no_sense_is_refused(liar: Liar, answer: dict[str, Any]) -> None:
    liar.answer = lambda request: answer
    assert liar.publish(Manifest([DIRECTORY, SMALL, LARGE]).packed).rc is ReturnCode.INVALID_REQUEST


def test_a_selection_that_is_no_answer_fails_the_transfer(liar: Liar) -> None:
    answers: list[Any] = ["text", 7, [], make_reply(ReturnCode.INVALID_TARGET, error="gone"), None]
    liar.answer = lambda request: answers.pop()
    while answers:
        reply = liar.publish(Manifest([DIRECTORY, SMALL]).packed)
        assert reply.rc is ReturnCode.COMM_ERROR
        assert reply.error


def test_files_that_vanish_while_they_are_offered_fail_the_transfer(liar: Liar) -> None:
    liar.answer = lambda request: {"state": "ready", "same": b"", "small": "gone", "large": []}
    assert liar.publish(Manifest([DIRECTORY, SMALL]).packed).rc is ReturnCode.COMM_ERROR
    liar.answer = lambda request: {"state": "ready", "same": b"", "small": "", "large": ["gone"]}
    assert liar.publish(Manifest([DIRECTORY, LARGE]).packed).rc is ReturnCode.COMM_ERROR
    liar.site.manager.remove_job(JOB)  # what arrived until then is kept for another try, until the job is given up


def test_a_job_learns_nothing_about_what_the_owner_keeps_to_itself(liar: Liar) -> None:
    asked: list[object] = []
    liar.answer = asked.append
    liar.excludes = ["a"]
    reply = liar.publish(Manifest([DIRECTORY, SMALL]).packed)
    assert reply.rc is ReturnCode.INVALID_REQUEST
    assert "excludes it from transfers" in reply.error
    assert asked == []


def test_only_what_the_owner_holds_can_stay_where_it_is(liar: Liar) -> None:
    liar.answer = lambda request: {"state": "ready", "same": pack_indices({2}), "small": "x", "large": []}
    reply = liar.publish(Manifest([DIRECTORY, SMALL, Entry(f"{JOB}/b", False, 0o644, 1, 5)]).packed)
    assert reply.rc is ReturnCode.INVALID_REQUEST
    assert "never offered" in reply.error
