"""The `zcell` command, also as ``python -m zcell.cli``. Invariant: it hears Ctrl-C before it imports what takes time."""

from __future__ import annotations

from zcell.cli.early import end_at_once_when_interrupted
from zcell.cli.outlet import open_what_is_closed


def main() -> None:
    """The console script."""
    open_what_is_closed()
    end_at_once_when_interrupted()
    from zcell.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
