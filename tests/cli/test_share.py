"""`zcell send` and `zcell get`: two terminals of one user."""

from __future__ import annotations

import os
import shlex
import signal
from pathlib import Path

import pytest

from tests.cli.commands import Running, events, json_lines, running, zcell
from tests.eventually import eventually
from zcell import Cell
from zcell.cli.share import CHANNEL, DESCRIBE, FILE, SENDER
from zcell.digest import Digest, file_digest

BIG_BYTES = 384 * 1024 * 1024
PIECE_BYTES = 1024 * 1024


def get_words(sender: Running) -> list[str]:
    """The arguments of the line that a sender prints."""
    words = shlex.split(sender.line())
    assert words[:2] == ["zcell", "get"]
    return words[1:]


def make_big(path: Path) -> Digest:
    """A file that takes some tenths of a second to travel: random here and there, zeros otherwise."""
    with path.open("wb") as file:
        for offset in range(0, BIG_BYTES, 16 * PIECE_BYTES):
            file.seek(offset)
            file.write(os.urandom(PIECE_BYTES))
        file.truncate(BIG_BYTES)
    return file_digest(path)


def wait_for_some_of_it(getter: Running) -> None:
    """Until something, and not everything, of what travels has arrived."""
    while True:
        (event,) = json_lines(getter.line().encode())
        assert event["event"] == "progress", event
        if event["bytes"]:
            assert event["state"] == "ACTIVE", event
            return


def make_tree(place: Path) -> dict[str, bytes]:
    contents = {f"sub/{n}.txt": os.urandom(n * 1000) for n in range(20)} | {"a": b"", "large": os.urandom(3_000_000)}
    for name, content in contents.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)
    (place / "empty").mkdir()
    (place / "a").chmod(0o755)
    return contents


def test_a_file_goes_from_one_terminal_to_the_other(tmp_path: Path) -> None:
    content = os.urandom(2_500_000)
    (tmp_path / "model.bin").write_bytes(content)
    with running("send", "model.bin", cwd=tmp_path) as sender:
        done = zcell(*get_words(sender), "--to", "here", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "here/model.bin").read_bytes() == content
        assert f"here/model.bin: 1 file, 2.4 MiB fetched, {Digest.of(content)}" in done.stdout.decode()
        assert sender.finish() == (0, b"")
        assert "1 of 1 receivers have confirmed model.bin" in sender.errors
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["model.bin"]


def test_a_directory_goes_with_modes_and_empty_directories_and_only_changes_go_again(tmp_path: Path) -> None:
    contents = make_tree(tmp_path / "data")
    for expected_bytes in (sum(map(len, contents.values())), len(contents["sub/19.txt"])):
        with running("send", "--json", "data", cwd=tmp_path) as sender:
            (offer,) = json_lines(sender.line().encode())
            done = zcell("get", offer["address"], offer["ref"], "--to", "here", "--json", cwd=tmp_path)
            assert done.returncode == 0, done.stderr
            (summary,) = events(done.stdout, "summary")
            assert summary["files"] == len(contents)
            assert summary["bytes"] == expected_bytes
            assert sender.finish()[0] == 0
        here = tmp_path / "here/data"
        assert {str(p.relative_to(here)): p.read_bytes() for p in here.rglob("*") if p.is_file()} == contents
        assert (here / "empty").is_dir()
        assert (here / "a").stat().st_mode & 0o777 == 0o755
        contents["sub/19.txt"] = os.urandom(19_000)
        (tmp_path / "data/sub/19.txt").write_bytes(contents["sub/19.txt"])


@pytest.mark.parametrize(("mode", "expected"), [(0o755, 0o755), (0o4711, 0o711), (0o600, 0o600), (0o666, 0o666)])
def test_a_file_keeps_its_permission_bits_and_its_time(tmp_path: Path, mode: int, expected: int) -> None:
    source = tmp_path / "tool"
    source.write_bytes(b"#!/bin/sh\n")
    source.chmod(mode)
    os.utime(source, ns=(1_234_567_890_123_456_789, 1_234_567_890_123_456_789))
    with running("send", "tool", cwd=tmp_path) as sender:
        assert zcell(*get_words(sender), "--to", "here", cwd=tmp_path).returncode == 0
        assert sender.finish()[0] == 0
    found = (tmp_path / "here/tool").stat()
    assert found.st_mode & 0o7777 == expected
    assert found.st_mtime_ns == source.stat().st_mtime_ns


