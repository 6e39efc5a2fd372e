"""The other end of a pipe from what `Pipe.export` gave. Invariant owned here: only a subclass of `Pipe` is ever built."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from zcell.pipe.pipe import Pipe


def rebuild(import_path: str, kwargs: Mapping[str, Any], **extra: Any) -> Pipe:
    """Build the end that `export` described; `extra` adds what does not travel in a configuration, as a secret or a cell.

    For configurations of this machine only: it imports the module that is named. Raises `ValueError` when that holds no pipe.
    """
    module_name, _, class_name = import_path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), class_name) if module_name else None
    except (ImportError, AttributeError) as e:
        raise ValueError(f"cannot build a pipe from {import_path!r}: {e}") from None
    if not (isinstance(found, type) and issubclass(found, Pipe)):
        raise ValueError(f"{import_path!r} is not a Pipe; expected what Pipe.export returned, as 'zcell.pipe.FilePipe'")
    pipe: Pipe = found(**{**kwargs, **extra})
    return pipe
