"""An owner and its job's side, over every transport."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.trees import SECRET, Tree, TreeFactory
from zcell import Cell
from zcell.workspace import JobContext, WorkspaceManager

JOB = "job-7"


class Site:
    """A site with a workspace, and contexts for jobs that it owns."""

    def __init__(self, tree: Tree, place: Path) -> None:
        self.tree = tree
        self.cell: Cell = tree["site-1"]
        self.manager = WorkspaceManager.of(self.cell)
        self.root = place / "owner"
        self.job_root = place / "job"
        self.root.mkdir()
        self.job_root.mkdir()
        self.contexts: list[JobContext] = []

    def add_job(self, job_id: str = JOB, **options: Any) -> JobContext:
        """Register a job at the owner, and the context that the job would have."""
        return self.context(self.manager.add_job(job_id, self.root, **options), job_id)

    def context(self, token: str, job_id: str = JOB, **options: Any) -> JobContext:
        context = JobContext(
            job_id=job_id,
            owner="site-1",
            parent_url=self.tree.listen_url("site-1"),
            token=token,
            secret=SECRET,
            root=options.pop("root", self.job_root),
            zmq_context=self.tree.context,
            **options,
        )
        self.contexts.append(context)
        return context

    def close(self) -> None:
        for context in self.contexts:
            context.close()


@pytest.fixture
def site(tree: TreeFactory, tmp_path: Path) -> Iterator[Site]:
    """`server` and below it `site-1`, which owns workspaces."""
    made = Site(tree("server", "site-1"), tmp_path)
    yield made
    made.close()


@pytest.fixture
def tcp_site(tcp_tree: TreeFactory, tmp_path: Path) -> Iterator[Site]:
    """The same over tcp alone, for what does not depend on the transport."""
    made = Site(tcp_tree("server", "site-1"), tmp_path)
    yield made
    made.close()
