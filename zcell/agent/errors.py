"""What the agent raises. Invariant owned here: every way in which a job's conversation ends has a class of its own."""

from __future__ import annotations

from zcell.errors import ZcellError
from zcell.pipe.message import Topic


class AgentClosed(ZcellError):
    """There will be no further task: the agent was stopped here, or one of the subclasses says what the other side did."""


class AgentFinished(AgentClosed):
    """This process was for one task, and its result is delivered: it is time to exit."""


class AgentEnded(AgentClosed):
    """The parent has ended the conversation normally."""


class AgentAborted(AgentClosed):
    """The parent wants the job to give up at once."""


class AgentPeerGone(AgentClosed):
    """The parent has not been heard for too long, or the way to it broke."""


class CallStateError(ZcellError, RuntimeError):
    """A call at the wrong moment, as asking for a task while the current one has no result."""


_OF_STATUS = {Topic.END: AgentEnded, Topic.ABORT: AgentAborted, Topic.PEER_GONE: AgentPeerGone}


def closed_by(topic: str, data: object) -> AgentClosed:
    """What the status message `topic` of the peer means to the agent's user."""
    words = {Topic.END: "the parent has ended", Topic.ABORT: "the parent aborts", Topic.PEER_GONE: "the parent is gone"}
    return _OF_STATUS[topic](f"{words[topic]}: {data}" if data else words[topic])
