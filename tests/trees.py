"""Whole trees of cells in one process. Invariant: every cell that a test started is stopped when the test ends."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zmq

from zcell import Cell
from zcell.fqcn import FQCN

SECRET = b"a link secret for the tests only"
READY = 10.0
"""Seconds that a link of a test may take to come up; it takes milliseconds."""


class Tree:
    """Cells by name, each linked to its parent in the tree: `tree["site-1"]`."""

    def __init__(self, transport: str, directory: Path, number: int) -> None:
        self.transport = transport
        self._directory = directory
        self._number = number
        self._context: zmq.Context[Any] | None = zmq.Context() if transport == "inproc" else None
        self._cells: dict[str, Cell] = {}
        self._urls: dict[str, str] = {}
        self._options: dict[str, dict[str, Any]] = {}

    @property
    def context(self) -> zmq.Context[Any] | None:
        """The context that the cells of an inproc tree share; None for the other transports."""
        return self._context

    def __getitem__(self, name: str) -> Cell:
        return self._cells[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._cells)

    def listen_url(self, name: str) -> str:
        """Where `name` listens; a port is chosen by the system the first time and kept over restarts."""
        if name not in self._urls:
            label = f"{self._number}-{len(self._urls)}"
            self._urls[name] = {
                "tcp": "tcp://127.0.0.1:0",
                "ipc": f"ipc://{self._directory}/{label}",
                "inproc": f"inproc://{label}",
            }[self.transport]
        return self._urls[name]

    def make(self, name: str, **options: Any) -> Cell:
        """A cell with the right parent, not started. `options` go to `Cell` and win over what the tree would choose."""
        options.setdefault("secret", SECRET)
        options.setdefault("listen", [self.listen_url(name)])
        above = FQCN.tree_parent(name)
        if above:
            options.setdefault("parent", self._urls.get(above))
        if self._context is not None:
            options.setdefault("context", self._context)
        self._options[name] = options
        return Cell(name, **options)

    def start(self, name: str, **options: Any) -> Cell:
        """A started cell, which may not be linked yet."""
        cell = self.make(name, **options)
        self._cells[name] = cell
        cell.start()
        if cell.endpoints:
            self._urls[name] = cell.endpoints[0]
        return cell

    def add(self, name: str, **options: Any) -> Cell:
        """A started cell that is linked to its parent."""
        cell = self.start(name, **options)
        cell.wait_ready(READY)
        return cell

    def stop(self, name: str) -> None:
        self._cells.pop(name).stop()

    def restart(self, name: str) -> Cell:
        """Stop `name` when it runs, and start a new cell of that name at the same place."""
        if name in self._cells:
            self.stop(name)
        options = {k: v for k, v in self._options[name].items() if k != "listen"}
        if self._options[name]["listen"]:
            options["listen"] = [self._urls[name]]
        return self.add(name, **options)

    def close(self) -> None:
        """Stop every cell, leaves first; fail when one of them left a socket open in a shared context."""
        for name in sorted(self._cells, key=lambda n: (-n.count("."), n == FQCN.ROOT_SERVER)):
            self._cells[name].stop()
        self._cells.clear()
        if self._context is not None:
            context, self._context = self._context, None
            ending = threading.Thread(target=context.term, name="end of the shared context", daemon=True)
            ending.start()
            ending.join(5)
            assert not ending.is_alive(), "a cell that was stopped left a socket open in the context it shared"


class TreeFactory:
    """Called with names, parents before children; closes all its trees."""

    def __init__(self, transport: str, directory: Path) -> None:
        self.transport = transport
        self._directory = directory
        self._trees: list[Tree] = []

    def __call__(self, *names: str, **options: Any) -> Tree:
        tree = Tree(self.transport, self._directory, len(self._trees))
        self._trees.append(tree)
        for name in names:
            tree.add(name, **options)
        return tree

    def close(self) -> None:
        with contextlib.ExitStack() as stack:
            for tree in self._trees:
                stack.callback(tree.close)


@contextlib.contextmanager
def making_trees(transport: str, directory: Path) -> Iterator[TreeFactory]:
    """A factory whose trees end with the block."""
    factory = TreeFactory(transport, directory)
    try:
        yield factory
    finally:
        factory.close()
