"""Pipes: two-ended, message-preserving connections between a parent and its job, with heartbeats."""

from zcell.pipe.cell_pipe import CellPipe
from zcell.pipe.file_pipe import FilePipe
from zcell.pipe.handler import PipeHandler
from zcell.pipe.message import Message, MsgType, Topic
from zcell.pipe.pipe import Mode, Pipe
from zcell.pipe.rebuild import rebuild
from zcell.pipe.session import PeerState
from zcell.pipe.shared_file import SharedFile

__all__ = [
    "CellPipe",
    "FilePipe",
    "Message",
    "Mode",
    "MsgType",
    "PeerState",
    "Pipe",
    "PipeHandler",
    "SharedFile",
    "Topic",
    "rebuild",
]
