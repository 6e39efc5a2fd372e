"""What one conversation with a job has under way. Invariant owned here: its end decides exactly the tasks that were put into it."""

from __future__ import annotations

from dataclasses import dataclass, field

from zcell.agent.assignment import Assignment
from zcell.agent.task_offers import TaskOffers
from zcell.pipe.handler import PipeHandler
from zcell.pipe.message import Message
from zcell.pipe.session import PeerState


@dataclass(slots=True, eq=False)
class Conversation:
    """A handler with the tasks that wait for its answers. Every method is called with the dispatcher's lock held.

    Between the moment in which the job's last word was read and the one in which it is acted upon, the handler already knows
    that it is over while the next conversation has not begun: what cannot be handed out for that reason is `postpone`d.
    """

    handler: PipeHandler
    is_decided: bool = False
    """Whether its end was acted upon: what is put into it later would be waited for in vain."""
    _pending: dict[str, Assignment] = field(default_factory=dict)
    _postponed: list[Assignment] = field(default_factory=list)
    _offers: dict[str, TaskOffers] = field(default_factory=dict)
    """By message id; they stay when the caller has gone, for the job may be at that task."""

    @property
    def is_ending(self) -> bool:
        """Whether the job's last word was read: nothing can be handed out in it any more."""
        return self.handler.peer_state not in (PeerState.WAITING, PeerState.LIVE)

    def hand_out(self, assignment: Assignment) -> Message | None:
        """The message to send now; its answer, or the end, will be looked for here. None when the end was there first."""
        if self.is_decided:
            return None
        message = assignment.message()
        self._pending[message.msg_id] = assignment
        self._offers[message.msg_id] = TaskOffers(message)
        return message

    def postpone(self, assignment: Assignment) -> bool:
        """Keep `assignment` for whoever comes next; False when the end was there first."""
        if self.is_decided:
            return False
        self._postponed.append(assignment)
        return True

    def take(self, msg_id: str | None) -> Assignment | None:
        """The assignment of message `msg_id`, which is no longer waited for here; None when it has been decided."""
        return self._pending.pop(msg_id or "", None)

    def withdraw(self, msg_id: str | None) -> None:
        """The job has answered message `msg_id`, or never got it: what it referred to is no longer on offer."""
        offers = self._offers.pop(msg_id or "", None)
        if offers is not None:
            offers.withdraw()

    def end(self) -> tuple[dict[str, Assignment], list[Assignment]]:
        """Act upon the end: what was handed out, by message id, and what was postponed. Nothing is on offer any longer."""
        self.is_decided = True
        for msg_id in list(self._offers):
            self.withdraw(msg_id)
        ended = self._pending, self._postponed
        self._pending, self._postponed = {}, []
        return ended
