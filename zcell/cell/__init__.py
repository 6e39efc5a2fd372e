"""The cell: one I/O thread that owns every socket, links to neighbours, dispatch to handlers; it drives `zcell.protocol`."""

from zcell.cell.cell import Cell
from zcell.cell.events import LinkEvent
from zcell.cell.payloads import LazyRef
from zcell.cell.statistics import CellStatistics

__all__ = ["Cell", "CellStatistics", "LazyRef", "LinkEvent"]
