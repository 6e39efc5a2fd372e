"""Pairs of pipe ends for the conformance suite. Invariant: a suite that passes here over one pipe means the same over another."""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from zcell import Cell
from zcell.pipe import CellPipe, FilePipe, Mode, Pipe


class Pairs(ABC):
    """Makes ends that find each other; everything it made is closed at the end."""

    def __init__(self) -> None:
        self._made = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._made.close()

    @abstractmethod
    def build(self, mode: Mode, token: str) -> Pipe:
        """An end that is not open yet; ends with the same `token` belong together."""

    def end(self, mode: Mode, token: str = "pair", channel: str = "task") -> Pipe:
        pipe = self.build(mode, token)
        self._made.callback(pipe.close)
        pipe.open(channel)
        return pipe

    def both(self, channel: str = "task") -> tuple[Pipe, Pipe]:
        """The active and the passive end, open."""
        token = secrets.token_hex(4)
        passive = self.end(Mode.PASSIVE, token, channel)
        return self.end(Mode.ACTIVE, token, channel), passive


class FilePairs(Pairs):
    """Over a directory; `portable` as if the kernel could not tell about changes."""

    def __init__(self, directory: Path, portable: bool) -> None:
        super().__init__()
        self._directory = directory
        self._portable = portable

    def build(self, mode: Mode, token: str) -> Pipe:
        return FilePipe(mode, self.directory_of(token), portable=self._portable)

    def directory_of(self, token: str) -> Path:
        return self._directory / token


class CellPairs(Pairs):
    """Over cells: both ends connect below a cell of this process that listens at `url`."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.server = self._made.enter_context(Cell("server", listen=[url]))

    def build(self, mode: Mode, token: str) -> Pipe:
        return CellPipe(mode, "site", token, self.server)
