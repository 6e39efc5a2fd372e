"""Where a cell is in the tree: what it listens on, whom it connects to, what proves both. Invariant: checked before anything is opened."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq

from zcell.cell.context import SharedContext
from zcell.cell.endpoints import check_endpoint, is_local, require_local
from zcell.fqcn import FQCN
from zcell.security.secret import read_secret, user_secret

_NO_SECRET = b"\0" * 32
"""Of a cell without links."""


@dataclass(frozen=True)
class Inside:
    """How a child in the parent's own process is linked to it."""

    url: str
    secret: bytes
    join: Callable[[], SharedContext]


@dataclass(frozen=True)
class Place:
    """The arguments of a cell that say where it is, checked."""

    listen: tuple[str, ...]
    parent_url: str | None
    parent_name: str
    secret: bytes
    join: Callable[[], SharedContext]
    """Makes the context, or takes part in one."""
    is_given_context: bool

    @classmethod
    def of(
        cls,
        fqcn: str,
        listen: str | Sequence[str],
        parent: str | Inside | None,
        secret: bytes | str | Path | None,
        insecure: bool,
        context: zmq.Context[Any] | None,
    ) -> Place:
        """Raises `ValueError` or `TypeError` naming the argument."""
        if not isinstance(listen, str | Sequence):
            raise TypeError(f"listen: expected endpoints, not {type(listen).__name__}")
        endpoints = tuple(check_endpoint(url, "listen") for url in ([listen] if isinstance(listen, str) else listen))
        for url in endpoints:
            require_local(url, "listen", insecure)
        join: Callable[[], SharedContext] = functools.partial(SharedContext, context)
        if isinstance(parent, Inside):
            if context is not None:
                raise ValueError("context: a cell whose parent is a cell of this process shares its context")
            join, secret, parent = parent.join, parent.secret if secret is None else secret, parent.url
        parent_name = FQCN.tree_parent(fqcn)
        if parent is not None:
            require_local(check_endpoint(parent, "parent"), "parent", insecure)
            if not parent_name:
                raise ValueError(f"parent: {fqcn!r} is the root of the tree and has no parent")
        known = _secret_bytes(secret) if endpoints or parent or secret is not None else _NO_SECRET
        return cls(endpoints, parent, parent_name, known, join, context is not None)

    @property
    def open_to_others(self) -> list[str]:
        """The endpoints that other machines can reach."""
        return [url for url in (*self.listen, self.parent_url) if url and not is_local(url)]


def _secret_bytes(secret: bytes | str | Path | None) -> bytes:
    if secret is None:
        return user_secret()
    if isinstance(secret, str | Path):
        return read_secret(Path(secret))
    if not isinstance(secret, bytes):
        raise TypeError(f"secret is bytes or the path of a file, not {type(secret).__name__}")
    if len(secret) < 16:
        raise ValueError(f"secret: a link secret has at least 16 bytes, got {len(secret)}")
    return secret
