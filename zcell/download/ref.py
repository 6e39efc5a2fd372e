"""`Ref`: what an owner hands out. Invariant: an id that zcell makes cannot be guessed (192 random bits, URL-safe)."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass

from zcell.digest import Digest

_ID = re.compile(r"[A-Za-z0-9_.~-]{1,128}\Z")


@dataclass(frozen=True, slots=True)
class Ref:
    """One downloadable object. `size` in bytes and `digest` are None while unknown."""

    id: str
    size: int | None = None
    digest: Digest | None = None

    def __str__(self) -> str:
        return self.id


def new_ref_id() -> str:
    """A fresh unguessable id of 32 URL-safe characters."""
    return secrets.token_urlsafe(24)


def checked_ref_id(ref_id: str) -> str:
    """`ref_id` unchanged, or `ValueError`: 1 to 128 of letters, digits, ``_ . ~ -``."""
    if not isinstance(ref_id, str) or not _ID.match(ref_id):
        raise ValueError(f"a ref id is 1 to 128 of letters, digits and '_.~-', got {ref_id!r}")
    return ref_id
