"""How a node says that it never ran its command. Invariant: such an exit code is nobody's but the node's, and has its reason."""

from __future__ import annotations

from enum import IntEnum


class Refusal(IntEnum):
    """Exit codes of a node that never ran its command, low enough to be told from 128 + a signal."""

    NO_DIRECTORY = 120
    NO_PYTHON = 121
    NO_CREDENTIALS = 122
    NO_LINK = 123
    NOT_WANTED = 124


REASONS = {
    Refusal.NO_DIRECTORY: "its private directory could not be made on the node: is the setting directory writable there?",
    Refusal.NO_PYTHON: "the node has no python with zcell under the setting python: install zcell there, or name another interpreter",
    Refusal.NO_CREDENTIALS: "its credentials did not reach the node",
    Refusal.NO_LINK: "its node could not reach the parent: is the address right for the node's network? see the setting parent_url",
    Refusal.NOT_WANTED: "its parent did not want it any more when it started",
}
