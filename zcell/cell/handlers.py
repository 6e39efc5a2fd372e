"""Which function answers what, and who may ask. Invariant: the most exact match wins, and a refused caller learns that it is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from zcell.fqcn import FQCN
from zcell.message import Request

HandlerFn = Callable[[Request], Any]
ANY = "*"


@dataclass(frozen=True, slots=True)
class AllowRule:
    """Who may call a handler: `"family"`, `"any"`, or names and ``name.*`` subtrees."""

    mode: str
    names: frozenset[str] = frozenset()
    subtrees: tuple[str, ...] = ()

    @staticmethod
    def parse(allow: str | Iterable[str]) -> AllowRule:
        """Raises `ValueError` naming what is wrong with `allow`."""
        if allow in ("family", "any"):
            return AllowRule(str(allow))
        if isinstance(allow, str):
            raise ValueError(f"allow is 'family', 'any' or a list of names and 'name.*' subtrees, got {allow!r}")
        if not isinstance(allow, Iterable):
            raise TypeError(f"allow is 'family', 'any' or a list of names, not {type(allow).__name__}")
        names, subtrees = set(), []
        for item in allow:
            name = item.removesuffix(".*")
            FQCN.validate(name)
            if name != item:
                subtrees.append(name)
            else:
                names.add(name)
        return AllowRule("list", frozenset(names), tuple(subtrees))

    def admits(self, me: str, origin: str) -> bool:
        if self.mode == "any" or origin == me:
            return True
        if self.mode == "family":
            return FQCN.is_family(me, origin)
        return origin in self.names or any(origin == s or FQCN.is_ancestor(s, origin) for s in self.subtrees)


@dataclass(frozen=True, slots=True)
class Handler:
    """One registered function. An `inline` one runs on the I/O thread: tiny, never blocking."""

    channel: str
    topic: str
    fn: HandlerFn
    allow: AllowRule
    inline: bool


class HandlerTable:
    """Handlers by channel and topic; ``*`` matches any. Read by the I/O thread, changed from any."""

    def __init__(self) -> None:
        self._table: dict[tuple[str, str], Handler] = {}

    def add(self, channel: str, topic: str, fn: HandlerFn, allow: str | Iterable[str], inline: bool) -> None:
        """Raises `ValueError` when the address is taken or a text is too long, `TypeError` when `fn` cannot be called."""
        for what, text in (("channel", channel), ("topic", topic)):
            if not isinstance(text, str) or not 0 < len(text) <= 255:
                raise ValueError(f"{what} is a text of 1 to 255 characters, got {text!r}")
        if not callable(fn):
            raise TypeError(f"the handler of {channel!r}/{topic!r} cannot be called: {fn!r}")
        if (channel, topic) in self._table:
            raise ValueError(f"channel {channel!r} topic {topic!r} has a handler already; unregister it first")
        self._table[channel, topic] = Handler(channel, topic, fn, AllowRule.parse(allow), inline)

    def remove(self, channel: str, topic: str) -> bool:
        """Whether there was one."""
        return self._table.pop((channel, topic), None) is not None

    def find(self, channel: str, topic: str) -> Handler | None:
        get = self._table.get
        return get((channel, topic)) or get((channel, ANY)) or get((ANY, topic)) or get((ANY, ANY))
