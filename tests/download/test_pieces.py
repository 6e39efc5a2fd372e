"""Buffers offered as one: `PiecesSource` serves what the buffers would be, joined and aligned."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.download.conftest import Pair
from zcell.download.sources import PIECE_ALIGNMENT, PiecesSource, SourceError, piece_offsets

CHUNK = 65536
SIZES = st.lists(st.sampled_from([0, 1, 63, 64, 65, 1000, CHUNK - 1, CHUNK, CHUNK + 1, 200_000]), max_size=12)


def joined(pieces: list[bytes]) -> bytes:
    whole = bytearray()
    for piece in pieces:
        whole += bytes(-len(whole) % PIECE_ALIGNMENT) + piece
    return bytes(whole)


@given(sizes=SIZES, seed=st.integers(0, 99))
def test_every_part_of_it_is_that_part_of_the_joined_pieces(sizes: list[int], seed: int) -> None:
    choice = random.Random(seed)
    pieces = [choice.randbytes(size) for size in sizes]
    whole = joined(pieces)
    source = PiecesSource([memoryview(piece) for piece in pieces], CHUNK)
    offsets, length = piece_offsets(sizes)
    assert source.size == length == len(whole)
    assert all(whole[o : o + len(piece)] == piece for o, piece in zip(offsets, pieces, strict=True))
    for begin in range(0, length, CHUNK):
        assert source._bytes(begin, min(CHUNK, length - begin)) == whole[begin : begin + CHUNK]
    for _ in range(5):
        begin = choice.randrange(length + 1)
        count = choice.randrange(length - begin + 1)
        assert source._bytes(begin, count) == whole[begin : begin + count]


def test_pieces_are_fetched_as_one_and_let_go(pair: Pair) -> None:
    owner, receiver = pair.owner, pair.receiver
    pieces = [random.Random(n).randbytes(n * 31_337) for n in range(9)]
    with owner.downloads.transaction(receivers=1) as transaction:
        source = PiecesSource([memoryview(piece) for piece in pieces], owner.limits.chunk_bytes)
        ref = transaction.add_source(source)
    assert receiver.downloads.fetch_bytes(owner.fqcn, ref) == joined(pieces)
    assert transaction.wait(10)
    with pytest.raises(SourceError, match="has ended"):
        source._bytes(0, 1)
