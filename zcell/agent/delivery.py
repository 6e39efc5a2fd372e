"""Whether a result has arrived everywhere, without I/O, threads or clock. Invariant owned here: a verdict never changes.

What is waited for is every pair of a ref (of a transaction) and a receiver. The decision table, first match wins:

| what is known                                                                    | verdict                            |
|----------------------------------------------------------------------------------|------------------------------------|
| every transaction reported FINISHED, or has all its pairs completed and reported | delivered                          |
| all pairs completed, some report missing for `grace`, or the wait is abandoned   | delivered                          |
| the wait is abandoned                                                            | failed: abandoned                  |
| a pair failed or was aborted                                                     | failed: failed, aborted            |
| a transaction ended otherwise with pairs missing                                 | failed: its status                 |
| `idle_timeout` None: `complete_timeout` has passed                               | delivered, with a warning          |
| a pair that started made no progress for `idle_timeout`                          | failed: stalled                    |
| a pair has not started, and nothing moved anywhere for `idle_timeout`            | failed: never started              |
| anything else                                                                    | pending                            |

Events that name no transaction while several offer a ref of that id, and events of receivers nobody expects, change nothing;
they are counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum


class Verdict(StrEnum):
    """What became of a result."""

    PENDING = "PENDING"
    DELIVERED = "DELIVERED"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict, and for people why."""

    verdict: Verdict
    reason: str = ""
    warning: bool = False


_PENDING = Decision(Verdict.PENDING)


@dataclass(slots=True)
class _Pair:
    advanced_at: float
    bytes_done: int = 0
    started: bool = False
    state: str = "ACTIVE"


@dataclass(slots=True)
class _Transaction:
    tx_id: str
    expected: int
    """How many receivers each ref has."""
    named: frozenset[str] | None
    refs: dict[str, dict[str, _Pair]]
    """The pairs by ref and receiver; those of unnamed receivers appear when they start."""
    status: str = ""

    @property
    def is_complete(self) -> bool:
        return self.status == "FINISHED" or all(
            sum(p.state == "COMPLETED" for p in pairs.values()) >= self.expected for pairs in self.refs.values()
        )


