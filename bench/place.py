"""Where benchmarks keep their files. Invariant: memory where there is room for them, a disk otherwise, and nothing stays."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

MIB = 1024 * 1024
SHARED_MEMORY = Path("/dev/shm")
MARGIN_BYTES = 1024 * MIB
_BLOCK = 16 * MIB


def medium(need_bytes: int = 3072 * MIB) -> Path:
    """A directory on tmpfs when it, and the machine's memory, can take `need_bytes` and a margin; the temporary directory else."""
    if not os.access(SHARED_MEMORY, os.W_OK):
        return Path(tempfile.gettempdir())
    room = min(shutil.disk_usage(SHARED_MEMORY).free, _available_bytes())
    return SHARED_MEMORY if room >= need_bytes + MARGIN_BYTES else Path(tempfile.gettempdir())


@contextlib.contextmanager
def workplace(need_bytes: int = 3072 * MIB) -> Iterator[Path]:
    """A directory for the length of the block."""
    with tempfile.TemporaryDirectory(prefix="zcell-bench-", dir=medium(need_bytes)) as name:
        yield Path(name)


def write_noise(path: Path, size_bytes: int) -> Path:
    """A file that does not compress, no MiB of which is like another."""
    block = bytearray(random.Random(size_bytes).randbytes(min(_BLOCK, size_bytes)))
    with path.open("wb") as file:
        for start in range(0, size_bytes, _BLOCK):
            for at in range(0, len(block), MIB):
                block[at : at + 8] = (start + at).to_bytes(8, "little")[: len(block) - at]
            file.write(block[: size_bytes - start])
    return path


def write_texts(directory: Path, count: int, seed: int = 1) -> int:
    """`count` files of text, 0.2 to 8 KiB, a hundred to a directory; the bytes in them."""
    chance = random.Random(seed)
    words = [b"import os\n", b"def train(model, data):\n", b"    return loss\n", b"alpha ", b"beta ", b"0.12345, "]
    total = 0
    for number in range(count):
        path = directory / f"{number // 100:03d}" / f"{number:05d}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        size = chance.randrange(200, 8192)
        path.write_bytes(b"".join(chance.choices(words, k=size // 8))[:size])
        total += path.stat().st_size
    return total


def _available_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0
