"""What an end is to its peer. Invariant owned here: what was begun before the peer took this end for dead is known as too late."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from zcell.pipe.marker import read_sign
from zcell.pipe.message import Message, MsgType

_MAX_REQUESTS = 1000


@dataclass(frozen=True, slots=True)
class Standing:
    """This end, as its `peer` sees it: how often that has taken it for dead while it was not."""

    peer: str
    times_given_up: int


class Standings:
    """What the incarnation `own` was to its peer when messages began: a reply when its request came, others when sent first."""

    def __init__(self, inbox: Path, own: str) -> None:
        self._inbox = inbox
        self._own = own
        self._of_requests: OrderedDict[str, Standing] = OrderedDict()

    def now(self, peer: str | None) -> Standing | None:
        """None when there is no peer that could say."""
        sign = None if peer is None else read_sign(self._inbox, peer)
        return None if peer is None or sign is None else Standing(peer, sign.seen.get(self._own, 0))

    def received(self, message: Message, peer: str | None) -> None:
        """Remember when a request came."""
        found = self.now(peer) if message.msg_type is MsgType.REQUEST else None
        if found is not None:
            self._of_requests[message.msg_id] = found
            if len(self._of_requests) > _MAX_REQUESTS:
                self._of_requests.popitem(last=False)

    def is_late(self, message: Message, peer: str | None, begun: Standing | None) -> bool:
        """Whether the peer gave this end up after `message` began; `begun`: when it was sent first."""
        before, now = self._of_requests.get(message.req_id or "", begun), self.now(peer)
        return before is not None and now is not None and before.peer == now.peer and before != now
