"""Events, fire and forget, against a plain pyzmq PUSH and PULL: counted where they arrive, in another process, not where they leave."""

from __future__ import annotations

from bench.child import Child
from bench.figure import at_least, at_most, ratio_at_most
from bench.measure import MIB, Bench

BOUND_MIB = 64
MICRO = 1e6


def test_events(bench: Bench) -> None:
    count = bench.pick(100_000, 200)
    grown: dict[str, list[float]] = {"sender": [], "receiver": []}
    with (
        Child("cells.server", "tcp://127.0.0.1:0") as server,
        Child("cells.client", "site-1", server.hello) as client,
        Child("peers.zmq_server") as plain_server,
        Child("peers.zmq_client", *plain_server.hello) as plain,
    ):

        def ours() -> float:
            for child in (server, client):
                child.reset_peak()
            rate: float = client.ask("send_events", count=count)  # fails when one is lost or comes twice
            grown["sender"].append(client.grown_bytes() / MIB)
            grown["receiver"].append(server.grown_bytes() / MIB)
            return rate

        theirs, rates = bench.interleave(lambda: plain.ask("send_events", count=count), ours)
    name = f"{count:,} events of 64 bytes"
    note = f"each of the {len(rates)} x {count:,} events arrived once"
    reference = ("pyzmq PUSH/PULL", theirs)
    bench.add(f"{name}, delivered", "1/s", rates, reference=reference, targets=[at_least(40_000)], note=note)
    for end, samples in grown.items():
        bench.add(f"{name}: peak memory of the {end} above idle", "MiB", samples, targets=[at_most(BOUND_MIB)])


def test_cost_is_linear_in_messages(bench: Bench) -> None:
    counts = [bench.pick(6_250, 20) * scale for scale in (1, 4, 16)]
    with Child("cells.server", "tcp://127.0.0.1:0") as server, Child("cells.client", "site-1", server.hello) as client:
        once, four, sixteen = bench.interleave(
            *((lambda count=count: MICRO / client.ask("send_events", count=count)) for count in counts)
        )
    for scale, samples in ((4, four), (16, sixteen)):
        name = f"cost of an event, {scale} times as many"
        bench.add(name, "us", samples, reference=(f"{counts[0]:,} events", once), targets=[ratio_at_most(1.5)])
