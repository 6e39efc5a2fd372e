"""Draws the state machines of the protocol from their tables into `protocol.md`: `python docs/diagrams.py` after changing one.

With `--check` it only says whether the drawings are up to date (exit code 1 when they are not).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from zcell.protocol.link import STATES
from zcell.protocol.transfer.states import RECEIVER, SENDER

PAGE = Path(__file__).with_name("protocol.md")


def label(value: Any) -> str:
    """A state's or event's name as Mermaid takes it."""
    text = value.name if isinstance(value, Enum) and isinstance(value, int) else str(value.value)
    return text.replace(" ", "_")


def draw(table: Mapping[tuple[Any, Any], Any]) -> str:
    """The table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", f"    [*] --> {label(next(iter(table))[0])}"]
    lines += [f"    {label(state)} --> {label(after)}: {label(event)}" for (state, event), after in table.items()]
    ends = {label(s) for s in table.values()} - {label(s) for s, _ in table}
    lines += [f"    {end} --> [*]" for end in sorted(ends)]
    return "\n".join(lines)


MACHINES: dict[str, Mapping[tuple[Any, Any], Any]] = {
    "link initiator": STATES["initiator"],
    "link acceptor": STATES["acceptor"],
    "transfer receiver": RECEIVER,
    "transfer sender": SENDER,
}


def redrawn(page: str) -> str:
    """The page with every drawing made anew. Raises `ValueError` when one has no place in it."""
    for name, table in MACHINES.items():
        block = re.compile(rf"(<!-- machine: {name} -->\n```mermaid\n)[^`]*(```)")
        if not block.search(page):
            raise ValueError(f"{PAGE.name} has no place for the machine {name!r}")
        page = block.sub(rf"\g<1>{draw(table)}\n\g<2>", page)
    return page


def main() -> int:
    page = PAGE.read_text()
    fresh = redrawn(page)
    if "--check" in sys.argv:
        return int(fresh != page)
    PAGE.write_text(fresh)
    return 0


if __name__ == "__main__":
    sys.exit(main())
