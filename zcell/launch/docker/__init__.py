"""The Docker launcher: jobs in containers."""

from zcell.launch.docker.launcher import DockerLauncher

__all__ = ["DockerLauncher"]
