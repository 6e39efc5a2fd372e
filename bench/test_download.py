"""Downloads against plain sockets that move the same file: what do verification, credit, resume and the journal cost on top?

All move it between processes over loopback, from memory to memory where it has room, in turn in the same run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from bench.child import Child, ThreadWatch
from bench.figure import at_least, at_most, ratio_at_least, ratio_at_most
from bench.measure import MIB, Bench, Sampler, mib_per_second
from bench.place import write_noise
from zcell.limits import Limits

MEMORY_MIB = 64 + 2 * Limits().window_bytes / MIB
CHUNK = Limits().chunk_bytes


@pytest.fixture(scope="module")
def sizes(quick: bool) -> dict[str, int]:
    """Of the files, in bytes: the one the figures are about, and one for comparisons of zcell with itself."""
    return {"whole": 4 * MIB, "part": 4 * MIB} if quick else {"whole": 1024 * MIB, "part": 384 * MIB}


@pytest.fixture(scope="module")
def files(place: Path, sizes: dict[str, int]) -> dict[str, Path]:
    return {name: write_noise(place / name, size) for name, size in sizes.items()}


@contextmanager
def plain(module: str, source: Path, to: Path) -> Iterator[Sampler]:
    """The speed of a peer's sender and receiver."""
    size = source.stat().st_size
    with Child(module, "sender") as sender, Child(module, "receiver", sender.hello) as receiver:

        def copy() -> None:
            sender.tell("send", path=str(source))
            assert receiver.ask("receive", path=str(to), size=size) == size
            sender.answer()

        def sample() -> float:
            speed = mib_per_second(size, copy)()
            to.unlink()
            return speed

        yield sample


class Tree:
    """An owner and its receivers, each a process."""

    def __init__(self, stack: ExitStack, place: Path, receivers: int = 1, relay: bool = False) -> None:
        self.owner = stack.enter_context(Child("cells.server", "tcp://127.0.0.1:0"))
        self.relay = stack.enter_context(Child("cells.relay", "site-1", self.owner.hello)) if relay else None
        url, names = self.owner.hello, [f"site-{number}" for number in range(receivers)]
        if self.relay is not None:
            url, names = self.relay.hello, ["site-1.job-1"]
        self.receivers = [stack.enter_context(Child("cells.client", name, url)) for name in names]
        self._targets = [place / f"{name}-of-{id(self)}" for name in names]
        self.loads: list[float] = []

    def fetching(self, source: Path, verify: str = "tree", busy: bool = False) -> Sampler:
        """MiB/s in all, from the offer to the last receiver's end."""
        size = source.stat().st_size

        def all_of_it() -> None:
            self._ref = self.owner.ask("offer", path=str(source))
            for receiver, to in zip(self.receivers, self._targets, strict=True):
                receiver.tell("fetch", ref_id=self._ref, path=str(to), verify=verify, busy=busy)
            for receiver in self.receivers:
                receiver.answer()

        def sample() -> float:
            speed = mib_per_second(size * len(self.receivers), all_of_it)()
            self.loads.append(self.owner.ask("chunks_loaded", ref_id=self._ref) * CHUNK / size)
            self.owner.ask("forget", ref_id=self._ref)
            for to in self._targets:
                assert to.stat().st_size == size
                to.unlink()
            return speed

        return sample


@pytest.fixture(scope="module")
def direct(place: Path) -> Iterator[Tree]:
    """One owner and one receiver, for all that is compared with them."""
    with ExitStack() as stack:
        yield Tree(stack, place)


class Costs:
    """What each process of a download needs: memory above idle in MiB, threads, CPU seconds; one sample a round."""

    def __init__(self, **processes: Child) -> None:
        self._processes = processes
        self.memory: dict[str, list[float]] = {name: [] for name in processes}
        self.threads: dict[str, list[float]] = {name: [] for name in processes}
        self.cpu: dict[str, list[float]] = {name: [] for name in processes}

    def of(self, sample: Sampler) -> Sampler:
        """The same sample, with its costs noted."""

        def watched() -> float:
            before = {name: child.cpu_seconds() for name, child in self._processes.items()}
            for child in self._processes.values():
                child.reset_peak()
            with ThreadWatch(*self._processes.values()) as watch:
                speed = sample()
            for (name, child), threads in zip(self._processes.items(), watch.peaks, strict=True):
                self.memory[name].append(child.grown_bytes() / MIB)
                self.threads[name].append(threads)
                self.cpu[name].append(child.cpu_seconds() - before[name])
            return speed

        return watched


