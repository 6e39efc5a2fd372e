"""The job's side of a workspace, in its own process: ``job JOB_ID OWNER_URL``."""

from __future__ import annotations

import sys
from pathlib import Path

from bench.answering import serve
from bench.cells import SECRET
from zcell.workspace import JobContext, download_workspace, upload_results


def main() -> None:
    job_id, url = sys.argv[1:]

    def context(token: str, root: str) -> JobContext:
        return JobContext(job_id, "server", url, token, SECRET, Path(root))

    def down(token: str, root: str) -> int:
        """Connect, fetch, disconnect; how many files came over the wire."""
        with context(token, root) as ctx:
            received = download_workspace(ctx)
            assert received is not None
            return received.fetched_files

    def up(token: str, root: str) -> int:
        """The same for results."""
        received = upload_results(context(token, root))
        assert received is not None
        return received.fetched_files

    serve("ready", {"down": down, "up": up})


if __name__ == "__main__":
    main()
