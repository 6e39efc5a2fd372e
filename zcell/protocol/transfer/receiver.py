"""The asking end of one transfer. Invariant: it ends COMPLETED with every chunk verified, or FAILED with one named reason.

Drive it so: call a method for what happened, then carry out `take_actions()`, then call `tick` no later than `next_tick()`.
Not thread-safe: the driver guards it.
"""

from __future__ import annotations

from zcell.protocol.transfer import actions as act
from zcell.protocol.transfer.asking import MOVING, Asking, differ, shown
from zcell.protocol.transfer.messages import AskRoot
from zcell.protocol.transfer.repair import Repair
from zcell.protocol.transfer.states import ReceiverEvent, ReceiverState

MAX_REPAIRS = 3
"""Rounds of fetching chunks again because the root differs."""


class Receiver(Asking):
    """One download; see `Asking` for the arguments."""

    # --- the end -----------------------------------------------------------------------------------------------------------

    def _compare(self, now: float) -> None:
        self._patience.progress(now)
        if not self._root_known:
            self._ask_root(now)
        elif self._root is None:
            self._root_matches()
        elif not self._asking:
            self._asking = True
            self._actions.append(act.CompareRoot(self._root))

    def _ask_root(self, now: float) -> None:
        self._actions.append(act.Post(AskRoot(self.stream)))
        self._patience.retry(now)

    def busy(self, work: int, now: float) -> None:
        """The sender is still hashing; `work` says how far."""
        if self.finished:
            return
        self._patience.heard(now, self._ledger.window.delay)
        if work > self._busy_work:
            self._patience.progress(now)
        self._busy_work = work

    def root(self, root: bytes | None, size: int, now: float) -> None:
        """The sender's root over all its chunks; None when it verifies by checksum."""
        description = self.description
        if self.state not in MOVING or description is None or self._root_known:
            return
        if differ(self._ledger.size, size) or (root is None) != (self.verify == "checksum"):
            self.fail("source_failed", f"the source now has {size} bytes, expected {self._ledger.size}")
            return
        self._root, self._root_known = root, True
        if self.state is ReceiverState.COMPARING:
            self._compare(now)

    def root_compared(self, matches: bool, now: float) -> None:
        """The answer to `CompareRoot`."""
        self._asking = False
        if self.state is not ReceiverState.COMPARING:
            return
        self._patience.progress(now)
        if matches:
            self._root_matches()
        elif self._repairs == MAX_REPAIRS:
            self.fail("corrupt", f"the digest still differs from {shown(self._root)} after {MAX_REPAIRS} repairs")
        else:
            self._repairs += 1
            self._repair = Repair(self.table, self._ledger.chunks or 0)
            self._move(ReceiverEvent.ROOT_DIFFERS)
            self._request_page()

    def _root_matches(self) -> None:
        self._move(ReceiverEvent.ROOT_MATCHES)
        assert self._ledger.size is not None
        self._actions.append(act.Publish(self._ledger.size, self._root))

    def _request_page(self) -> None:
        assert self._repair is not None
        self._patience.retry_at = None
        self._actions.append(act.RequestDigests(*self._repair.page()))

    def digests(self, first: int, data: bytes, now: float) -> None:
        """The sender's chunk digests from `first` on: those that differ from ours are wrong here and fetched again."""
        repair = self._repair
        if self.state is not ReceiverState.REPAIRING or repair is None or first != repair.page()[0]:
            return
        if not repair.compare(data):
            self.fail("corrupt", f"asked for {repair.page()[1]} chunk digests, got {len(data)} bytes")
            return
        self._patience.progress(now)
        if not repair.complete:
            self._request_page()
        elif repair.differing:
            self._fetch_again(tuple(repair.differing), now)
        else:
            self.fail("corrupt", f"every chunk agrees, yet the digest differs from {shown(self._root)}")

    def _fetch_again(self, indices: tuple[int, ...], now: float) -> None:
        for index in indices:
            self._ledger.drop(index)
        self._actions.append(act.Drop(indices))
        announced = self.description.root if self.description and self.verify == "tree" else None
        self._root, self._root_known = announced, announced is not None
        self._repair = None
        self._move(ReceiverEvent.CHUNKS_DROPPED)
        self._pump(now)

    def published(self, now: float) -> None:
        """The object has its final name."""
        if self.state is ReceiverState.PUBLISHING:
            self._patience.progress(now)
            self._move(ReceiverEvent.PUBLISHED)
            self._request_confirm()

    def _request_confirm(self) -> None:
        self._patience.retry_at = None
        self._actions.append(act.RequestConfirm())

    def confirm_answered(self) -> None:
        """The owner knows (or no longer cares) that the object is stored."""
        if self.state is ReceiverState.CONFIRMING:
            self._complete(confirmed=True)

    def _complete(self, confirmed: bool) -> None:
        self.confirmed = confirmed
        self._move(ReceiverEvent.CONFIRMED)
        self._actions.append(act.Complete(confirmed))

    # --- trouble and time --------------------------------------------------------------------------------------------------

    def source_failed(self, reason: str, text: str) -> None:
        """The sender cannot go on."""
        if self.state is not ReceiverState.CONFIRMING:
            self.fail(reason, text)

    def cancel(self, text: str) -> None:
        """The caller aborts. A verified object under its final name stays a success."""
        if self.state is ReceiverState.CONFIRMING:
            self._complete(confirmed=False)
        else:
            self.fail("aborted", text)

    def tick(self, now: float) -> None:
        """Time has passed."""
        if self.finished:
            return
        reason = self._patience.out(now, local=self._is_local())
        if reason and self.state is ReceiverState.CONFIRMING:
            self._complete(confirmed=False)
        elif reason:
            self.fail(*reason)
        elif self._patience.retry_at is not None and now >= self._patience.retry_at:
            self._retry(now)
        elif self.state is ReceiverState.RECEIVING and not self._opening and self._patience.probe_due(now):
            if self._ledger.waiting:
                self._probe(now)
            else:
                self._pump(now)

    def _retry(self, now: float) -> None:
        self._patience.retry_at = None
        if self._opening:
            self._open(now)
        elif self.state is ReceiverState.COMPARING and not self._root_known:
            self._ask_root(now)
        elif self.state is ReceiverState.REPAIRING:
            self._request_page()
        elif self.state is ReceiverState.CONFIRMING:
            self._request_confirm()
