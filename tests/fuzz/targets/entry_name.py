"""Any text is a name that stays below the directory it is joined to, or a refusal; names that pass one set are distinct files."""

from __future__ import annotations

import posixpath

from zcell.errors import BundleError
from zcell.workspace.names import NameSet, validate_entry_name


def one_input(data: bytes) -> None:
    names = NameSet()
    kept: list[str] = []
    for name in data.decode("utf-8", "surrogateescape").split("\n"):
        try:
            parts = validate_entry_name(name)
            names.add(name, is_dir=False)
        except BundleError:
            continue
        assert parts == tuple(name.split("/"))
        assert posixpath.normpath(posixpath.join("/root", name)) == f"/root/{name}"
        kept.append(name.lower())
    assert len(set(kept)) == len(kept)