def test_one_file_between_two_processes(bench: Bench, direct: Tree, files: dict[str, Path], place: Path) -> None:
    source = files["whole"]
    what = f"{source.stat().st_size // MIB} MiB file"
    costs = Costs(owner=direct.owner, receiver=direct.receivers[0])
    with ExitStack() as stack:
        pyzmq, tcp, checksum, verified = bench.interleave(
            stack.enter_context(plain("peers.zmq_file", source, place / "by-zmq")),
            stack.enter_context(plain("peers.tcp_file", source, place / "by-tcp")),
            direct.fetching(source, "checksum"),
            costs.of(direct.fetching(source)),
        )
    reference = ("pyzmq file to file", pyzmq)
    bench.add(f"{what}, plain TCP, no checks", "MiB/s", tcp, reference=reference)
    bench.add(f"{what}, verified", "MiB/s", verified, reference=reference, targets=[at_least(300), ratio_at_least(0.6)])
    bench.add(f"{what}, checksum only", "MiB/s", checksum, reference=reference, targets=[ratio_at_least(0.85)])
    for name in ("owner", "receiver"):
        bench.add(f"{what}: peak memory of the {name} above idle", "MiB", costs.memory[name], targets=[at_most(MEMORY_MIB)])
        first, later = ("first download", costs.threads[name][:1]), costs.threads[name][1:] or costs.threads[name]
        bench.add(f"{what}: threads of the {name}, later downloads", "", later, reference=first, targets=[ratio_at_most(1)])
        bench.add(f"{what}: CPU of the {name}", "s", costs.cpu[name])


def test_through_one_relay(bench: Bench, direct: Tree, files: dict[str, Path], place: Path) -> None:
    source = files["part"]
    what = f"{source.stat().st_size // MIB} MiB file through one relay"
    with ExitStack() as stack:
        relayed = Tree(stack, place, relay=True)
        assert relayed.relay is not None
        costs = Costs(relay=relayed.relay)
        relay = costs.of(relayed.fetching(source))
        bench.compare(what, "MiB/s", "direct", direct.fetching(source), relay, targets=[ratio_at_least(0.6)])
    bench.add(f"{what}: peak memory of the relay above idle", "MiB", costs.memory["relay"], targets=[at_most(MEMORY_MIB)])


def test_one_file_to_four_receivers(bench: Bench, direct: Tree, files: dict[str, Path], place: Path) -> None:
    source = files["part"]
    what = f"{source.stat().st_size // MIB} MiB file to 4 receivers"
    with ExitStack() as stack:
        four = Tree(stack, place, receivers=4)
        costs = Costs(owner=four.owner)
        one, all_four = direct.fetching(source), costs.of(four.fetching(source))
        bench.compare(f"{what}, in all", "MiB/s", "one receiver", one, all_four, targets=[ratio_at_least(0.9)])
    bench.add(f"{what}: how often the owner reads and hashes it", "times", four.loads, targets=[at_most(1)])
    bench.add(f"{what}: peak memory of the owner above idle", "MiB", costs.memory["owner"], targets=[at_most(MEMORY_MIB)])


def test_while_the_main_thread_runs_python(bench: Bench, direct: Tree, files: dict[str, Path]) -> None:
    """The receiving process trains meanwhile: its main thread never lets go of the interpreter by itself."""
    source = files["part"]
    what = f"{source.stat().st_size // MIB} MiB file, receiver's main thread runs Python flat out"
    undisturbed, busy = direct.fetching(source), direct.fetching(source, busy=True)
    bench.compare(what, "MiB/s", "undisturbed", undisturbed, busy, targets=[ratio_at_least(0.4)])


def test_cost_is_linear_in_bytes(bench: Bench, direct: Tree, place: Path) -> None:
    files = {scale: write_noise(place / f"times-{scale}", bench.pick(64, 1) * scale * MIB) for scale in (1, 4, 16)}
    speeds = bench.interleave(*(direct.fetching(file) for file in files.values()))
    once, four, sixteen = ([1e3 / speed for speed in samples] for samples in speeds)
    size = files[1].stat().st_size // MIB
    for scale, samples in ((4, four), (16, sixteen)):
        name = f"cost of a MiB, {scale} times as many"
        bench.add(name, "ms", samples, reference=(f"{size} MiB", once), targets=[ratio_at_most(1.5)])
    for file in files.values():
        file.unlink()
