"""The link handshake without sockets: who does not know the secret gets nowhere, and says nothing worth stealing."""

from __future__ import annotations

import itertools
import os
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zcell.errors import ProtocolError
from zcell.protocol.envelope import Kind, decode_link, encode_link
from zcell.protocol.link import STATES, Acceptor, Initiator, Lane, LinkIdentity, Refusal, State
from zcell.security.proof import SharedSecretProof

SECRET, OTHER = b"s" * 32, b"o" * 32
LINK = bytes(range(16))


def identity(name: str) -> LinkIdentity:
    return LinkIdentity(name, os.urandom(16), 4 << 20)


def ends(child_secret: bytes = SECRET, parent_secret: bytes = SECRET, lane: Lane = Lane.CONTROL) -> tuple[Initiator, Acceptor]:
    link = LINK if lane is Lane.DATA else b""
    return (
        Initiator(identity("site-1"), SharedSecretProof(child_secret), "server", lane, link),
        Acceptor(identity("server"), SharedSecretProof(parent_secret)),
    )


def changed(frame: bytes, **fields: Any) -> bytes:
    kind, said = decode_link(frame)
    said.update(fields)
    return encode_link(kind, {k: v for k, v in said.items() if v is not ...})


@pytest.mark.parametrize("lane", list(Lane))
def test_two_ends_that_know_the_secret_come_up_and_know_each_other(lane: Lane) -> None:
    child, parent = ends(lane=lane)
    challenge = parent.receive(child.start())
    assert challenge is not None
    prove = child.receive(challenge)
    assert prove is not None
    assert parent.receive(prove) is None
    states = [parent.state]
    assert child.receive(parent.welcome(LINK, "tcp://127.0.0.1:5")) is None
    states += [child.state, parent.state]
    assert states == [State.ADMITTED, State.UP, State.UP]
    assert child.peer == parent.me
    assert parent.peer == child.me
    assert child.link == LINK
    assert parent.lane is lane
    assert child.welcome["data"] == "tcp://127.0.0.1:5"


def test_a_child_without_the_secret_is_refused_for_good() -> None:
    """It notices by itself that the parent's proof does not fit its own secret, and proves nothing."""
    child, parent = ends(child_secret=OTHER)
    challenge = parent.receive(child.start())
    assert challenge is not None
    assert child.receive(challenge) is None
    assert child.state is State.FAILED
    assert child.refusal is not None
    assert child.refusal.final
    assert "secret" in child.refusal.text


def test_a_child_that_ignores_the_parents_proof_still_gets_nowhere() -> None:
    child, parent = ends(child_secret=OTHER)
    challenge = parent.receive(child.start())
    assert challenge is not None
    forged = encode_link(Kind.PROVE, {"proof": os.urandom(32)})
    answer = parent.receive(forged)
    assert parent.state is State.FAILED
    assert answer is not None
    assert decode_link(answer) == (Kind.REFUSED, {"code": "bad_proof", "text": parent.refusal.text if parent.refusal else ""})


def test_the_parents_own_proof_cannot_be_sent_back_to_it() -> None:
    """Reflection: a proof says which role made it."""
    child, parent = ends(child_secret=OTHER)
    challenge = parent.receive(child.start())
    assert challenge is not None
    proof = decode_link(challenge)[1]["proof"]
    parent.receive(encode_link(Kind.PROVE, {"proof": proof}))
    assert parent.state is State.FAILED


def test_two_acceptors_cannot_be_played_against_each_other() -> None:
    """A stranger that forwards one parent's challenge to another learns no proof of an initiator."""
    child, first = ends(child_secret=OTHER)
    second = Acceptor(identity("server"), SharedSecretProof(SECRET))
    hello = child.start()
    one, two = first.receive(hello), second.receive(hello)
    assert one is not None
    assert two is not None
    for parent, challenge in ((first, two), (second, one)):
        parent.receive(encode_link(Kind.PROVE, {"proof": decode_link(challenge)[1]["proof"]}))
        assert parent.state is State.FAILED


