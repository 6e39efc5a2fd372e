"""What an owner's reply means for a download. Invariant: a reply either answers, or ends the download, or is worth another try."""

from __future__ import annotations

from concurrent.futures import Future

from zcell.message import Reply, ReturnCode

_DENIED = frozenset({ReturnCode.UNAUTHENTICATED, ReturnCode.AUTHENTICATION_ERROR, ReturnCode.FILTER_ERROR})
_RETRY = frozenset(
    {
        ReturnCode.TARGET_UNREACHABLE,
        ReturnCode.COMM_ERROR,
        ReturnCode.TIMEOUT,
        ReturnCode.SERVICE_UNAVAILABLE,
        ReturnCode.ABORTED,
    }
)


def failure_of(reply: Reply) -> tuple[str, str] | None:
    """The `DownloadError` reason and text of a reply that ends the download, None when it is worth trying again."""
    if reply.rc in _RETRY:
        return None
    if reply.rc in _DENIED:
        return "denied", reply.error or "the owner refuses requests of this cell"
    if reply.rc is ReturnCode.INVALID_REQUEST or reply.rc is ReturnCode.INVALID_TARGET:
        return "unknown_ref", reply.error or "the owner offers nothing"
    return "link", f"{reply.rc.value}: {reply.error}"


def reply_of(future: Future[Reply]) -> Reply:
    """The outcome of a request that may have been cancelled or failed."""
    if future.cancelled():
        return Reply(ReturnCode.ABORTED, None, "the cell was stopped")
    error = future.exception()
    return Reply(ReturnCode.COMM_ERROR, None, str(error)) if error is not None else future.result()


def download_failure(owner: str, ref_id: str, text: str) -> str:
    """The text of a `DownloadError`. A ref id lets whoever reads it download, so only its beginning is shown."""
    shown = ref_id if len(ref_id) <= 8 else f"{ref_id[:6]}..."
    return f"download of {shown} from {owner} failed: {text}"
