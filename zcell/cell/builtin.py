"""What every cell answers on the channel ``zcell``: ping, route, tree, statistics. Invariant: read-only, for the cell's family."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from zcell.fqcn import FQCN
from zcell.message import Request
from zcell.protocol.routing import path_between

if TYPE_CHECKING:
    from zcell.cell.cell import Cell

CHANNEL = "zcell"


def register_builtin(cell: Cell) -> None:
    """Add the handlers.

    - ``ping`` answers ``{"fqcn", "instance"}``;
    - ``route`` answers the names of the cells between the caller and this one, ends included;
    - ``tree`` answers ``{"fqcn", "children": [...]}`` for everything linked below; a child that does not answer has ``"error"``;
    - ``statistics`` answers the fields of `CellStatistics`.
    """

    def ping(request: Request) -> dict[str, Any]:
        return {"fqcn": cell.fqcn, "instance": cell.instance}

    def route(request: Request) -> list[str]:
        return path_between(request.origin, cell.fqcn)

    def statistics(request: Request) -> dict[str, Any]:
        return dataclasses.asdict(cell.statistics())

    def tree(request: Request) -> dict[str, Any]:
        children = [name for name in cell.statistics().links if FQCN.tree_parent(name) == cell.fqcn]
        timeout = max(0.1, (request.remaining or 5.0) * 0.8)
        found = []
        for name, reply in sorted(cell.broadcast(children, CHANNEL, "tree", timeout=timeout).items()):
            found.append(reply.payload if reply.ok else {"fqcn": name, "children": [], "error": reply.rc.value})
        return {"fqcn": cell.fqcn, "children": found}

    for topic, fn in (("ping", ping), ("route", route), ("statistics", statistics), ("tree", tree)):
        cell.register(CHANNEL, topic, fn)