def test_a_captured_handshake_cannot_be_replayed() -> None:
    child, parent = ends()
    hello = child.start()
    challenge = parent.receive(hello)
    assert challenge is not None
    prove = child.receive(challenge)
    assert prove is not None
    fresh = Acceptor(parent.me, SharedSecretProof(SECRET))
    fresh.receive(hello)
    fresh.receive(prove)
    assert fresh.state is State.FAILED


def test_a_captured_challenge_cannot_be_replayed_to_a_child() -> None:
    child, parent = ends()
    challenge = parent.receive(child.start())
    assert challenge is not None
    again = Initiator(child.me, SharedSecretProof(SECRET), "server")
    again.start()
    assert again.receive(challenge) is None
    assert again.refusal is not None
    assert again.refusal.code == "bad_proof"


@pytest.mark.parametrize("field", ["name", "instance", "nonce", "window", "lane", "link"])
def test_a_hello_that_was_altered_on_the_way_does_not_come_up(field: str) -> None:
    values: dict[str, Any] = {
        "name": "site-2",
        "instance": bytes(16),
        "nonce": bytes(16),
        "window": 77,
        "lane": "data",
        "link": LINK,
    }
    child, parent = ends()
    fields = {field: values[field]}
    if field in ("lane", "link"):
        fields = {"lane": "data", "link": LINK}
    challenge = parent.receive(changed(child.start(), **fields))
    assert challenge is not None
    assert child.receive(challenge) is None
    assert child.state is State.FAILED


@pytest.mark.parametrize("field", ["instance", "nonce", "window"])
def test_a_challenge_that_was_altered_on_the_way_does_not_come_up(field: str) -> None:
    child, parent = ends()
    challenge = parent.receive(child.start())
    assert challenge is not None
    child.receive(changed(challenge, **{field: 99 if field == "window" else os.urandom(16)}))
    assert child.state is State.FAILED


def test_a_parent_of_another_name_is_not_accepted() -> None:
    child = Initiator(identity("site-1"), SharedSecretProof(SECRET), "server")
    parent = Acceptor(identity("site-9"), SharedSecretProof(SECRET))
    answer = parent.receive(child.start())
    assert answer is not None
    child.receive(answer)
    assert child.state is State.FAILED
    assert child.refusal is not None
    assert "site-9" in child.refusal.text
    assert child.refusal.final


def test_another_kind_of_proof_is_refused() -> None:
    child, parent = ends()
    answer = parent.receive(changed(child.start(), scheme="certificate"))
    assert answer is not None
    assert decode_link(answer)[1]["code"] == "wrong_scheme"


BAD: dict[str, list[Any]] = {
    "name": [..., "", "a b", 7, b"site-1", None, "x" * 300, "site-1\n"],
    "instance": [..., b"", bytes(15), bytes(17), "0123456789abcdef", None, 5],
    "nonce": [..., b"", bytes(17), "x" * 16, [1]],
    "window": [..., 0, -1, 1 << 40, "5", 1.5, True, None],
    "lane": [..., "", "both", 7, ["control"], None],
    "link": [..., "x", bytes(15), bytes(16), None, 7],
}


@pytest.mark.parametrize(("field", "value"), [(f, v) for f, values in BAD.items() for v in values])
def test_a_malformed_hello_is_a_protocol_error(field: str, value: Any) -> None:
    child, parent = ends()
    with pytest.raises(ProtocolError):
        parent.receive(changed(child.start(), **{field: value}))
    assert parent.state is State.FAILED
    with pytest.raises(ProtocolError):
        parent.receive(child.start())


@pytest.mark.parametrize("proof", [..., None, "x" * 32, 7, [], bytes(3000), b"", bytes(31)])
def test_a_malformed_proof_is_no_proof(proof: Any) -> None:
    child, parent = ends()
    parent.receive(child.start())
    parent.receive(changed(encode_link(Kind.PROVE, {}), proof=proof))
    assert parent.state is State.FAILED


@pytest.mark.parametrize("link", [..., None, b"", bytes(15), "x" * 16, 3])
def test_a_malformed_welcome_is_a_protocol_error(link: Any) -> None:
    child, parent = ends()
    challenge = parent.receive(child.start())
    assert challenge is not None
    child.receive(challenge)
    with pytest.raises(ProtocolError):
        child.receive(changed(encode_link(Kind.WELCOME, {}), link=link))
    assert child.state is State.FAILED


