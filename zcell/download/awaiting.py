"""Downloads for asyncio. Invariant: one implementation; awaiting here and waiting in `DownloadClient` are the same future.

Cancelling an awaited download aborts it.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Unpack

from zcell.download.client import Target
from zcell.download.options import FetchOptions
from zcell.download.outcome import TransactionStatus
from zcell.download.ref import Ref
from zcell.download.service import DownloadService
from zcell.download.stepwise import Consumer
from zcell.download.transaction import Transaction


class AwaitableDownloads:
    """`zcell.aio.Cell.downloads`. `sync` is the service underneath."""

    def __init__(self, sync: DownloadService) -> None:
        self.sync = sync

    def transaction(self, **options: Any) -> Transaction:
        """As `DownloadService.transaction`; use `wait` of this class to await its end."""
        return self.sync.transaction(**options)

    async def wait(self, transaction: Transaction, timeout: float | None = None) -> TransactionStatus:
        """Wait until `transaction` has ended or `timeout` seconds passed; its status then."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(None, functools.partial(transaction.wait, timeout))

    async def fetch(self, owner: str, ref_id: str | Ref, consumer: Consumer, **options: Unpack[FetchOptions]) -> None:
        """As `DownloadClient.fetch`."""
        await asyncio.wrap_future(self.sync.fetch_future(owner, ref_id, consumer, **options))

    async def fetch_file(
        self, owner: str, ref_id: str | Ref, to: Target, *, resume: bool = True, **options: Unpack[FetchOptions]
    ) -> Path:
        """As `DownloadClient.fetch_file`."""
        return await asyncio.wrap_future(self.sync.fetch_file_future(owner, ref_id, to, resume=resume, **options))

    async def fetch_bytes(
        self, owner: str, ref_id: str | Ref, *, max_bytes: int | None = None, **options: Unpack[FetchOptions]
    ) -> bytes:
        """As `DownloadClient.fetch_bytes`."""
        return await asyncio.wrap_future(self.sync.fetch_bytes_future(owner, ref_id, max_bytes=max_bytes, **options))

    async def fetch_many(
        self, owner: str, wanted: Mapping[str, Target | None], *, resume: bool = True, **options: Unpack[FetchOptions]
    ) -> dict[str, Path | bytes]:
        """As `DownloadClient.fetch_many`."""
        return await asyncio.wrap_future(self.sync.fetch_many_future(owner, wanted, resume=resume, **options))
