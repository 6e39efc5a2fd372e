"""Limits: frozen, checked when made, each refusal naming the field."""

from __future__ import annotations

import dataclasses
import math

import pytest

from zcell.limits import CHUNK_BYTES, LEAF_BYTES, MIB, Limits


def test_the_documented_defaults() -> None:
    limits = Limits()
    assert limits.inline_bytes == 8 * MIB
    assert limits.out_of_band_bytes == 64 * 1024
    assert limits.chunk_bytes == CHUNK_BYTES == 16 * LEAF_BYTES
    assert limits.handshake_timeout == 10.0


def test_limits_cannot_be_changed_afterwards() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Limits().inline_bytes = 1  # type: ignore[misc]


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Limits)])
@pytest.mark.parametrize("value", [0, -1, True, "8", None, math.nan, math.inf])
def test_a_limit_that_is_no_positive_number_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"Limits\.{field}"):
        Limits(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Limits) if f.type == "int"])
def test_a_count_or_size_is_a_whole_number(field: str) -> None:
    with pytest.raises(ValueError, match=rf"Limits\.{field}"):
        Limits(**{field: 1024.5})  # type: ignore[arg-type]


@pytest.mark.parametrize("chunk", [1, LEAF_BYTES - 1, LEAF_BYTES + 1, 3 * LEAF_BYTES, 32 * MIB])
def test_a_chunk_is_a_power_of_two_of_leaves(chunk: int) -> None:
    with pytest.raises(ValueError, match=r"chunk_bytes.*power of two"):
        Limits(chunk_bytes=chunk)


@pytest.mark.parametrize("chunk", [LEAF_BYTES, 2 * LEAF_BYTES, 16 * MIB])
def test_other_chunk_sizes(chunk: int) -> None:
    assert Limits(chunk_bytes=chunk).chunk_bytes == chunk


def test_limits_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="inline_bytes"):
        Limits(inline_bytes=2 * MIB, message_bytes=MIB)
    with pytest.raises(ValueError, match="heartbeat_interval"):
        Limits(heartbeat_interval=12.0, link_timeout=12.0)
    with pytest.raises(ValueError, match="reconnect_min"):
        Limits(reconnect_min=2.0, reconnect_max=1.0)
