"""Jobs as processes of their own, for tests. Invariant: such a process knows what a launcher would have told it, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.trees import SECRET
from zcell.workspace import JobContext

PREAMBLE = """
import os, sys
from pathlib import Path
from zcell.workspace import JobContext, download_workspace, upload_results
context = JobContext.from_env()
job = context.job_directory
"""


def job_environment(context: JobContext) -> dict[str, str]:
    """What a launcher leaves for a job: names and paths in the environment, secrets in a private file."""
    credentials = context.root.parent / f"{context.root.name}.credentials"
    credentials.touch(mode=0o600)
    credentials.write_text(json.dumps({"link_secret": SECRET.hex(), "transfer_token": context.token}))
    return os.environ | {
        "ZCELL_JOB_ID": context.job_id,
        "ZCELL_OWNER": context.owner,
        "ZCELL_PARENT": context.parent_url,
        "ZCELL_WORKSPACE": str(context.root),
        "ZCELL_CREDENTIALS": str(credentials),
    }


def start_job(context: JobContext, script: str) -> subprocess.Popen[str]:
    """A process that runs `script` with `context` and `job`, the job's directory, defined."""
    command = [sys.executable, "-c", PREAMBLE + script]
    return subprocess.Popen(command, env=job_environment(context), cwd=Path.cwd(), stdout=subprocess.PIPE, text=True)


def run_job(context: JobContext, script: str) -> str:
    """The same to its end; what it printed."""
    process = start_job(context, script)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    return output
