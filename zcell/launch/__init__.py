"""Launching jobs: what a job is, what starts it, what is held while it runs, and the job's own side of it."""

from zcell.launch.handle import JobHandle
from zcell.launch.launcher import Launcher, LifecycleHook
from zcell.launch.selection import Selection, launcher_names, load_launcher, select_launcher
from zcell.launch.spec import JobReturnCode, JobSpec, JobState

__all__ = [
    "JobHandle",
    "JobReturnCode",
    "JobSpec",
    "JobState",
    "Launcher",
    "LifecycleHook",
    "Selection",
    "launcher_names",
    "load_launcher",
    "select_launcher",
]
