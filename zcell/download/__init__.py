"""Downloads: offering objects and fetching them, verified and resumable. Reached through `cell.downloads`."""

from zcell.download.options import FetchOptions
from zcell.download.outcome import DownloadStatus, ProduceRC, TransactionStatus
from zcell.download.progress import (
    ProgressEvent,
    ProgressKey,
    ProgressRecord,
    ProgressRefusal,
    ProgressState,
    ProgressTracker,
)
from zcell.download.ref import Ref
from zcell.download.sealing import Sealer
from zcell.download.service import DownloadService
from zcell.download.sinks import Sink, SinkError, SinkEvents
from zcell.download.stepwise import Consumer, Producer
from zcell.download.transaction import Transaction, TransactionStatistics
from zcell.errors import DownloadError

__all__ = [
    "Consumer",
    "DownloadError",
    "DownloadService",
    "DownloadStatus",
    "FetchOptions",
    "ProduceRC",
    "Producer",
    "ProgressEvent",
    "ProgressKey",
    "ProgressRecord",
    "ProgressRefusal",
    "ProgressState",
    "ProgressTracker",
    "Ref",
    "Sealer",
    "Sink",
    "SinkError",
    "SinkEvents",
    "Transaction",
    "TransactionStatistics",
    "TransactionStatus",
]
