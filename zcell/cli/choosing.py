"""Which launcher ``zcell run`` uses, and how its job reaches the command. Invariant: nothing is opened that was not asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zcell.cell.endpoints import is_local
from zcell.cli.exits import USAGE, CommandError
from zcell.launch.launcher import Launcher
from zcell.launch.selection import load_launcher


@dataclass(frozen=True)
class LauncherChoice:
    """What the command line says of the launcher."""

    name: str
    settings: Mapping[str, Any]
    more: Sequence[str]
    """``NAME=VALUE``, each value JSON or, when it is none, text."""
    listen: str | None
    insecure: bool

    def make(self) -> Launcher:
        """The launcher. Raises `LaunchError`, or `CommandError` for a setting that is no ``NAME=VALUE``."""
        kind = load_launcher(self.name)
        settings = dict(kind.command_settings) | dict(self.settings) | dict(map(_setting, self.more))
        if self.insecure and kind.goes_elsewhere:
            settings.setdefault("insecure", True)
        return kind(settings)

    def endpoints(self, launcher: Launcher) -> list[str]:
        """Where the job's parent listens. Raises `CommandError` for what others reach, unless that was asked for."""
        endpoints = launcher.endpoints() if self.listen is None else [self.listen]
        beyond = [url for url in endpoints if url.startswith("tcp://") and not is_local(url)]
        if beyond and not self.insecure:
            raise CommandError(
                USAGE,
                f"a {self.name} job reaches this command at {beyond[0]}, which others may reach too: add --insecure to accept that "
                "what travels can be read and altered on the way (the link secret is still proved by both sides)",
            )
        return endpoints


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise CommandError(USAGE, f"--set {text}: expected NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
