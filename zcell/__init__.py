"""zcell: a ZeroMQ peer-to-peer runtime for launched jobs.

The names below are loaded when first used, so that ``import zcell`` stays quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zcell.abort import Abort
    from zcell.cell import Cell, CellStatistics, LazyRef, LinkEvent
    from zcell.digest import Digest, TreeHasher
    from zcell.errors import ZcellError
    from zcell.fqcn import FQCN
    from zcell.limits import Limits
    from zcell.message import Reply, Request, ReturnCode, make_reply

__version__ = "0.1.0"

_WHERE = {
    "FQCN": "zcell.fqcn",
    "Abort": "zcell.abort",
    "Cell": "zcell.cell",
    "CellStatistics": "zcell.cell",
    "Digest": "zcell.digest",
    "LazyRef": "zcell.cell",
    "Limits": "zcell.limits",
    "LinkEvent": "zcell.cell",
    "Reply": "zcell.message",
    "Request": "zcell.message",
    "ReturnCode": "zcell.message",
    "TreeHasher": "zcell.digest",
    "ZcellError": "zcell.errors",
    "make_reply": "zcell.message",
}

__all__ = [
    "FQCN",
    "Abort",
    "Cell",
    "CellStatistics",
    "Digest",
    "LazyRef",
    "Limits",
    "LinkEvent",
    "Reply",
    "Request",
    "ReturnCode",
    "TreeHasher",
    "ZcellError",
    "__version__",
    "make_reply",
]


def __getattr__(name: str) -> Any:
    where = _WHERE.get(name)
    if where is None:
        raise AttributeError(f"module 'zcell' has no attribute {name!r}")
    return getattr(importlib.import_module(where), name)


def __dir__() -> list[str]:
    return sorted(__all__)
