"""The job's side: ``python -m zcell.launch.job -- COMMAND...``. Invariant: the command's own exit code comes out at the end.

In order: fetch the workspace, run the command in the job's directory, end what it left running, bring the results back. SIGTERM
ends the command with grace and the results are still brought back; when the parent is gone everything ends. Exits with the
command's code, 128 + N when signal N ended it, or, when the files could not travel and the command has no failure of its own to
report: 3 no link, 4 transfer failed, 5 verification failed.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zcell.errors import BundleError, DownloadError, LinkError, WorkspaceError, ZcellError
from zcell.launch.code import with_code
from zcell.launch.command import LEFTOVER_GRACE, Command
from zcell.launch.credentials import VARIABLE, remove_credentials
from zcell.launch.family import adopt_orphans
from zcell.launch.lease import Lease, Phase, Report
from zcell.launch.scratch import Scratch
from zcell.launch.watch import Watch
from zcell.workspace.context import JobContext
from zcell.workspace.transfer import download_workspace, upload_results

log = logging.getLogger("zcell.job")

EXIT_CODES = {"link": 3, "transfer": 4, "verification": 5}
STOPPED = 128 + signal.SIGTERM


def classify_failure(error: Exception) -> str:
    """What kept files from travelling: ``link``, ``transfer`` or ``verification``."""
    if isinstance(error, LinkError):
        return "link"
    if isinstance(error, BundleError) or (isinstance(error, DownloadError) and error.reason == "corrupt"):
        return "verification"
    if isinstance(error, WorkspaceError) and error.rc in {"UNAUTHENTICATED", "AUTHENTICATION_ERROR", "TARGET_UNREACHABLE"}:
        return "link"
    if isinstance(error, WorkspaceError) and error.rc == "INVALID_REQUEST":  # how an owner refuses a bundle
        return "verification"
    return "transfer"


class JobRunner:
    """One job, from its workspace to its results."""

    def __init__(self, argv: Sequence[str], grace: float) -> None:
        self._context = JobContext.from_env()
        # a job without a link called "latest" is better than no results at all
        self._context.skip_links = True
        credentials = os.environ.get(VARIABLE)
        self._credentials = Path(credentials) if credentials else None
        self._directory = self._context.job_directory if self._context.owner else _empty_job_directory()
        self._command = Command(argv, self._directory, self._credentials)
        self._watch = Watch(self._command, Lease.from_env(), grace)
        scratch = os.environ.pop("ZCELL_SCRATCH", "")
        self._scratch = Scratch(Path(scratch)) if scratch else None

    def run(self) -> int:
        """The exit code of the whole job."""
        adopt_orphans()
        self._watch.start()
        try:
            return self._run()
        finally:
            self._context.close()
            self._watch.stop()
            self._clean_up()

    def _run(self) -> int:
        try:
            shipped = self._download()
        except (ZcellError, OSError) as error:
            return self._files_failed(error, None)
        self._watch.say(Report(Phase.COMMAND, files=shipped))
        code = self._command.run(with_code(os.environ, self._directory.parent))
        if not self._command.end_leftovers(0.0 if self._watch.stopping.triggered else LEFTOVER_GRACE):
            log.warning("some processes that the command started cannot be ended")
        try:
            results = self._upload(code)
        except Exception as error:  # whatever it is, the command's own code must come out
            if not isinstance(error, ZcellError | OSError):
                log.error("a defect kept the results from being brought back", exc_info=error)
            return self._files_failed(error, code)
        self._watch.say(Report(Phase.ENDED, code, files=results))
        return code

    def _download(self) -> dict[str, Any] | None:
        self._watch.say(Report(Phase.DOWNLOAD))
        self._context.abort = self._watch.stopping
        received = download_workspace(self._context)
        self._directory.mkdir(parents=True, exist_ok=True)  # of a workspace that has nothing for this job yet
        return received.to_dict() if received is not None else None

    def _upload(self, code: int) -> dict[str, Any] | None:
        self._watch.say(Report(Phase.UPLOAD, code))
        self._context.abort = self._watch.forsaken
        received = upload_results(self._context)
        return received.to_dict() if received is not None else None

    def _files_failed(self, error: Exception, code: int | None) -> int:
        """Tell why files could not travel; the exit code."""
        if self._watch.stopping.triggered and code is None:
            return STOPPED
        failure = classify_failure(error)
        doing = "its workspace did not arrive" if code is None else "its results could not be brought back"
        text = f"{doing}: {error}"
        if not self._watch.is_heard:
            print(f"zcell job: {text}", file=sys.stderr)  # noqa: T201  the job's own stderr
        self._watch.say(Report(Phase.ENDED, code, failure, text))
        return code or EXIT_CODES[failure]

    def _clean_up(self) -> None:
        if self._credentials is not None:
            remove_credentials(self._credentials)
        if self._scratch is not None:
            if self._watch.forsaken.triggered:  # nobody else is left to do it
                self._scratch.remove()
            self._scratch.release()


def _empty_job_directory() -> Path:
    """Where the command runs when no workspace belongs to the job."""
    root = os.environ.get("ZCELL_WORKSPACE")
    return Path(root, os.environ.get("ZCELL_JOB_ID", "")) if root else Path.cwd()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line of the job's side."""
    parser = argparse.ArgumentParser(prog="python -m zcell.launch.job", description=__doc__)
    parser.add_argument("--grace", type=float, default=10.0, help="seconds between SIGTERM and SIGKILL for the command")
    parser.add_argument("command", nargs="+", help="program and arguments, after --")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="zcell job: %(levelname)s: %(message)s", stream=sys.stderr)
    logging.getLogger("zcell.security").setLevel(logging.ERROR)  # the parent has warned already, of the same address
    try:
        return JobRunner(options.command, options.grace).run()
    except (ZcellError, OSError, ValueError) as error:
        print(f"zcell job: {error}", file=sys.stderr)  # noqa: T201  the job's own stderr
        return EXIT_CODES[classify_failure(error)]


if __name__ == "__main__":
    sys.exit(main())
