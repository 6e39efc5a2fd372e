"""Payloads of messages. Invariant: no single message is large: what exceeds `inline_bytes` travels by reference, on the data lane."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zcell.abort import Abort
from zcell.codec import Buffer, Codec, LazyValue, RefTarget

if TYPE_CHECKING:
    from zcell.cell.cell import Cell

PASS_THROUGH = "pass_through"  # noqa: S105 - the name of a header
_REFERENCE_IDLE = 60.0


class LazyRef(LazyValue):
    """A value of a message that is still with its owner: forward it untouched to a third cell, or `fetch` it.

    `owner` is the cell that holds the bytes, `size` their number. Whoever fetches pulls straight from the owner.
    """

    __slots__ = ("_cell",)

    def __init__(self, cell: Cell, value: LazyValue) -> None:
        super().__init__(value.code, value.data, value.targets, value.buffers)
        self._cell = cell

    @property
    def owner(self) -> str:
        return self.targets[0][0]

    @property
    def ref_ids(self) -> tuple[str, ...]:
        return tuple(ref_id for _, ref_id, _ in self.targets)

    @property
    def size(self) -> int:
        return sum(size for _, _, size in self.targets)

    def __repr__(self) -> str:
        return f"LazyRef(owner={self.owner!r}, size={self.size})"

    def fetch(self, *, idle_timeout: float = _REFERENCE_IDLE, deadline: float | None = None, abort: Abort | None = None) -> Any:
        """The value itself. `idle_timeout` and `deadline` in seconds; raises `DownloadError` or `CodecError`."""
        return self._cell.payloads.fetch_lazy(self, idle_timeout, deadline, abort)


@dataclass(slots=True)
class EncodedPayload:
    """What is sent; `transaction` holds the large buffers until they are fetched."""

    body: bytes
    buffers: list[Buffer]
    transaction: Any = None

    @property
    def size(self) -> int:
        return len(self.body) + sum(map(len, self.buffers))

    def withdraw(self) -> None:
        """The message ended: nobody will fetch any more."""
        if self.transaction is not None:
            self.transaction.delete()


class Payloads:
    """Encodes and decodes the payloads of one cell."""

    def __init__(self, cell: Cell, codec: Codec) -> None:
        self._cell = cell
        self._codec = codec

    def encode(self, payload: Any, target: str, headers: dict[str, Any]) -> EncodedPayload:
        """Raises `CodecError` for a payload that cannot travel; leaves nothing on offer then."""
        encoded = EncodedPayload(b"", [])
        limits = self._cell.limits

        def make_reference(view: memoryview) -> RefTarget:
            if encoded.transaction is None:
                # a passed-through message is fetched by cells that are not known here
                receivers: Any = 1 if headers.get(PASS_THROUGH) else [target]
                encoded.transaction = self._cell.downloads.transaction(receivers=receivers, idle_timeout=_REFERENCE_IDLE)
            ref = encoded.transaction.add_bytes(view)
            return RefTarget((self._cell.fqcn, ref.id, view.nbytes))

        try:
            encoded.body, encoded.buffers = self._codec.encode(
                payload,
                out_of_band_bytes=limits.out_of_band_bytes,
                reference_over=limits.inline_bytes,
                make_reference=make_reference,
            )
        except BaseException:
            encoded.withdraw()
            raise
        return encoded

    def decode(self, body: Any, buffers: list[Any], headers: dict[str, Any], timeout: float | None = None) -> Any:
        """The payload; large buffers are fetched, within `timeout` seconds, or handed over as `LazyRef`s when passed through.

        Raises `CodecError` for bytes that are no payload, `DownloadError` when a buffer cannot be fetched.
        """
        views = [memoryview(b.buffer if hasattr(b, "buffer") else b) for b in buffers]
        raw = body.bytes if hasattr(body, "bytes") else body
        if headers.get(PASS_THROUGH):
            return self._codec.decode(raw, views, lazy=lambda value: LazyRef(self._cell, value))
        end = None if timeout is None else time.monotonic() + timeout
        return self._codec.decode(raw, views, fetch=lambda target: self._fetch(target, _REFERENCE_IDLE, end, None))

    def fetch_lazy(self, value: LazyRef, idle_timeout: float, deadline: float | None, abort: Abort | None) -> Any:
        end = None if deadline is None else time.monotonic() + deadline
        return self._codec.decode_value(value, fetch=lambda target: self._fetch(target, idle_timeout, end, abort))

    def _fetch(self, target: RefTarget, idle_timeout: float, end: float | None, abort: Abort | None) -> Buffer:
        owner, ref_id, _ = target
        deadline = None if end is None else max(0.001, end - time.monotonic())
        data: Buffer = self._cell.downloads.fetch_bytes(
            owner, ref_id, idle_timeout=idle_timeout, deadline=deadline, abort=abort
        )
        return data
