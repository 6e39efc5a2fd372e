"""Keeps one conversation over a pipe going. Invariant owned here: a message is handed out as soon as it arrives, in order.

Two threads whatever the traffic: the reader receives and hands out, the pulse sends heartbeats and listens for silence, so that
a message that takes minutes to receive delays neither.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from zcell.abort import Abort
from zcell.pipe.arguments import abort_or_none, seconds, seconds_or_none
from zcell.pipe.message import Message, Topic
from zcell.pipe.pipe import Pipe
from zcell.pipe.process import OwnProcess
from zcell.pipe.session import PeerState, ResendPlan
from zcell.pipe.settings import HandlerSettings

_log = logging.getLogger("zcell.pipe.handler")
STATUS_TIMEOUT = 5.0
"""Seconds that END and ABORT wait for the peer to take them."""
MAX_INBOX = 1000
"""Messages that wait for `get_next`; beyond it the pipe is not read, and the peer's sends wait."""
MessageCallback = Callable[..., None]


class PipeHandler:
    """Runs one conversation: heartbeats, resends, delivery, and one status at its end.

    `read_interval` is how long a reader with nothing to do sleeps before it looks whether it was stopped; no message ever waits
    for it. `heartbeat_timeout` seconds of silence mean PEER_GONE (0: never; any message counts as life); `connect_timeout`
    is the same before the first sign of life. `max_resends` None: no limit; `resend_interval` None: no resends.
    """

    def __init__(
        self,
        pipe: Pipe,
        read_interval: float = 0.1,
        heartbeat_interval: float = 5.0,
        heartbeat_timeout: float = 60.0,
        resend_interval: float | None = 2.0,
        max_resends: int | None = 3,
        *,
        connect_timeout: float | None = None,
    ) -> None:
        if not isinstance(pipe, Pipe):
            raise TypeError(f"pipe must be a Pipe, not {type(pipe).__name__}")
        settings = HandlerSettings(
            read_interval, heartbeat_interval, heartbeat_timeout, resend_interval, max_resends, connect_timeout
        )
        self._pipe = pipe
        self._read_interval = settings.read_interval
        self._resend_interval = settings.resend_interval
        self._max_resends = settings.max_resends
        self._session = settings.session()
        lock = threading.RLock()
        self._changed = threading.Condition(lock)
        """For who waits for a message or for the peer; the other two wake only whom they concern, or every message would cost
        three threads' turns."""
        self._ending = threading.Condition(lock)
        self._room = threading.Condition(lock)
        self._handing_out = threading.Lock()
        self._beating = threading.Lock()
        self._over = Abort()
        self._process = OwnProcess()
        self._stopped = False
        self._threads: list[threading.Thread] = []
        self._status_cb: Callable[[Message], None] | None = None
        self._message_cb: Callable[[Message], None] | None = None

    @property
    def peer_state(self) -> PeerState:
        return self._session.state

    @property
    def is_over(self) -> bool:
        """Whether the conversation has ended, by the peer's status or by `stop`."""
        return self._over.triggered

    @property
    def pipe(self) -> Pipe:
        return self._pipe

    def set_status_cb(self, callback: MessageCallback, *args: Any, **kwargs: Any) -> None:
        """Call `callback(message, *args, **kwargs)` once, when the conversation ends: its topic is END, ABORT or PEER_GONE.

        Without it the status comes out of `get_next` like a message. It runs on a thread of the handler and must be short.
        """
        self._status_cb = _bound("callback", callback, args, kwargs)

    def set_message_cb(self, callback: MessageCallback, *args: Any, **kwargs: Any) -> None:
        """Call `callback(message, *args, **kwargs)` for each message instead of queueing it for `get_next`.

        It runs on the reader's thread: while it runs, no other message is handed out, and heartbeats go on.
        """
        self._message_cb = _bound("callback", callback, args, kwargs)

    def start(self) -> None:
        """Start; the pipe must be open. Raises `RuntimeError` when started twice."""
        with self._changed:
            if self._threads or self._stopped:
                raise RuntimeError("a PipeHandler is started once; make a new one for a new conversation")
            self._session.start(time.monotonic())
            self._process = OwnProcess()
            self._threads = [
                threading.Thread(target=self._read, name="zcell-pipe-reader", daemon=True),
                threading.Thread(target=self._pulse, name="zcell-pipe-pulse", daemon=True),
            ]
        for thread in self._threads:
            thread.start()

    def stop(self, close_pipe: bool = True) -> None:
        """End every wait in this handler and its threads, and close the pipe unless told not to. Idempotent.

        Nothing happens in a forked child: the conversation is its parent process's.
        """
        if self._process.is_elsewhere:
            return
        with self._changed:
            self._stopped = True
            self._notify_everyone()
        self._over.trigger("the pipe's handler was stopped")
        if close_pipe:
            self._pipe.close()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()

    def leave(self, data: Any = None, close_pipe: bool = True, *, unheard_timeout: float = 0.0) -> None:
        """Tell a peer that is there that the conversation is over (see `notify_end`), and `stop`. Idempotent.

        A peer that was not heard yet may have heard this end: it gets `unheard_timeout` seconds to take the word.
        """
        unheard_timeout = seconds("unheard_timeout", unheard_timeout)
        if self._process.is_elsewhere:
            return
        if self.peer_state is PeerState.LIVE and not self.is_over:
            self.notify_end(data)
        elif self.peer_state is PeerState.WAITING and not self.is_over and self._threads and unheard_timeout > 0:
            self._notify(Topic.END, data, unheard_timeout)
        self.stop(close_pipe)

    def rest(self, deadline: float) -> Iterator[Message]:
        """After ``stop(close_pipe=False)``: messages that the pipe has taken and nobody was given, until `deadline` (monotonic).

        The callback is not called.
        """
        with self._changed:
            waiting = [message for message in iter(self._session.take, None) if not message.is_status]
        yield from waiting
        while time.monotonic() < deadline:
            try:
                message = self._pipe.receive()
            except BrokenPipeError:
                return
            if message is None:
                return
            if message.topic not in Topic.RESERVED:
                yield message

    # sending

    def send_to_peer(self, msg: Message, timeout: float | None = None, abort: Abort | None = None) -> bool:
        """Send `msg`, again while that is allowed; True once the peer's end has taken it.

        False after `timeout` seconds in all (None: no limit of its own), when the resends are used up, when `abort` was
        triggered, and as soon as the conversation is over; `last_error` of the pipe says why.
        """
        timeout, abort = seconds_or_none("timeout", timeout, above=0), abort_or_none("abort", abort)
        deadline = None if timeout is None else time.monotonic() + timeout
        plan = ResendPlan(
            interval=self._resend_interval,
            max_resends=self._max_resends,
            allowed=self._pipe.can_resend(),
            deadline=deadline,
        )
        ended = Abort()
        sources = [a for a in (self._over, abort) if a is not None]
        keys = [a.add_callback(lambda a=a: ended.trigger(a.reason)) for a in sources]  # type: ignore[misc]
        try:
            return self._send_repeatedly(msg, plan, ended)
        except BrokenPipeError as e:
            self._pipe.last_error = str(e)
            self._report(self._end(Topic.PEER_GONE, f"sending failed: {e}"))
            return False
        finally:
            self._pipe.release_send_cache(msg)
            for source, key in zip(sources, keys, strict=True):
                source.remove_callback(key)

    def _send_repeatedly(self, msg: Message, plan: ResendPlan, ended: Abort) -> bool:
        while not ended.triggered:
            if self._pipe.send(msg, plan.remaining(time.monotonic()), ended):
                return True
            pause = plan.failed(time.monotonic())
            if pause is None or self._pipe.is_in_vain(msg):
                return False
            _log.info("will send %s %s again in %g s: %s", msg.topic, msg.msg_id, pause, self._pipe.last_error)
            ended.wait(pause)
        self._pipe.last_error = ended.reason
        return False

    def notify_end(self, data: Any = None) -> bool:
        """Tell the peer that the conversation is over; waits at most 5 s. Whether the peer's end has taken it."""
        return self._notify(Topic.END, data)

    def notify_abort(self, data: Any = None) -> bool:
        """Tell the peer to give up at once; waits at most 5 s. Whether the peer's end has taken it."""
        return self._notify(Topic.ABORT, data)

    def _notify(self, topic: str, data: Any, timeout: float = STATUS_TIMEOUT) -> bool:
        message = Message.new_request(topic, data)
        with self._beating, self._changed:
            self._session.leave()
        try:
            return self._pipe.send(message, timeout)
        except BrokenPipeError:
            return False
        finally:
            self._pipe.release_send_cache(message)

    # receiving

    def get_next(self, timeout: float = 0.0) -> Message | None:
        """The next message, waiting at most `timeout` seconds for one; None when there is none, while paused, once stopped."""
        deadline = time.monotonic() + seconds("timeout", timeout)
        with self._changed:
            while not self._stopped:
                message = self._session.take()
                left = deadline - time.monotonic()
                if message is not None or left <= 0:
                    self._room.notify_all()
                    return message
                self._changed.wait(left)
        return None

    def pause(self) -> None:
        """Stop handing out messages; heartbeats go on."""
        with self._changed:
            self._session.pause()

    def resume(self) -> None:
        """Hand out messages again, first those that came meanwhile."""
        with self._changed:
            self._session.resume()
            self._changed.notify_all()
        self._hand_out()

    def wait_for_peer(self, timeout: float | None = None, abort: Abort | None = None) -> bool:
        """Wait for the first sign of life; False after `timeout` seconds, when aborted, or when the conversation is over."""
        timeout, abort = seconds_or_none("timeout", timeout), abort_or_none("abort", abort)
        key = abort.add_callback(self._wake) if abort is not None else 0
        try:
            with self._changed:
                self._changed.wait_for(
                    lambda: (
                        self._session.state is not PeerState.WAITING or self._stopped or (abort is not None and abort.triggered)
                    ),
                    timeout,
                )
                return self._session.state is PeerState.LIVE and not self._stopped
        finally:
            if abort is not None:
                abort.remove_callback(key)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _notify_everyone(self) -> None:
        """With the lock held: the conversation is over."""
        for condition in (self._changed, self._ending, self._room):
            condition.notify_all()

    def _read(self) -> None:
        try:
            while self._may_read():
                message = self._pipe.receive(self._read_interval)
                if message is not None:
                    self._received(message)
                    message = None  # or it would be kept, however large, until the next one has come
                elif self._message_cb is not None:
                    self._hand_out()
        except BrokenPipeError as e:
            if not self._stopped:
                self._report(self._end(Topic.PEER_GONE, str(e)))
        except Exception as e:  # noqa: BLE001  a reader that dies silently would look like a silent peer
            _log.exception("reading the pipe failed")
            self._report(self._end(Topic.PEER_GONE, f"reading the pipe failed: {type(e).__name__}: {e}"))

    def _may_read(self) -> bool:
        with self._changed:
            while not self._stopped and self._session.waiting >= MAX_INBOX:
                self._room.wait()
            return not self._stopped and not self._session.is_over

    def _received(self, message: Message) -> None:
        with self._changed:
            status = self._session.receive(message, time.monotonic())
            self._changed.notify_all()
        self._hand_out()
        self._report(status)

    def _hand_out(self) -> None:
        """Give what is waiting to the message callback, by one thread at a time."""
        if self._message_cb is None or not self._handing_out.acquire(blocking=False):
            return
        try:
            while True:
                with self._changed:
                    message = None if self._stopped else self._session.take()
                    self._room.notify_all()
                if message is None:
                    return
                _call(self._message_cb, message)
        finally:
            self._handing_out.release()

    # heartbeats and status

    def _pulse(self) -> None:
        while True:
            last_heard = self._pipe.last_peer_active_time
            with self._changed:
                if last_heard:
                    self._session.alive(last_heard)
                    self._changed.notify_all()  # who waits for the peer
                due = self._session.tick(time.monotonic())
                wake_at = self._session.next_tick()
            if due.heartbeat is not None:
                self._send_heartbeat(due.heartbeat)
            self._report(due.status)
            with self._changed:
                if self._stopped or wake_at is None or self._session.is_over:
                    return
                self._ending.wait_for(lambda: self._stopped or self._session.is_over, max(0.0, wake_at - time.monotonic()))

    def _send_heartbeat(self, number: int) -> None:
        try:
            with self._beating:
                if not self._session.has_left:
                    self._pipe.send(Message.new_request(Topic.HEARTBEAT, number))
        except BrokenPipeError as e:
            _log.debug("no heartbeat: %s", e)

    def end(self, topic: str, data: Any = None) -> None:
        """End the conversation as if the peer's status were `topic`: for what is known from elsewhere, as that its process died."""
        self._report(self._end(topic, data))

    def _end(self, topic: str, data: Any) -> Message | None:
        with self._changed:
            return None if self._stopped else self._session.end(topic, data)

    def _report(self, status: Message | None) -> None:
        if status is None:
            return
        _log.info("the peer's status is %s: %s", status.topic, status.data)
        self._pipe.peer_is_gone()
        self._over.trigger(f"the conversation is over: {status.topic.strip('_')}: {status.data}")
        with self._changed:
            if self._status_cb is None:
                self._session.queue(status)
            self._notify_everyone()
        if self._status_cb is not None:
            _call(self._status_cb, status)
        else:
            self._hand_out()


def _bound(name: str, callback: MessageCallback, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[Message], None]:
    if not callable(callback):
        raise TypeError(f"{name} must be callable, not {type(callback).__name__}")
    return lambda message: callback(message, *args, **kwargs)


def _call(callback: Callable[[Message], None], message: Message) -> None:
    try:
        callback(message)
    except Exception:  # noqa: BLE001  the user's mistake must not end the conversation
        _log.exception("a callback for %s %s raised", message.topic, message.msg_id)
