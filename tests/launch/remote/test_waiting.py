"""A node that waits for its credentials: as long as somebody listens who may send them."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

from zcell.launch.remote.refusal import Refusal

LIMIT = 30


def node(url: str, place: Path, lease: float, wait: float) -> subprocess.Popen[bytes]:
    words = ["--parent", url, "--name", "job", "--credentials", str(place / "credentials"), "--wait", str(wait)]
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "zcell.launch.remote.node", *words, "--lease", str(lease)], stderr=subprocess.PIPE
    )


def test_a_node_whose_parent_has_died_waits_for_a_lease(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    began = time.monotonic()
    with node(f"tcp://127.0.0.1:{port}", tmp_path, 0.5, 60) as waiting:
        _, error = waiting.communicate(timeout=LIMIT)
    assert waiting.returncode == Refusal.NO_LINK
    assert b"nobody listens at the parent's address any more" in error
    assert time.monotonic() - began < 20


def test_a_node_whose_parent_listens_waits_for_its_credentials(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        node(f"tcp://127.0.0.1:{server.getsockname()[1]}", tmp_path, 0.5, 3) as waiting,
    ):
        _, error = waiting.communicate(timeout=LIMIT)
    assert waiting.returncode == Refusal.NO_CREDENTIALS
    assert b"no credentials after 3 s" in error
