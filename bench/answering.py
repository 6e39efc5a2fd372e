"""The child's side of `bench.child`. Invariant: standard output holds answers and nothing else."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any


def serve(hello: Any, commands: dict[str, Callable[..., Any]]) -> None:
    """Say hello, then answer each line ``[command, arguments]`` until standard input ends. An error ends the program."""
    print(json.dumps(hello), flush=True)
    for line in sys.stdin:
        command, arguments = json.loads(line)
        print(json.dumps(commands[command](**arguments)), flush=True)
