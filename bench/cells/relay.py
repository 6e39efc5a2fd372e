"""A cell between the root and a job, that has nothing else to do. ``relay NAME PARENT_URL``."""

from __future__ import annotations

import sys

from bench.answering import serve
from bench.cells import SECRET
from zcell import Cell


def main() -> None:
    name, parent = sys.argv[1:]
    with Cell(name, listen=["tcp://127.0.0.1:0"], parent=parent, secret=SECRET) as cell:
        cell.wait_ready(20)
        serve(cell.endpoints[0], {})


if __name__ == "__main__":
    main()
