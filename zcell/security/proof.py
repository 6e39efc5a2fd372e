"""Proofs of the link handshake. Invariant: a proof holds for one transcript and one role, and says nothing about the secret."""

from __future__ import annotations

import hashlib
import hmac
from typing import Protocol


class LinkProof(Protocol):
    """How one end of a link shows who it is. The handshake hands over the transcript of all that both ends said."""

    scheme: str
    """What travels to name the kind of proof; both ends must use the same."""

    def prove(self, role: str, transcript: bytes) -> bytes:
        """A proof, at most 2 KiB, that this end, in `role` ("initiator" or "acceptor"), knows what it must know."""
        ...

    def verify(self, role: str, transcript: bytes, proof: bytes, name: str) -> bool:
        """Whether `proof` was made by the other end in `role` for this very transcript, by a holder of `name`."""
        ...


class SharedSecretProof:
    """Both ends know one random secret of a run: HMAC-SHA256 over role and transcript (RFC 2104)."""

    scheme = "secret"

    def __init__(self, secret: bytes) -> None:
        if len(secret) < 16:
            raise ValueError(f"a link secret has at least 16 bytes, got {len(secret)}")
        self._key = hashlib.sha256(b"zcell link secret\x00" + secret).digest()

    def __repr__(self) -> str:
        return "SharedSecretProof(...)"

    def prove(self, role: str, transcript: bytes) -> bytes:
        return hmac.digest(self._key, role.encode() + b"\x00" + transcript, "sha256")

    def verify(self, role: str, transcript: bytes, proof: bytes, name: str) -> bool:
        return hmac.compare_digest(self.prove(role, transcript), proof)
