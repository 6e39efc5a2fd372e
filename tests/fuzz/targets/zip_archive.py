"""Any bytes are an archive that zipfile reads in the same way, or a refusal that leaves nothing; the first byte cuts the chunks."""

from __future__ import annotations

import io
import tempfile
import zipfile
from pathlib import Path

from zcell.errors import BundleError
from zcell.workspace.zipstream import ExtractLimits, unzip_stream

LIMITS = ExtractLimits(total_bytes=1 << 20, entries=1000, ratio_free_bytes=1 << 16)


def one_input(data: bytes) -> None:
    if not data:
        return
    step, archive = data[0] + 1, data[1:]
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory, "out")
        try:
            found = unzip_stream((archive[at : at + step] for at in range(0, len(archive), step)), out, LIMITS)
        except BundleError:
            assert list(Path(directory).iterdir()) == [], "a refused archive left something behind"
            return
        contents = sorted(path.read_bytes() for path in out.rglob("*") if path.is_file())
        assert found.files == len(contents)
    assert found.written_bytes == sum(map(len, contents))
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as oracle:
            expected = sorted(oracle.read(info) for info in oracle.infolist() if not info.is_dir())
    except NotImplementedError:  # a version that zipfile does not know; the formats of all versions read here are the same
        return
    assert contents == expected
