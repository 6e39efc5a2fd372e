"""The digest tree in plain Python over hashlib, word for word from RFC 9162 section 2.1.1: what kernels are compared with."""

from __future__ import annotations

import hashlib
import random

from zcell._native import sha256

LEAF = 65536
MIB = 1024 * 1024
EVERY_KERNEL = (*sha256.kernels(), "lanes16-generic")
"""Those this CPU can run, and the 16-lane template compiled without AVX-512."""
CONTENT = random.Random(9162).randbytes(18 * MIB + 1234)


def leaf_hashes(data: bytes) -> list[bytes]:
    return [hashlib.sha256(b"\x00" + data[at : at + LEAF]).digest() for at in range(0, len(data), LEAF)]


def tree_hash(nodes: list[bytes]) -> bytes:
    """MTH over leaf hashes, or over roots of complete subtrees of one size."""
    if not nodes:
        return hashlib.sha256(b"").digest()
    if len(nodes) == 1:
        return nodes[0]
    split = 1
    while 2 * split < len(nodes):
        split *= 2
    return hashlib.sha256(b"\x01" + tree_hash(nodes[:split]) + tree_hash(nodes[split:])).digest()


def root(data: bytes) -> bytes:
    return tree_hash(leaf_hashes(data))
