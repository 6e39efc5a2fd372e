"""Jobs that an engine runs elsewhere: what their node says over the cell tree and what the engine says of them, put together."""

from zcell.launch.remote.course import EngineState, EngineView, Outcome
from zcell.launch.remote.engine import Engine, EngineError
from zcell.launch.remote.handle import RemoteHandle
from zcell.launch.remote.launcher import RemoteLauncher

__all__ = ["Engine", "EngineError", "EngineState", "EngineView", "Outcome", "RemoteHandle", "RemoteLauncher"]
