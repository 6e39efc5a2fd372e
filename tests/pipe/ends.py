"""A pipe end in a process of its own: `python -m tests.pipe.ends PATH JSON CHANNEL`, then one word a line on standard input.

It answers each request with its data, and reports on standard output. Words: `echo` (answer for ever), `send N` (send N
numbered messages), `hold` (send one and wait for ever), `end`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from types import TracebackType
from typing import Any, Self

from zcell.pipe import Message, PipeHandler, Topic, rebuild


def main() -> None:
    pipe = rebuild(sys.argv[1], json.loads(sys.argv[2]))
    pipe.open(sys.argv[3])
    handler = PipeHandler(pipe, **json.loads(sys.argv[4]))
    handler.start()
    print("ready", flush=True)
    for line in sys.stdin:
        word, *arguments = line.split()
        if word == "echo":
            _echo(handler)
        if word == "send":
            for number in range(int(arguments[0])):
                print("sent", handler.send_to_peer(Message.new_request("t", number), 30.0), flush=True)
        if word == "hold":
            print("sending", flush=True)
            handler.send_to_peer(Message.new_request("t", "held"), 600.0)
        if word == "end":
            break
    handler.notify_end("done")
    handler.stop()
    print("stopped", flush=True)


def _echo(handler: PipeHandler) -> None:
    while (message := handler.get_next(60.0)) is not None:
        if message.topic in Topic.STATUS:
            print(message.topic, flush=True)
            return
        handler.send_to_peer(Message.new_reply(message.topic, message.data, req_msg_id=message.msg_id), 30.0)


class EndProcess:
    """The process, from the test's side; killed when the test leaves it."""

    def __init__(self, exported: tuple[str, dict[str, Any]], channel: str = "task", **settings: float) -> None:
        path, kwargs = exported
        command = [sys.executable, "-m", "tests.pipe.ends", path, json.dumps(kwargs), channel, json.dumps(settings)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def tell(self, words: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(words + "\n")
        self.process.stdin.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.process.kill()
        self.process.communicate()


if __name__ == "__main__":
    main()
