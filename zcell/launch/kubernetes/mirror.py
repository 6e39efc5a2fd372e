"""A copy of what the cluster says of some objects. Invariant: `snapshot` is what the cluster said, or an error; never a guess.

List, then watch from the list's version on; when the cluster has forgotten that version (410 Gone) or the connection breaks, list
again: https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from typing import Any

from zcell.launch.kubernetes.api import GONE, TIMEOUT, WATCH_SECONDS, ApiError, Stream

log = logging.getLogger("zcell.launch.kubernetes")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 10.0
Object = dict[str, Any]


class Mirror:
    """The objects of one kind with one label, kept by a thread of its own between `start` and `stop`."""

    def __init__(self, kind: str, request: Callable[..., Any], selector: str, on_change: Callable[[], None]) -> None:
        self._kind = kind
        self._request = request
        self._selector = selector
        self._on_change = on_change
        self._lock = threading.Lock()
        self._objects: dict[str, Object] = {}
        self._trouble = "not listed yet"
        self._stopping = threading.Event()
        self._synced = threading.Event()
        self._stream: Stream | None = None
        self.lists = 0
        """How often everything had to be listed."""
        self._thread = threading.Thread(target=self._run, name=f"zcell-kubernetes-{kind}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wait_synced(self, timeout: float) -> None:
        """Wait for the first list. Raises `ApiError` when there is none in time."""
        if not self._synced.wait(timeout):
            raise ApiError(0, f"no list of {self._kind} within {timeout:g} s: {self._trouble}")

    def stop(self) -> None:
        """End the thread; may be called once it has been started."""
        self._stopping.set()
        with self._lock:
            stream = self._stream
        if stream is not None:
            stream.close()
        self._thread.join()

    def snapshot(self) -> dict[str, Object]:
        """The objects by name. Raises `ApiError` while the cluster cannot be asked."""
        with self._lock:
            if self._trouble:
                raise ApiError(0, f"{self._kind}: {self._trouble}")
            return dict(self._objects)

    def _run(self) -> None:
        version = ""
        pause = _FIRST_PAUSE
        while not self._stopping.is_set():
            try:
                version = self._watch(version or self._list())
                pause = _FIRST_PAUSE
            except ApiError as error:
                version = ""
                if error.status == GONE:
                    log.debug("the cluster has forgotten where the watch of %s was; listing again", self._kind)
                    continue
                with self._lock:
                    self._trouble = str(error)
                self._stopping.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            except Exception as error:  # an answer that is nothing like the API's
                log.exception("the watch of %s met something unexpected", self._kind)
                version = ""
                with self._lock:
                    self._trouble = f"an answer that cannot be understood: {error}"
                self._stopping.wait(_LONGEST_PAUSE)

    def _list(self) -> str:
        answer = self._request(label_selector=self._selector, _request_timeout=TIMEOUT)
        listed = json.loads(answer.data)
        objects = {item["metadata"]["name"]: item for item in listed["items"]}
        with self._lock:
            self._objects, self._trouble = objects, ""
            self.lists += 1
        self._synced.set()
        self._on_change()
        return str(listed["metadata"]["resourceVersion"])

    def _watch(self, version: str) -> str:
        """Follow until the watch ends; the version to go on from. Raises `ApiError`."""
        answer = self._request(
            label_selector=self._selector,
            watch=True,
            resource_version=version,
            allow_watch_bookmarks=True,
            timeout_seconds=WATCH_SECONDS,
            _request_timeout=(TIMEOUT[0], WATCH_SECONDS + TIMEOUT[1]),
        )
        stream = Stream(answer)
        with self._lock:
            self._stream = stream
        if self._stopping.is_set():
            stream.close()
        try:
            for event in stream.events():
                version = self._take(event)
        finally:
            with self._lock:
                self._stream = None
        return version

    def _take(self, event: dict[str, Any]) -> str:
        kind, item = event["type"], event["object"]
        if kind == "ERROR":
            raise ApiError(int(item.get("code") or 0), str(item.get("message") or "the watch ended with an error"))
        metadata = item["metadata"]
        if kind != "BOOKMARK":
            with self._lock:
                if kind == "DELETED":
                    self._objects.pop(metadata["name"], None)
                else:
                    self._objects[metadata["name"]] = item
            self._on_change()
        return str(metadata["resourceVersion"])
