"""A stand-in for a cluster's API server, over real HTTP: list, watch, 409, 410, grace, and failures on demand.

It says nothing of how a real cluster schedules or isolates; `zcell doctor --launcher kubernetes` asks a real one.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kubernetes

from tests.launch.kubernetes.kubelet import Kubelet
from tests.launch.kubernetes.store import MODELS, Object, Refused, Store, checked

_PATH = re.compile(r"/(?:api/v1|apis/batch/v1)/namespaces/default/(jobs|pods|secrets|events)(?:/([^/]+))?(?:/(log))?\Z")
_REVIEW = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


class StandIn:
    """The server. `fail` and `swallow` are for tests of what a network does."""

    def __init__(self, directory: Path) -> None:
        self.store = Store()
        self.kubelet = Kubelet(self.store)
        self.fail: list[tuple[str, int]] = []
        """The next requests whose "METHOD kind" is here get that code."""
        self.swallow: list[str] = []
        """The next requests whose "METHOD kind" is here are carried out, and their answer is lost."""
        self.forbidden: set[str] = set()
        """What this user may not do: "verb resource"."""
        self.asked: list[str] = []
        self.stopping = False
        self._server: ThreadingHTTPServer | None = None
        self._port = 0
        self._directory = directory

    @property
    def kubeconfig(self) -> str:
        """A file that leads here."""
        return str(self._directory / "kubeconfig")

    def start(self) -> None:
        """Listen; again on the same port after `stop`."""
        self.stopping = False
        handler = type("Handler", (_Handler,), {"cluster": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), handler)
        self._server.daemon_threads = False
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), name="stand-in-api", daemon=True).start()
        url = f"http://127.0.0.1:{self._port}"
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": url}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "me", "namespace": "default"}}],
            "users": [{"name": "me", "user": {}}],
        }
        Path(self.kubeconfig).write_text(json.dumps(config))

    def stop(self) -> None:
        """No API for a while; pods go on."""
        assert self._server is not None
        self.stopping = True
        with self.store.changed:
            self.store.changed.notify_all()
        self._server.shutdown()
        self._server.server_close()  # waits for the requests under way
        self._server = None

    def left(self) -> list[str]:
        """Every object there is."""
        kinds = ("jobs", "pods", "secrets")
        return [f"{kind[:-1]} {item['metadata']['name']}" for kind in kinds for item in self.store.find(kind)]


class _Handler(BaseHTTPRequestHandler):
    cluster: StandIn
    protocol_version = "HTTP/1.1"
    timeout = 5

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_PATCH = do_DELETE = do_GET

    def _serve(self) -> None:
        if self.cluster.stopping:
            self.close_connection = True
            return
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else {}
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        try:
            found = _PATH.match(url.path)
            key = f"{self.command} {found.group(1) if found else url.path}"
            self.cluster.asked.append(key + (" watch" if "watch" in query else ""))
            self._fail(key)
            if found and query.get("watch"):
                self._watch(found.group(1), query)
                return
            answer = self._answer(found, url.path, query, body)
        except Refused as refused:
            self._send(refused.code, refused.status())
            return
        if key in self.cluster.swallow:
            self.cluster.swallow.remove(key)
            self.close_connection = True
            return
        self._send(201 if self.command == "POST" else 200, answer)

    def _fail(self, key: str) -> None:
        for entry in self.cluster.fail:
            if entry[0] == key:
                self.cluster.fail.remove(entry)
                raise Refused(entry[1], "Injected", f"the stand-in was told to fail {key}")

    def _answer(self, found: re.Match[str] | None, path: str, query: dict[str, str], body: Object) -> Object | bytes:
        store = self.cluster.store
        if found is None:
            return self._other(path, body)
        kind, name, part = found.groups()
        match self.command:
            case "GET" if part == "log":
                return self.cluster.kubelet.log(name)
            case "GET":
                return store.get(kind, name) if name else self._list(kind, query)
            case "POST":
                return store.create(kind, body)
            case "PATCH":
                if self.headers["Content-Type"] != "application/json-patch+json":
                    raise Refused(415, "UnsupportedMediaType", f"a patch of type {self.headers['Content-Type']}")
                patched = store.get(kind, name)
                _apply(patched, body)
                checked(MODELS[kind], patched)
                return store.update(kind, name, lambda item: _apply(item, body)) or {}
        return self._delete(kind, name, body)

    def _list(self, kind: str, query: dict[str, str]) -> Object:
        return self.cluster.store.listed(kind, query.get("labelSelector", ""), query.get("fieldSelector", ""))

    def _delete(self, kind: str, name: str, body: Object) -> Object:
        checked(kubernetes.client.V1DeleteOptions, body)
        item = self.cluster.store.get(kind, name)
        uid = (body.get("preconditions") or {}).get("uid")
        if uid is not None and uid != item["metadata"]["uid"]:
            raise Refused(409, "Conflict", "the UID in the precondition does not match")
        if kind == "pods":
            return self.cluster.kubelet.delete_pod(name, body.get("gracePeriodSeconds"))
        self.cluster.store.remove(kind, name)
        return {"kind": "Status", "apiVersion": "v1", "status": "Success"}

    def _other(self, path: str, body: Object) -> Object:
        if path == "/version/":
            return {"major": "1", "minor": "37", "gitVersion": "v1.37.0-stand-in"}
        if path == _REVIEW:
            checked(kubernetes.client.V1SelfSubjectAccessReview, body)
            asked = body["spec"]["resourceAttributes"]
            denied = f"{asked['verb']} {asked['resource']}" in self.cluster.forbidden
            return body | {"status": {"allowed": not denied, "reason": "the stand-in was told so" if denied else ""}}
        raise Refused(404, "NotFound", f"no {path} here")

    def _send(self, code: int, answer: Object | bytes) -> None:
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("Content-Type", "text/plain" if isinstance(answer, bytes) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _watch(self, kind: str, query: dict[str, str]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with contextlib.suppress(OSError):  # the client has gone
            for event in self._events(kind, query):
                data = json.dumps(event).encode() + b"\n"
                self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")
        self.close_connection = True

    def _events(self, kind: str, query: dict[str, str]) -> Iterator[Object]:
        version, store = int(query["resourceVersion"]), self.cluster.store
        end = time.monotonic() + float(query.get("timeoutSeconds", 60))
        while not self.cluster.stopping and time.monotonic() < end:
            try:
                events = store.events(kind, query.get("labelSelector", ""), version)
            except Refused as refused:
                yield {"type": "ERROR", "object": refused.status()}
                return
            for version, event, item in events:  # noqa: B007  the last one is where to go on
                yield {"type": event, "object": item}
            if not events:
                yield from self._still_there(version)
                with store.changed:
                    store.changed.wait(0.2)

    def _still_there(self, version: int) -> Iterator[Object]:
        """A bookmark; writing it is also how a client that has gone is noticed."""
        yield {"type": "BOOKMARK", "object": {"kind": "Pod", "apiVersion": "v1", "metadata": {"resourceVersion": str(version)}}}


def _apply(item: Object, patch: Any) -> None:
    """A JSON Patch (RFC 6902) of replacements only."""
    for step in patch:
        *path, last = step["path"].strip("/").split("/")
        place = item
        for key in path:
            place = place[key]
        if step["op"] != "replace" or last not in place:
            raise Refused(422, "Invalid", f"the stand-in cannot do {step}")
        place[last] = step["value"]


@contextlib.contextmanager
def stand_in(directory: Path) -> Iterator[StandIn]:
    """The server and its node, for the length of the block."""
    cluster = StandIn(directory)
    cluster.start()
    cluster.kubelet.start()
    try:
        yield cluster
    finally:
        cluster.kubelet.stop()
        if not cluster.stopping:
            cluster.stop()