@pytest.mark.parametrize(
    "lie", [{"mode": 0o4755}, {"mode": -1}, {"mode": "755"}, {"mode": True}, {"mtime_ns": 1 << 63}, {"mtime_ns": 1.5}]
)
def test_attributes_that_a_sender_makes_up_are_refused(tmp_path: Path, lie: dict[str, object]) -> None:
    with Cell(SENDER, listen=["tcp://127.0.0.1:0"]) as cell:
        ref = cell.downloads.transaction().add_bytes(b"x")
        cell.register(CHANNEL, DESCRIBE, lambda _request: {"kind": FILE, "name": "f", "bytes": 1, "offer": ref.id} | lie)
        done = zcell("get", cell.endpoints[0], ref.id, "--to", tmp_path / "here")
    assert done.returncode == 4
    assert next(iter(lie)) in done.stderr.decode()
    assert not (tmp_path / "here").exists()


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_sender_waits_for_all_its_receivers(tmp_path: Path, kind: str) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/f").write_bytes(b"x" * 100_000)
    with running("send", "d/f" if kind == "file" else "d", "--receivers", 2, cwd=tmp_path) as sender:
        words = get_words(sender)
        assert zcell(*words, "--to", "one", cwd=tmp_path).returncode == 0
        assert sender.process.poll() is None
        assert zcell(*words, "--to", "two", cwd=tmp_path).returncode == 0
        assert sender.finish()[0] == 0


