"""Every exception zcell raises on purpose. Invariant owned here: an error names the thing, what was expected, what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zcell.message import Reply


class ZcellError(Exception):
    """Base of all errors of this library."""


class ProtocolError(ZcellError):
    """The other side sent bytes that the protocol does not allow. Raised by sans-IO code, counted by cells, never the user's fault."""


class CodecError(ZcellError, ValueError):
    """A payload that cannot be encoded (the error names the type and where it sits), or bytes that cannot be decoded."""


class CellClosedError(ZcellError, RuntimeError):
    """The cell is not started, has stopped, or lives in a forked child where it is dead; the text says which."""


class LinkError(ZcellError, ConnectionError):
    """No link to the parent within the bound, or the parent refused it; the text names the endpoint and the reason."""


class LinkRefusedError(LinkError):
    """The other side refused the link (wrong secret, name taken, wrong version): trying again will not help."""


class RequestError(ZcellError):
    """Raised by `Reply.raise_for_rc`: a request ended with another return code than OK."""

    def __init__(self, message: str, reply: Reply) -> None:
        super().__init__(message)
        self.reply = reply

    def __reduce__(self) -> tuple[type[RequestError], tuple[str, Reply]]:
        return type(self), (str(self), self.reply)


class DownloadError(ZcellError):
    """A download failed. `reason` is one of unknown_ref, gone, denied, idle, deadline, aborted, corrupt, source_failed,
    sink_failed, link. Partial data stays in ``NAME.part`` with its journal for the next try."""

    REASONS = frozenset(
        {"unknown_ref", "gone", "denied", "idle", "deadline", "aborted", "corrupt", "source_failed", "sink_failed", "link"}
    )

    def __init__(self, reason: str, message: str) -> None:
        if reason not in self.REASONS:
            raise ValueError(f"unknown download failure reason {reason!r}")
        super().__init__(f"{message} [{reason}]")
        self.reason = reason

    def __reduce__(self) -> tuple[type[DownloadError], tuple[str, str]]:
        return type(self), (self.reason, str(self).removesuffix(f" [{self.reason}]"))


class BundleError(ZcellError, ValueError):
    """A workspace, manifest or archive that is refused; the text names the entry and the rule it breaks."""


class WorkspaceError(ZcellError):
    """A workspace could not be shipped or its results brought back. `rc` is the return code the owner answered, if it did."""

    def __init__(self, message: str, rc: str = "") -> None:
        super().__init__(message)
        self.rc = rc


class LaunchError(ZcellError):
    """A job could not be started; the text names the job, the launcher and the setting to change."""


class EngineUnreachableError(LaunchError):
    """The engine that a launcher starts jobs in does not answer, or is not where the settings say; later it may."""


class KernelError(ZcellError):
    """`ZCELL_SHA256_KERNEL` demands a kernel that does not exist or that this CPU cannot run."""
