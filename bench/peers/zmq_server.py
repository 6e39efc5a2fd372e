"""Plain pyzmq: a ROUTER that answers what it is asked, a PULL that counts what it gets, both on one thread."""

from __future__ import annotations

import json
import sys
import threading

import zmq


def serve(context: zmq.Context[zmq.Socket[bytes]]) -> None:
    router, pull = context.socket(zmq.ROUTER), context.socket(zmq.PULL)
    router.linger = pull.linger = 0
    router.bind("tcp://127.0.0.1:*")
    pull.bind("tcp://127.0.0.1:*")
    print(json.dumps([socket.getsockopt_string(zmq.LAST_ENDPOINT) for socket in (router, pull)]), flush=True)
    poller = zmq.Poller()
    poller.register(router, zmq.POLLIN)
    poller.register(pull, zmq.POLLIN)
    counted = 0
    while True:
        for socket, _ in poller.poll():
            if socket is router:
                identity, question = router.recv_multipart()
                router.send_multipart([identity, b"%d" % counted if question == b"counted" else question])
                continue
            try:
                while True:
                    pull.recv(zmq.NOBLOCK)
                    counted += 1
            except zmq.Again:
                continue


def main() -> None:
    threading.Thread(target=serve, args=(zmq.Context(),), daemon=True).start()
    sys.stdin.readline()  # ends when the benchmark closes it


if __name__ == "__main__":
    main()
