"""How things ended. Invariant: every transaction and every delivery has exactly one of these outcomes."""

from __future__ import annotations

from enum import StrEnum


class TransactionStatus(StrEnum):
    """Where a transaction is. All but ACTIVE are final."""

    ACTIVE = "ACTIVE"
    FINISHED = "FINISHED"
    """Every expected receiver confirmed every ref, or a quorum did and the rest fell silent."""
    TIMEOUT = "TIMEOUT"
    """No activity on any ref by anyone for `idle_timeout`."""
    DELETED = "DELETED"
    ABORTED = "ABORTED"


class DownloadStatus(StrEnum):
    """How one receiver's download of one ref ended."""

    SUCCESS = "SUCCESS"
    FAILED = "FAILED"


class ProduceRC(StrEnum):
    """What a producer's step was."""

    OK = "OK"
    EOF = "EOF"
    """There is no step here: the object is complete. Data given with it is ignored."""
    ERROR = "ERROR"
    """The object cannot be produced: downloads of it fail with source_failed."""