@pytest.mark.parametrize("fields", [{}, {"code": 7, "text": "x"}, {"code": "full"}, {"code": "full", "text": b"x"}])
def test_a_malformed_refusal_is_a_protocol_error(fields: dict[str, Any]) -> None:
    child, _ = ends()
    child.start()
    with pytest.raises(ProtocolError):
        child.receive(encode_link(Kind.REFUSED, fields))


def test_a_refusal_tells_whether_trying_again_helps_and_stays_short() -> None:
    child, _ = ends()
    child.start()
    child.receive(encode_link(Kind.REFUSED, {"code": "full", "text": "y" * 3000}))
    assert child.refusal is not None
    assert not child.refusal.final
    assert len(child.refusal.text) <= 500
    assert Refusal("name_taken", "").final


@pytest.mark.parametrize("role", ["initiator", "acceptor"])
def test_every_frame_out_of_turn_ends_the_handshake(role: str) -> None:
    """All kinds in all states: what the table does not list is a protocol error."""
    child, parent = ends()
    hello = child.start()
    challenge = parent.receive(hello)
    assert challenge is not None
    prove = child.receive(challenge)
    assert prove is not None
    frames = {
        Kind.HELLO: hello,
        Kind.CHALLENGE: challenge,
        Kind.PROVE: prove,
        Kind.WELCOME: encode_link(Kind.WELCOME, {"link": LINK}),
    }
    frames |= {k: encode_link(k, {}) for k in (Kind.PING, Kind.PONG, Kind.CREDIT, Kind.BYE)}
    for state, kind in itertools.product(State, frames):
        if (state, kind) in STATES[role]:
            continue
        end = ends()[0 if role == "initiator" else 1]
        end.state = state
        with pytest.raises(ProtocolError):
            end.receive(frames[kind])
        assert end.state is State.FAILED


@given(st.binary(max_size=300))
def test_any_bytes_are_a_protocol_error_for_both_ends(data: bytes) -> None:
    child, parent = ends()
    child.start()
    for end in (child, parent):
        with pytest.raises(ProtocolError):
            end.receive(data)
        assert end.state is State.FAILED


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=20) | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(0, 9), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.sampled_from(["name", "instance", "nonce", "window", "lane", "link", "scheme", "to", "proof", "code", "text"]),
    VALUES,
    st.data(),
)
def test_any_value_in_any_field_never_brings_up_a_stranger(field: str, value: Any, data: st.DataObject) -> None:
    """Only protocol errors come out, and never an UP or ADMITTED."""
    child, parent = ends(child_secret=OTHER)
    frames = [child.start(), encode_link(Kind.PROVE, {"proof": os.urandom(32)})]
    for frame in frames:
        try:
            parent.receive(changed(frame, **{field: value}))
        except ProtocolError:
            break
    assert parent.state not in (State.UP, State.ADMITTED)
    kind = data.draw(st.sampled_from([Kind.CHALLENGE, Kind.WELCOME, Kind.REFUSED]))
    try:
        child.receive(msgpack.packb([1, int(kind), {field: value}]))
    except ProtocolError:
        return
    assert child.state is not State.UP


def test_proofs_depend_on_role_transcript_and_secret_and_hide_the_secret() -> None:
    proof = SharedSecretProof(SECRET)
    made = {
        proof.prove("initiator", b"a"),
        proof.prove("acceptor", b"a"),
        proof.prove("initiator", b"b"),
        SharedSecretProof(OTHER).prove("initiator", b"a"),
    }
    assert len(made) == 4
    assert proof.verify("initiator", b"a", proof.prove("initiator", b"a"), "site-1")
    assert not proof.verify("acceptor", b"a", proof.prove("initiator", b"a"), "site-1")
    assert not proof.verify("initiator", b"a", b"", "site-1")
    assert SECRET.decode() not in repr(proof)
    assert SECRET.hex() not in repr(vars(proof))


@pytest.mark.parametrize("secret", [b"", b"x" * 15])
def test_a_short_secret_is_refused(secret: bytes) -> None:
    with pytest.raises(ValueError, match="16"):
        SharedSecretProof(secret)