def test_an_interrupted_get_says_what_it_keeps_and_the_same_command_continues(tmp_path: Path) -> None:
    digest = make_big(tmp_path / "big")
    part = tmp_path / "here/big.part"
    with running("send", "big", cwd=tmp_path) as sender:
        words = get_words(sender)
        with running(*words, "--to", "here", "--json", cwd=tmp_path) as getter:
            wait_for_some_of_it(getter)
            sender.signal(signal.SIGSTOP)  # so that it cannot end before it is interrupted
            getter.signal(signal.SIGINT)
            code, _ = getter.finish()
            sender.signal(signal.SIGCONT)
            assert code == 130
            assert getter.errors.count("failed: interrupted") == 1
            assert "kept; the same command continues from there" in getter.errors
        assert part.exists()
        assert not (tmp_path / "here/big").exists()
        done = zcell(*words, "--to", "here", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert file_digest(tmp_path / "here/big") == digest
        assert not part.exists()
        assert sender.finish()[0] == 0


def test_a_killed_get_continues_from_a_restarted_sender(tmp_path: Path) -> None:
    digest = make_big(tmp_path / "big")
    for _ in range(2):
        with (
            running("send", "big", cwd=tmp_path) as sender,
            running(*get_words(sender), "--json", "--to", "here", cwd=tmp_path) as getter,
        ):
            wait_for_some_of_it(getter)
            sender.signal(signal.SIGSTOP)
            getter.process.kill()
    journal = tmp_path / "here/big.part.journal"
    assert journal.exists()
    with running("send", "big", cwd=tmp_path) as sender:
        done = zcell(*get_words(sender), "--to", "here", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert sender.finish()[0] == 0
    assert b"begun by an earlier try" in done.stdout
    assert b"MiB/s" not in done.stdout, "bytes that were here already are nobody's speed"
    assert file_digest(tmp_path / "here/big") == digest
    assert not journal.exists()


@pytest.mark.parametrize("when", ["before a receiver comes", "meanwhile"])
def test_a_sender_whose_file_changed_says_so_and_ends(tmp_path: Path, when: str) -> None:
    make_big(tmp_path / "big")
    with running("send", "big", "--receivers", 2, cwd=tmp_path) as sender:
        words = get_words(sender)
        if when == "meanwhile":
            with running(*words, "--to", "here", "--json", cwd=tmp_path) as getter:
                wait_for_some_of_it(getter)
                sender.signal(signal.SIGSTOP)  # so that not all of it has gone
                os.truncate(tmp_path / "big", BIG_BYTES // 2)
                sender.signal(signal.SIGCONT)
                code, _ = getter.finish()
                said = getter.errors
        else:
            os.truncate(tmp_path / "big", BIG_BYTES // 2)
            done = zcell(*words, "--to", "here", cwd=tmp_path)
            code, said = done.returncode, done.stderr.decode()
        assert code == 4
        assert "while it was offered" in said
        assert "start `zcell send` again" in said
        assert said.count("\n") == 1, said
        assert sender.finish() == (4, b"")
        assert "while it was offered; send it again" in sender.errors
    assert not (tmp_path / "here/big").exists()


@pytest.mark.parametrize("changed", ["sub/7.txt", "large"])
def test_a_sender_of_a_directory_in_which_a_file_changed_says_so_and_ends(tmp_path: Path, changed: str) -> None:
    make_tree(tmp_path / "data")
    with running("send", "data", cwd=tmp_path) as sender:
        words = get_words(sender)
        (tmp_path / "data" / changed).write_bytes(b"changed")
        done = zcell(*words, "--to", "here", cwd=tmp_path)
        assert done.returncode == 4
        assert changed in done.stderr.decode()
        assert "start `zcell send` again" in done.stderr.decode()
        assert sender.finish() == (4, b"")
        assert f"{changed}' has changed" in sender.errors
        assert "send it again" in sender.errors
    assert not (tmp_path / "here/data").exists()


def test_a_failure_of_the_receivers_own_does_not_end_the_sender(tmp_path: Path) -> None:
    contents = make_tree(tmp_path / "data")
    (tmp_path / "here").mkdir()
    (tmp_path / "here/data").symlink_to(tmp_path)
    with running("send", "data", cwd=tmp_path) as sender:
        words = get_words(sender)
        assert zcell(*words, "--to", "here", cwd=tmp_path).returncode == 5
        assert zcell(*words, "--to", "there", cwd=tmp_path).returncode == 0
        assert sender.finish()[0] == 0
    assert (tmp_path / "there/data/large").read_bytes() == contents["large"]


def test_an_interrupted_sender_ends_cleanly(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    with running("send", "f", cwd=tmp_path) as sender:
        sender.line()
        sender.signal(signal.SIGINT)
        assert sender.finish()[0] == 130
        assert "interrupted; 0 of 1 receivers have it" in sender.errors


def test_an_interrupted_wait_for_a_sender_ends_at_once() -> None:
    with running("get", "tcp://127.0.0.1:1", "ref") as getter:
        eventually(lambda: "zcell-interrupts" in threads(getter.process.pid), 20)
        getter.signal(signal.SIGINT)
        assert getter.finish()[0] == 130
        assert "nothing was fetched" in getter.errors


def threads(pid: int) -> str:
    """Names of the threads of a process, as far as Linux knows them."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return "zcell-interrupts" if int(caught.split()[1], 16) & (1 << (signal.SIGTERM - 1)) else ""


def test_a_sender_of_another_user_is_refused_with_3(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    with running("send", "f", cwd=tmp_path) as sender:
        done = zcell(*get_words(sender), cwd=tmp_path, env={"XDG_CONFIG_HOME": str(tmp_path / "other")})
        assert done.returncode == 3
        assert not done.stdout
        assert b"Traceback" not in done.stderr


def test_an_unknown_ref_is_told_and_ends_with_4(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    with running("send", "f", cwd=tmp_path) as sender:
        address = get_words(sender)[1]
        done = zcell("get", address, "0" * 32, cwd=tmp_path)
        assert done.returncode == 4
        assert "does not offer" in done.stderr.decode()
        assert done.stderr.count(b"\n") == 1


def test_an_address_that_others_reach_needs_a_secret_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    for words in (["send", "f", "--listen", "tcp://0.0.0.0:0"], ["get", "tcp://192.0.2.1:1", "ref"]):
        done = zcell(*words, "--secret-file", "key", cwd=tmp_path)
        assert done.returncode == 2
        assert "--insecure" in done.stderr.decode()
        assert "insecure=True" not in done.stderr.decode()
    assert zcell("send", "f", "--listen", "nonsense", "--secret-file", "key", cwd=tmp_path).returncode == 2
    assert not (tmp_path / "key").exists(), "nothing is written before it is refused"
    done = zcell("send", "f", "--listen", "tcp://0.0.0.0:0", "--insecure", cwd=tmp_path)
    assert done.returncode == 2
    assert "--secret-file" in done.stderr.decode()
    with running("send", "f", "--listen", "tcp://127.0.0.1:0", "--insecure", "--secret-file", "key", cwd=tmp_path) as sender:
        words = get_words(sender)
        assert words[-3:] == ["--insecure", "--secret-file", "key"]
        assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
        assert (tmp_path / "key").read_text().strip() not in " ".join(words)
        assert zcell(*words[:-1], "missing", cwd=tmp_path).returncode == 2
        assert zcell(*words[:-3], cwd=tmp_path).returncode == 3, "this user's own secret is another one"
        assert zcell(*words, "--to", "here", cwd=tmp_path).returncode == 0


@pytest.mark.parametrize("kind", ["directory", "link"])
def test_a_file_is_refused_where_a_directory_has_its_name(tmp_path: Path, kind: str) -> None:
    (tmp_path / "model.bin").write_bytes(b"x" * 100_000)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "here").mkdir()
    if kind == "link":
        (tmp_path / "here/model.bin").symlink_to(elsewhere)
    else:
        (tmp_path / "here/model.bin").mkdir()
    with running("send", "model.bin", cwd=tmp_path) as sender:
        words = get_words(sender)
        done = zcell(*words, "--to", "here", cwd=tmp_path)
        assert done.returncode == 2
        assert "here/model.bin is a directory" in done.stderr.decode()
        assert [path.name for path in (tmp_path / "here").rglob("*")] == ["model.bin"]
        assert not list(elsewhere.iterdir())
        assert zcell(*words, "--to", "there", cwd=tmp_path).returncode == 0, "the sender was not told that it is done"
        assert sender.finish()[0] == 0
    assert "1 of 1 receivers have confirmed" in sender.errors


@pytest.mark.parametrize("name", [b"bad\xff", b"x" * 241], ids=["no UTF-8", "too long"])
@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_name_that_cannot_travel_is_refused_at_once(tmp_path: Path, name: bytes, kind: str) -> None:
    path = tmp_path / os.fsdecode(name)
    path.mkdir() if kind == "directory" else path.write_bytes(b"x")
    done = zcell("send", path.name, cwd=tmp_path)
    assert done.returncode == 5
    assert not done.stdout
    assert b"nothing can travel under the name" in done.stderr


def test_what_is_not_there_cannot_be_sent(tmp_path: Path) -> None:
    done = zcell("send", tmp_path / "missing")
    assert done.returncode == 2
    assert "no such file" in done.stderr.decode()
