"""Limits on what a received tree may be. Invariant: every dimension in which a bundle can grow has a bound here."""

from __future__ import annotations

from dataclasses import dataclass, fields

from zcell.limits import GIB, KIB, MIB


@dataclass(frozen=True, slots=True)
class ExtractLimits:
    """What a bundle, a manifest or an archive may ask of the receiver's disk and memory. `ValueError` when out of range."""

    total_bytes: int = 256 * GIB
    """Bytes of all files together."""
    file_bytes: int = 256 * GIB
    """Bytes of one file."""
    entries: int = 1_000_000
    """Files and directories together, directories that are only implied by a file's name included."""
    ratio: int = 250
    """Bytes written for each byte received, over the whole archive, once `ratio_free_bytes` are written."""
    ratio_free_bytes: int = 64 * MIB
    """Bytes that may be written at any ratio: small archives of zeros are common and harmless."""
    name_bytes: int = 255
    """Bytes of one component of a name, in UTF-8."""
    path_bytes: int = 4095
    """Bytes of a whole name, in UTF-8."""
    depth: int = 128
    """Components of a name."""
    all_names_bytes: int = 64 * MIB
    """Bytes of all names together: they are remembered until the end, to find duplicates."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"ExtractLimits.{item.name} must be an integer above 0, got {value!r}")
        if self.path_bytes > 64 * KIB - 1:
            raise ValueError(f"ExtractLimits.path_bytes must be at most 65535, got {self.path_bytes}")


@dataclass(frozen=True, slots=True)
class WorkspaceLimits(ExtractLimits):
    """The same for a workspace that comes with a manifest: sizes are checked there before anything is written."""

    manifest_bytes: int = 128 * MIB
    """Bytes of the manifest itself."""
