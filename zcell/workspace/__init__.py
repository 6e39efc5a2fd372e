"""Workspaces: what a job needs travels to it, what it made travels back, whole or not at all.

The names below are loaded when first used, so that importing a part does not load all of them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zcell.workspace.context import JobContext
    from zcell.workspace.limits import ExtractLimits, WorkspaceLimits
    from zcell.workspace.manager import WorkspaceManager
    from zcell.workspace.meter import WorkspaceProgress
    from zcell.workspace.receive import Received
    from zcell.workspace.transfer import download_workspace, upload_results, upload_results_safely
    from zcell.workspace.tree import fetch_tree, offer_tree
    from zcell.workspace.zipstream import ZipEntry, unzip_stream, zip_stream

_WHERE = {
    "ExtractLimits": "limits",
    "JobContext": "context",
    "Received": "receive",
    "WorkspaceLimits": "limits",
    "WorkspaceManager": "manager",
    "WorkspaceProgress": "meter",
    "ZipEntry": "zipstream",
    "download_workspace": "transfer",
    "fetch_tree": "tree",
    "offer_tree": "tree",
    "unzip_stream": "zipstream",
    "upload_results": "transfer",
    "upload_results_safely": "transfer",
    "zip_stream": "zipstream",
}

__all__ = [
    "ExtractLimits",
    "JobContext",
    "Received",
    "WorkspaceLimits",
    "WorkspaceManager",
    "WorkspaceProgress",
    "ZipEntry",
    "download_workspace",
    "fetch_tree",
    "offer_tree",
    "unzip_stream",
    "upload_results",
    "upload_results_safely",
    "zip_stream",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
    globals()[name] = value
    return value
