"""``python -m zcell.cli`` is the `zcell` command."""

from zcell.cli.main import main

main()
