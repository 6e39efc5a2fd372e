"""Return codes and replies, and the errors made from them."""

from __future__ import annotations

import pickle

import pytest

from zcell.errors import (
    BundleError,
    CellClosedError,
    CodecError,
    DownloadError,
    LinkError,
    LinkRefusedError,
    ProtocolError,
    RequestError,
    ZcellError,
)
from zcell.message import Reply, Request, ReturnCode, make_reply

CODES = [
    "OK",
    "TIMEOUT",
    "INVALID_TARGET",
    "TARGET_UNREACHABLE",
    "COMM_ERROR",
    "MSG_TOO_BIG",
    "FILTER_ERROR",
    "INVALID_REQUEST",
    "PROCESS_EXCEPTION",
    "AUTHENTICATION_ERROR",
    "UNAUTHENTICATED",
    "SERVICE_UNAVAILABLE",
    "INVALID_SESSION",
    "ABORTED",
]


def test_the_return_codes_are_these_and_read_as_their_names() -> None:
    assert [str(code) for code in ReturnCode] == CODES


def test_a_reply_is_ok_by_default() -> None:
    reply = make_reply(ReturnCode.OK, {"a": 1})
    assert (reply.rc, reply.payload, reply.error, reply.headers, reply.origin) == (ReturnCode.OK, {"a": 1}, "", {}, "")
    assert reply.ok
    assert reply.raise_for_rc() is reply


def test_a_reply_is_made_from_the_name_of_a_code() -> None:
    assert make_reply("ABORTED").rc is ReturnCode.ABORTED
    with pytest.raises(ValueError, match="NO_SUCH_CODE"):
        make_reply("NO_SUCH_CODE")


def test_headers_of_a_reply_are_a_copy() -> None:
    headers = {"round": 1}
    reply = make_reply(ReturnCode.OK, headers=headers)
    headers["round"] = 2
    assert reply.headers == {"round": 1}


def test_replies_do_not_share_their_default_headers() -> None:
    make_reply(ReturnCode.OK).headers["a"] = 1
    assert make_reply(ReturnCode.OK).headers == {}
    assert Reply().headers == {}


@pytest.mark.parametrize("code", [c for c in ReturnCode if c is not ReturnCode.OK])
def test_every_other_code_raises_with_the_code_the_origin_and_the_text(code: ReturnCode) -> None:
    reply = make_reply(code, error="the disk of site-1 is full")
    reply.origin = "site-1"
    assert not reply.ok
    with pytest.raises(RequestError) as caught:
        reply.raise_for_rc()
    assert caught.value.reply is reply
    for part in (code.value, "site-1", "the disk of site-1 is full"):
        assert part in str(caught.value)


def test_a_failure_without_text_still_says_something() -> None:
    with pytest.raises(RequestError, match="TIMEOUT"):
        make_reply(ReturnCode.TIMEOUT).raise_for_rc()


def test_a_request_of_a_handler_starts_with_empty_headers_of_its_own() -> None:
    one, two = (Request("a", "b", "c", "t") for _ in range(2))
    one.headers["x"] = 1
    assert two.headers == {}
    assert one.remaining is None


@pytest.mark.parametrize(
    ("error", "bases"),
    [
        (ProtocolError, (ZcellError,)),
        (CodecError, (ZcellError, ValueError)),
        (CellClosedError, (ZcellError, RuntimeError)),
        (LinkError, (ZcellError, ConnectionError)),
        (LinkRefusedError, (LinkError, OSError)),
        (BundleError, (ZcellError, ValueError)),
    ],
)
def test_errors_can_be_caught_as_the_builtin_kind_they_are(error: type[Exception], bases: tuple[type[Exception], ...]) -> None:
    assert issubclass(error, bases)


def test_a_download_error_knows_its_reason_and_refuses_unknown_ones() -> None:
    error = DownloadError("corrupt", "chunk 7 of model.pt")
    assert error.reason == "corrupt"
    assert "chunk 7 of model.pt" in str(error)
    assert "corrupt" in str(error)
    with pytest.raises(ValueError, match="tired"):
        DownloadError("tired", "x")


@pytest.mark.parametrize(
    "error", [DownloadError("idle", "no byte for 60 s"), RequestError("no", make_reply("TIMEOUT")), LinkRefusedError("tcp://x")]
)
def test_errors_survive_a_process_pool(error: Exception) -> None:
    """concurrent.futures and multiprocessing pickle exceptions; one that cannot be unpickled hangs or breaks the pool."""
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
