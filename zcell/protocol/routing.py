"""Next hops in the tree. Invariant: a message moves along the one path between two cells, up first, then down."""

from __future__ import annotations

from collections.abc import Container

from zcell.fqcn import FQCN

HERE = "."
"""The next hop of a message that has arrived."""
NOWHERE = ""
"""The next hop of a message that cannot get any further."""


def next_hop(me: str, target: str, children: Container[str], has_parent: bool) -> str:
    """The neighbour to hand a message for `target` to: `HERE`, a child's name, the parent's name, or `NOWHERE`.

    A cell below me goes to the child on the way, anything else to my parent; at the root, to the child of the first label.
    """
    if target == me:
        return HERE
    child = child_towards(me, target)
    if child:
        return child if child in children else NOWHERE
    return FQCN.tree_parent(me) if has_parent else NOWHERE


def child_towards(me: str, target: str) -> str:
    """The child of `me` on the way to `target`, "" when `target` is not below me."""
    if target.startswith(me + "."):
        rest = target[len(me) + 1 :]
        return f"{me}.{rest.partition('.')[0]}"
    if me == FQCN.ROOT_SERVER and target != me:
        return target.partition(".")[0]
    return ""


def may_come_from(neighbour: str, me: str, source: str) -> bool:
    """Whether a message of `source` can have arrived over the link to `neighbour`, a child or the parent of `me`.

    From a child come only that child and cells below it; from the parent only cells that are not me or below me.
    """
    if FQCN.tree_parent(neighbour) == me:
        return source == neighbour or source.startswith(neighbour + ".")
    return source != me and not child_towards(me, source)


def path_between(a: str, b: str) -> list[str]:
    """The cells a message passes from `a` to `b`, ends included: up to the first common ancestor, then down."""
    up, down = _upwards(a), _upwards(b)
    meeting = next(x for x in up if x in down)
    return [*up[: up.index(meeting)], meeting, *reversed(down[: down.index(meeting)])]


def on_path(a: str, b: str, cell: str) -> bool:
    """Whether `cell` lies on the path between `a` and `b`, ends included: only such a cell may report that it broke."""
    return cell in path_between(a, b)


def _upwards(name: str) -> list[str]:
    path = [name]
    while above := FQCN.tree_parent(path[-1]):
        path.append(above)
    return path
