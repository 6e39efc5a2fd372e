"""``zcell doctor``. Invariant: it changes nothing, and its exit code says whether what it tried works."""

from __future__ import annotations

import hashlib
import os
import platform
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from zcell.cli.early import raise_when_interrupted
from zcell.cli.exits import DONE, LINK, VERIFICATION
from zcell.cli.screen import Screen
from zcell.limits import LEAF_BYTES, MIB

PACKAGES = ("zcell", "pyzmq", "msgpack", "xxhash", "cryptography", "isal", "typer", "rich")
TEST_BYTES = 8 * MIB
LINK_TIMEOUT = 10.0


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at or tried."""

    name: str
    text: str
    ok: bool = True
    exit_code: int = DONE


def examine(*, json: bool) -> int:
    """Print all findings; the exit code of the first test that failed, or 0."""
    raise_when_interrupted()
    screen = Screen(json=json)
    code = DONE
    for finding in (*_versions(), *_tests()):
        mark = "" if finding.ok else "FAILED: "
        screen.result(
            "finding", f"{finding.name:<20} {mark}{finding.text}", name=finding.name, text=finding.text, ok=finding.ok
        )
        code = code or finding.exit_code
    return code


def _versions() -> Iterator[Finding]:
    import zmq

    from zcell.digest import kernel, kernels

    for package in PACKAGES:
        try:
            yield Finding(package, version(package))
        except PackageNotFoundError:
            missing = "not installed; the standard library's zlib does its work" if package == "isal" else "not installed"
            yield Finding(package, missing)
    yield Finding("python", f"{platform.python_version()} ({platform.python_implementation()})")
    yield Finding("libzmq", zmq.zmq_version())
    yield Finding(
        "CURVE", "present" if zmq.has("curve") else "absent: this libzmq was built without libsodium; install pyzmq's wheel"
    )
    yield Finding("machine", f"{platform.system()} {platform.release()} {platform.machine()}, {_cpus()} CPUs")
    yield Finding("SHA-256 kernel", f"{kernel()} (usable here: {', '.join(kernels())})")


def _cpus() -> int:
    return len(os.sched_getaffinity(0))


def _tests() -> Iterator[Finding]:
    yield _tried("test: digest", VERIFICATION, _test_digest)
    yield _tried("test: zip", VERIFICATION, _test_zip)
    yield _tried("test: link", LINK, _test_link)


def _tried(name: str, code: int, test: Callable[[], str]) -> Finding:
    try:
        return Finding(name, test())
    except Exception as error:  # noqa: BLE001  whatever it is, this is the place where it is told
        return Finding(name, f"{type(error).__name__}: {error}", ok=False, exit_code=code)


@contextmanager
def _clock() -> Iterator[Callable[[], float]]:
    start = time.monotonic()
    yield lambda: max(time.monotonic() - start, 1e-9)


def _test_digest() -> str:
    from zcell.digest import TreeHasher, leaves

    data = secrets.token_bytes(TEST_BYTES)
    expected = [hashlib.sha256(b"\0" + data[at : at + LEAF_BYTES]).digest() for at in range(0, TEST_BYTES, LEAF_BYTES)]
    if leaves(data) != b"".join(expected):
        raise ValueError("leaf hashes differ from hashlib's")
    while len(expected) > 1:
        pairs = zip(expected[::2], expected[1::2], strict=True)
        expected = [hashlib.sha256(b"\1" + left + right).digest() for left, right in pairs]
    with _clock() as seconds:
        root = TreeHasher(data).digest()
        speed = TEST_BYTES / MIB / seconds()
    if root != expected[0]:
        raise ValueError("the tree's root differs from hashlib's")
    return f"same as hashlib, {speed:.0f} MiB/s"


def _test_zip() -> str:
    from zcell.workspace.zipstream import ZipEntry, unzip_stream, zip_stream

    with tempfile.TemporaryDirectory(prefix="zcell-doctor-") as name:
        source, target = Path(name, "source"), Path(name, "target")
        source.mkdir()
        contents = {"text": b"one line of many\n" * 50_000, "noise": secrets.token_bytes(MIB), "empty": b""}
        for file, content in contents.items():
            (source / file).write_bytes(content)
        with _clock() as seconds:
            unzip_stream(zip_stream(ZipEntry(file, source / file, 0o644, time.time_ns()) for file in contents), target)
            speed = sum(map(len, contents.values())) / MIB / seconds()
        for file, content in contents.items():
            if (target / file).read_bytes() != content:
                raise ValueError(f"the file {file} came out different")
    return f"written and read back, {speed:.0f} MiB/s"


def _test_link() -> str:
    from zcell.cell import Cell
    from zcell.security.secret import new_secret

    secret = new_secret()
    with (
        Cell("server", listen=["tcp://127.0.0.1:0"], secret=secret) as server,
        Cell("doctor", parent=server.endpoints[0], secret=secret) as child,
    ):
        child.wait_ready(LINK_TIMEOUT)
        child.request("server", "zcell", "ping", timeout=LINK_TIMEOUT).raise_for_rc()  # the first one warms both ends up
        with _clock() as seconds:
            child.request("server", "zcell", "ping", timeout=LINK_TIMEOUT).raise_for_rc()
            milliseconds = 1000 * seconds()
    return f"loopback, request and reply in {milliseconds:.2f} ms"
