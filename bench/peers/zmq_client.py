"""Plain pyzmq: a DEALER that asks, one for each caller, and a PUSH that sends. ``zmq_client ROUTER PULL``."""

from __future__ import annotations

import sys
import threading

import zmq

from bench import load
from bench.answering import serve


class Client:
    """The same questions as `bench.cells.client` asks."""

    def __init__(self, router: str, pull: str) -> None:
        self._context = zmq.Context()
        self._router = router
        self._local = threading.local()
        self._push = self._context.socket(zmq.PUSH)
        self._push.connect(pull)

    def _dealer(self) -> zmq.Socket[bytes]:
        if not hasattr(self._local, "dealer"):
            self._local.dealer = self._context.socket(zmq.DEALER)
            self._local.dealer.connect(self._router)
        dealer: zmq.Socket[bytes] = self._local.dealer
        return dealer

    def _ask(self) -> None:
        dealer = self._dealer()
        dealer.send(load.QUESTION)
        assert dealer.recv() == load.QUESTION

    def _counted(self) -> int:
        dealer = self._dealer()
        dealer.send(b"counted")
        return int(dealer.recv())

    def ask(self, count: int) -> list[float]:
        return load.seconds_each(self._ask, count)

    def ask_together(self, callers: int, each: int) -> float:
        return load.per_second(self._ask, callers, each)

    def send_events(self, count: int) -> float:
        return load.delivered_per_second(lambda: self._push.send(load.QUESTION), self._counted, count)


def main() -> None:
    client = Client(sys.argv[1], sys.argv[2])
    serve("connected", {"ask": client.ask, "ask_together": client.ask_together, "send_events": client.send_events})


if __name__ == "__main__":
    main()
