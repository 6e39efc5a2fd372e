"""A parent that is paused for longer than its job has patience goes on with the next job when it returns, over any pipe."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.agent.conftest import KINDS_FOR_PROCESSES, Place
from tests.agent.job import Job
from tests.agent.parent import Parent
from zcell.pipe import Mode

pytestmark = pytest.mark.parametrize("pairs", KINDS_FOR_PROCESSES, indirect=True)


@contextmanager
def _parent(place: Place) -> Iterator[Parent]:
    pipe = place.pairs.build(Mode.PASSIVE, place.token)
    path, kwargs = pipe.export(Mode.PASSIVE)
    pipe.close()
    with Parent(path, kwargs) as parent:
        yield parent


@pytest.mark.parametrize("task", [None, "outlast"])
def test_a_parent_paused_for_too_long_goes_on_with_the_next_job(place: Place, task: str | None) -> None:
    with _parent(place) as parent:
        env = parent.job_environment()
        with Job("tell", env) as job:
            job.expect("ready")
            parent.expect("done")
            if task is not None:
                parent.ask(task)
                job.expect("holding")
            parent.process.send_signal(signal.SIGSTOP)
            job.expect("AgentPeerGone")
            assert job.wait() == 0
        parent.process.send_signal(signal.SIGCONT)
        if task is not None:
            ended = parent.read()
            assert ended.startswith("PEER_GONE the job is gone: "), ended
        with Job("tell", env) as second:
            second.expect("ready")
            parent.ask("again")
            said = parent.read()
            if said.startswith("PEER_GONE"):  # it had been handed to the job that was gone
                parent.ask("again")
                said = parent.read()
            assert said == "COMPLETED"
            second.expect("submitted True")
            parent.process.communicate("")
            assert parent.process.returncode == 0
            second.expect("ended")
