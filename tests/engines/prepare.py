"""``python -m tests.engines.prepare DIRECTORY``: install the engines and make what their tests need. Run by ``make engines``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.engines import dockerd, slurm_cluster
from tests.engines.packages import ensure


def main() -> None:
    if os.geteuid() != 0:
        raise SystemExit("make engines: starting engines needs root, and Debian to install them on")
    directory = Path(sys.argv[1]).absolute()
    ensure(dockerd.PROGRAMS | slurm_cluster.PROGRAMS)
    dockerd.prepare(directory)


if __name__ == "__main__":
    main()
