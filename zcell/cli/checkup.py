"""``zcell doctor --launcher NAME``. Invariant: what was started has ended and is removed, and the first failure gives the exit code."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING

from zcell.cli.exits import BY_FAILURE, DONE, USAGE, CommandError
from zcell.cli.interrupt import Interrupts
from zcell.cli.run import OWNER
from zcell.cli.screen import Screen
from zcell.errors import LaunchError
from zcell.launch.checkup import Check, failure_of, page_of
from zcell.launch.selection import load_launcher

if TYPE_CHECKING:
    from zcell.abort import Abort
    from zcell.cli.choosing import LauncherChoice
    from zcell.launch.launcher import Launcher

LEFT_LIMIT = 60.0
"""Seconds that an engine may take to remove what belongs to jobs that have ended."""
EXTRAS = ("docker", "kubernetes")
"""Launchers that need more packages than zcell does."""
_LOOK = 0.5


class Report:
    """Prints what is found, one line each."""

    def __init__(self, screen: Screen) -> None:
        self.screen = screen
        self.code = DONE
        self._failed = self._all = 0

    def add(self, check: Check) -> None:
        advice = f". {'Do' if check.failure else 'Note'}: {check.advice}" if check.advice else ""
        said = " ".join(f"{check.text}{advice}".split())  # an engine's own words may have lines of their own
        text = f"{check.name:<26} {'ok' if check.ok else 'FAILED':<7} {said}"
        self.screen.result("finding", text, name=check.name, ok=check.ok, text=check.text, advice=check.advice)
        self._all += 1
        self._failed += not check.ok
        self.code = self.code or (BY_FAILURE | {"usage": USAGE, "": DONE})[check.failure]

    def conclude(self, code: int) -> None:
        """Say how it came out."""
        if self.screen.json:
            self.screen.result("summary", ok=code == DONE, exit_code=code, checks=self._all, failed=self._failed)
        elif code == DONE:
            self.screen.note(f"all {self._all} checks went well")
        else:
            self.screen.note(f"{self._failed} of {self._all} checks failed; what would have come after them was not tried")


def check_launcher(choice: LauncherChoice, *, limit: float, json: bool) -> int:
    """Ask the engine, run three tiny jobs there, look whether anything is left; the exit code."""
    report = Report(Screen(json=json))
    with Interrupts() as interrupts:
        launcher = _made(choice, report)
        if launcher is not None:
            with closing(launcher):
                _asked(choice, launcher, report, limit, interrupts.abort)
    code = interrupts.exit_code or report.code
    report.conclude(code)
    return code


def _made(choice: LauncherChoice, report: Report) -> Launcher | None:
    try:
        kind = load_launcher(choice.name)
    except LaunchError as error:
        install = f"pip install 'zcell[{choice.name}]', or " if choice.name in EXTRAS else ""
        report.add(Check("launcher", str(error), "usage", f"{install}name one that is installed"))
        return None
    report.add(Check("launcher", f"{choice.name} ({kind.__module__})"))
    try:
        return choice.make()
    except (LaunchError, CommandError) as error:
        report.add(Check("settings", str(error), "usage", f"see {page_of(choice.name)}, Settings"))
        return None


def _asked(choice: LauncherChoice, launcher: Launcher, report: Report, limit: float, abort: Abort) -> None:
    for check in launcher.examine():
        report.add(check)
        if abort.triggered:
            return
    if report.code == DONE:
        _tried(choice, launcher, report, limit, abort)


def _tried(choice: LauncherChoice, launcher: Launcher, report: Report, limit: float, abort: Abort) -> None:
    from zcell.cell import Cell
    from zcell.cli.trial import Trial
    from zcell.security.secret import new_secret

    try:
        endpoints = choice.endpoints(launcher)
    except (LaunchError, CommandError) as error:
        report.add(Check("address", str(error), failure_of(error), "see docs/howto-networks.md"))
        return
    with Cell(OWNER, listen=endpoints, insecure=choice.insecure, secret=new_secret()) as cell:
        report.add(Check("address", f"listening on {', '.join(cell.endpoints)}"))
        trial = Trial(launcher, cell, limit=limit, abort=abort, note=report.screen.note)
        for check in trial.checks():
            report.add(check)
    _cleared(launcher, report)


def _cleared(launcher: Launcher, report: Report) -> None:
    """Also after an interrupt: what is left then is to be known."""
    end, pause = time.monotonic() + LEFT_LIMIT, threading.Event()
    try:
        while (check := launcher.left()) is not None and not check.ok and time.monotonic() < end:
            pause.wait(_LOOK)
    except LaunchError as error:
        check = Check("nothing is left", str(error), "link", "ask the engine again later")
    if check is not None:
        report.add(check)
