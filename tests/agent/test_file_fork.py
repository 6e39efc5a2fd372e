"""A conversation belongs to the process that began it: what its forked children do as they end does not end it, over any pipe."""

from __future__ import annotations

import pytest

from tests.agent.conftest import KINDS_FOR_PROCESSES, Place
from tests.agent.job import Job
from tests.agent.parent import Parent
from zcell.pipe import Mode

pytestmark = pytest.mark.parametrize("pairs", KINDS_FOR_PROCESSES, indirect=True)


def test_a_forked_child_of_the_job_that_exits_leaves_the_conversation_alone(place: Place) -> None:
    exchange = place.exchange(peer_timeout=30)
    with Job("fork", exchange.job_environment(heartbeat_timeout=60)) as job:
        for number in range(3):
            assert exchange.run("t", number, timeout=30).raise_for_cause().data == number
            job.expect("child 0")
            job.expect("submitted True")
        exchange.stop()
        assert job.wait() == 0


def test_a_forked_child_of_the_parent_that_exits_leaves_the_conversation_alone(place: Place) -> None:
    pipe = place.pairs.build(Mode.PASSIVE, place.token)
    path, kwargs = pipe.export(Mode.PASSIVE)
    pipe.close()
    with Parent(path, kwargs, "fork") as parent, Job("tell", parent.job_environment()) as job:
        parent.expect("done")
        parent.process.communicate("")
        assert parent.process.returncode == 0
        job.expect("ended")
        assert job.wait() == 0
