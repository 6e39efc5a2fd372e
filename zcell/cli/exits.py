"""Exit codes of the command line. Invariant: one failure has one code, the same for every command."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

from zcell.errors import (
    BundleError,
    DownloadError,
    EngineUnreachableError,
    KernelError,
    LaunchError,
    LinkError,
    RequestError,
    ZcellError,
)

DONE = 0
USAGE = 2
LINK = 3
TRANSFER = 4
VERIFICATION = 5
INTERRUPTED = 130
UNREAD = 141
"""Nobody reads the output any more: as if SIGPIPE had ended it."""

EPILOG = (
    "Exit codes: 0 done; for run, the job's own code, 1 when its engine ended it; 2 usage (a wrong argument, a file that is not there, "
    "a job that cannot be started, output that cannot be written); 3 connection or identity refused, an engine that does not answer; "
    "4 transfer failed; 5 verification failed; 130 interrupted."
)
BY_FAILURE = {"start": USAGE, "link": LINK, "transfer": TRANSFER, "verification": VERIFICATION}

P = ParamSpec("P")


class CommandError(Exception):
    """A command that cannot go on; `code` is its exit code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def exit_code_of(error: BaseException) -> int | None:
    """The exit code for `error`, None when it is a defect of zcell and deserves its traceback."""
    match error:
        case CommandError():
            return error.code
        case KeyboardInterrupt():
            return INTERRUPTED
        case LinkError() | RequestError() | EngineUnreachableError():
            return LINK
        case DownloadError():
            return {"denied": LINK, "link": LINK, "corrupt": VERIFICATION, "aborted": INTERRUPTED}.get(error.reason, TRANSFER)
        case BundleError() | LaunchError(__cause__=BundleError()):
            return VERIFICATION
        case LaunchError() | KernelError() | OSError() | ValueError():
            return USAGE
        case ZcellError():
            return TRANSFER
    return None


def reports_errors(command: Callable[P, int]) -> Callable[P, None]:
    """Make a function that returns an exit code into a command: failures become one line on stderr and their exit code."""
    import typer

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        from zcell.cli.outlet import STDOUT
        from zcell.cli.screen import Screen

        screen = Screen(json=bool(kwargs.get("json")))
        try:
            code = command(*args, **kwargs)
        except (KeyboardInterrupt, Exception) as error:
            known = exit_code_of(error)
            if known is None:
                raise
            screen.failure(error, known)
            code = known
        if STDOUT.fault:
            screen.note(f"standard output cannot be written: {STDOUT.fault}")
            code = code or USAGE
        raise typer.Exit(code)

    return wrapped
