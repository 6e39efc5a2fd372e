"""Which containers are orphans: those whose starter is known to be dead, and no others."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.eventually import eventually
from zcell.launch.docker.orphans import Janitor, orphans
from zcell.launch.owner import Owner
from zcell.launch.remote import EngineError


def test_this_process_is_alive_and_its_mark_can_be_read_back() -> None:
    owner = Owner.here()
    assert Owner.parse(str(owner)) == owner
    assert owner.pid == os.getpid()
    assert not owner.is_dead()
    assert Owner.here() != owner, "two launchers of a process are not the same"


def test_a_process_that_ended_is_dead_also_before_it_is_reaped() -> None:
    code = "from zcell.launch.owner import Owner; print(Owner.here())"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        owner = Owner.parse(child.stdout.read().strip())
        eventually(owner.is_dead)
    assert owner.is_dead()


def change(**fields: object) -> Callable[[Owner], Owner]:
    return lambda owner: replace(owner, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changed", "dead"),
    [
        (change(started=1), True),  # the process id was given to another process
        (change(boot="another"), True),  # the machine was started again
        (change(machine="another"), False),  # nobody here can know
        (change(machine="another", started=1), False),
        (change(namespace="1"), False),  # a process id of another container's
        (change(launcher="another"), False),
    ],
)
def test_only_what_is_known_to_be_dead_counts(changed: Callable[[Owner], Owner], dead: bool) -> None:
    owner = changed(Owner.here())
    assert owner.is_dead() is dead
    assert orphans([("container", str(owner), "job-1")]) == ([("container", "job-1")] if dead else [])


@pytest.mark.parametrize("mark", ["", "what", "a:b:c:d:e:f", "a:b:c:1:2:f:g"])
def test_a_mark_that_cannot_be_read_is_left_alone(mark: str) -> None:
    assert orphans([("container", mark, "job-1")]) == []


class Engine:
    """Removes containers once it is up."""

    def __init__(self) -> None:
        self.up = threading.Event()
        self.asked = threading.Event()
        self.removed: list[str] = []

    def remove(self, container: str) -> None:
        self.asked.set()
        if not self.up.is_set():
            raise EngineError("the engine is down")
        self.removed.append(container)


def test_what_could_not_be_removed_is_removed_when_the_engine_is_back() -> None:
    engine = Engine()
    janitor = Janitor(engine.remove)
    janitor.take("one")
    janitor.take("two")
    assert engine.asked.wait(5)
    engine.up.set()
    eventually(lambda: sorted(engine.removed) == ["one", "two"])
    janitor.take("three")
    eventually(lambda: "three" in engine.removed)
    janitor.close()


def test_closing_tries_once_more_and_does_not_wait_for_an_engine_that_stays_away() -> None:
    engine = Engine()
    janitor = Janitor(engine.remove)
    janitor.take("one")
    assert engine.asked.wait(5)
    janitor.close()
    assert engine.removed == []
    janitor.close()
