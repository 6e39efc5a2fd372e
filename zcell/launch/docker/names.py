"""Names of containers. Invariant: a name is one that Docker accepts, and follows from site and job id alone."""

from __future__ import annotations

import re

DEFAULT_NAME = "zcell-job"
_MAX_LENGTH = 128


def container_name(site: str, job_id: str) -> str:
    """``SITE-JOB`` in lower case, all but ``[a-z0-9_.-]`` made to ``-``, without ``-`` at its ends; `DEFAULT_NAME` if empty.

    Docker wants a letter or digit first (``[a-zA-Z0-9][a-zA-Z0-9_.-]+``), so ``_`` and ``.`` go from the front as well.
    """
    text = re.sub(r"[^a-z0-9_.-]", "-", f"{site}-{job_id}".lower())
    name = text[:_MAX_LENGTH].strip("-").lstrip("-_.").rstrip("-")
    return name if len(name) > 1 else DEFAULT_NAME
