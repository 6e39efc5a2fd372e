"""Tasks, results and metrics between a parent and its running job: `Agent` in the job, `TaskExchange` in the parent."""

from zcell.agent.agent import Agent
from zcell.agent.errors import AgentAborted, AgentClosed, AgentEnded, AgentFinished, AgentPeerGone, CallStateError
from zcell.agent.exchange import TaskExchange
from zcell.agent.task import Cause, Result, Task, TaskError

__all__ = [
    "Agent",
    "AgentAborted",
    "AgentClosed",
    "AgentEnded",
    "AgentFinished",
    "AgentPeerGone",
    "CallStateError",
    "Cause",
    "Result",
    "Task",
    "TaskError",
    "TaskExchange",
]