@dataclass(slots=True)
class DeliveryWait:
    """One result's wait. Times are seconds of any growing clock; the driver calls `decide` after events and at `next_check`.

    `idle_timeout` None: wait `complete_timeout` seconds in all, then call it delivered with a warning.
    """

    started_at: float
    idle_timeout: float | None
    complete_timeout: float = 1800.0
    grace: float = 2.0
    ambiguous: int = 0
    unexpected: int = 0
    _transactions: dict[str, _Transaction] = field(default_factory=dict)
    _last_advance: float = 0.0
    _completed_at: float | None = None
    _abandoned: str | None = None
    _decision: Decision = _PENDING

    def __post_init__(self) -> None:
        self._last_advance = self.started_at

    def offered(self, tx_id: str, ref_ids: Sequence[str], receivers: Sequence[str] | int, now: float) -> None:
        """Wait for `ref_ids` of `tx_id` to reach `receivers`: their names, or how many there will be."""
        if isinstance(receivers, int):
            expected, named = receivers, None
        else:
            expected, named = len(set(receivers)), frozenset(receivers)
        pairs = {ref: {name: _Pair(now) for name in named or ()} for ref in ref_ids}
        self._transactions[tx_id] = _Transaction(tx_id, expected, named, pairs)
        self._last_advance = max(self._last_advance, now)

    def progress(self, tx_id: str | None, ref_id: str, receiver: str, bytes_done: int, state: str, now: float) -> None:
        """One receiver's counters of one ref; `state` is ACTIVE, COMPLETED, FAILED or ABORTED."""
        pair = self._pair(tx_id, ref_id, receiver, now)
        if pair is None or pair.state != "ACTIVE":
            return
        if not pair.started or bytes_done > pair.bytes_done or state != "ACTIVE":
            pair.started = True
            pair.bytes_done = max(pair.bytes_done, bytes_done)
            pair.advanced_at = now
            self._last_advance = max(self._last_advance, now)
        pair.state = state

    def _pair(self, tx_id: str | None, ref_id: str, receiver: str, now: float) -> _Pair | None:
        candidates = [t for t in self._transactions.values() if ref_id in t.refs and tx_id in (None, t.tx_id)]
        if len(candidates) > 1:
            self.ambiguous += 1
            return None
        if not candidates:
            self.unexpected += 1
            return None
        transaction = candidates[0]
        pairs = transaction.refs[ref_id]
        if receiver not in pairs:
            if transaction.named is not None or len(pairs) >= transaction.expected:
                self.unexpected += 1
                return None
            pairs[receiver] = _Pair(now)
        return pairs[receiver]

    def done(self, tx_id: str, status: str, now: float) -> None:
        """The completion callback of a transaction: FINISHED, TIMEOUT, DELETED or ABORTED."""
        transaction = self._transactions.get(tx_id)
        if transaction is None:
            self.unexpected += 1
        elif not transaction.status:
            transaction.status = status
            self._last_advance = max(self._last_advance, now)

    def abandon(self, reason: str) -> None:
        """Nobody waits any longer: the agent stops, its pipe closed, or the message itself was not sent."""
        if self._abandoned is None:
            self._abandoned = reason

    def decide(self, now: float) -> Decision:
        """The decision at `now`; once it is not PENDING it stays."""
        if self._decision.verdict is Verdict.PENDING:
            self._decision = self._look(now)
        return self._decision

    def _look(self, now: float) -> Decision:
        if all(t.is_complete for t in self._transactions.values()):
            return self._complete(now)
        if self._abandoned is not None:
            return Decision(Verdict.FAILED, f"abandoned before it was delivered: {self._abandoned}")
        for check in (self._ended_badly, self._out_of_time):
            decision = check(now)
            if decision is not None:
                return decision
        return _PENDING

    def _complete(self, now: float) -> Decision:
        if self._completed_at is None:
            self._completed_at = now
        unreported = [t.tx_id for t in self._transactions.values() if not t.status]
        if not unreported or self._abandoned is not None or now - self._completed_at >= self.grace:
            return Decision(Verdict.DELIVERED)
        return _PENDING

    def _ended_badly(self, now: float) -> Decision | None:
        for transaction in self._transactions.values():
            for ref_id, pairs in transaction.refs.items():
                for receiver, pair in pairs.items():
                    if pair.state in ("FAILED", "ABORTED"):
                        what = f"{receiver}'s transfer of {ref_id} in transaction {transaction.tx_id}"
                        return Decision(Verdict.FAILED, f"{what} {'failed' if pair.state == 'FAILED' else 'was aborted'}")
            if transaction.status and not transaction.is_complete:
                return Decision(Verdict.FAILED, f"transaction {transaction.tx_id} ended as {transaction.status}")
        return None

    def _out_of_time(self, now: float) -> Decision | None:
        if self.idle_timeout is None:
            if now - self.started_at < self.complete_timeout:
                return None
            reason = f"not confirmed within {self.complete_timeout:g} s; taken for delivered"
            return Decision(Verdict.DELIVERED, reason, warning=True)
        for transaction in self._transactions.values():
            if transaction.status == "FINISHED":
                continue
            for ref_id, pairs in transaction.refs.items():
                where = f"{ref_id} in transaction {transaction.tx_id}"
                for receiver, pair in pairs.items():
                    if pair.started and pair.state == "ACTIVE" and now - pair.advanced_at >= self.idle_timeout:
                        text = f"{receiver}'s transfer of {where} stalled: no progress for {self.idle_timeout:g} s"
                        return Decision(Verdict.FAILED, text)
                unstarted = transaction.expected - sum(p.started for p in pairs.values())
                if unstarted > 0 and now - self._last_advance >= self.idle_timeout:
                    names = ", ".join(sorted(n for n, p in pairs.items() if not p.started)) or f"{unstarted} receivers"
                    text = f"the transfer of {where} to {names} never started: nothing moved for {self.idle_timeout:g} s"
                    return Decision(Verdict.FAILED, text)
        return None

    def next_check(self, now: float) -> float | None:
        """When `decide` may have another answer without another event; None when it is decided."""
        if self._decision.verdict is not Verdict.PENDING:
            return None
        if self._completed_at is not None:
            return self._completed_at + self.grace
        if self.idle_timeout is None:
            return self.started_at + self.complete_timeout
        pairs = [p for t in self._transactions.values() for of_ref in t.refs.values() for p in of_ref.values()]
        moments = [p.advanced_at for p in pairs if p.started and p.state == "ACTIVE"]
        return min([*moments, self._last_advance]) + self.idle_timeout
