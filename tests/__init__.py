"""Tests mirror the package: every directory here belongs to the room of the same name."""
