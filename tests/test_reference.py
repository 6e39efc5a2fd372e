"""docs/reference.md has every public name, and none that is not there, with the signature that it has."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import zcell

PAGE = (Path(__file__).parents[1] / "docs" / "reference.md").read_text()
INTERNAL = {"zcell.cell", "zcell.launch.credentials", "zcell.workspace.zipstream"}
"""Modules with `__all__` for the library's own use; what of them is public is exported elsewhere."""


class Entry(NamedTuple):
    """One line of the list of a module: the names it documents, as they are written, and the members below them."""

    names: list[str]
    members: list[str]
    text: str


def sections() -> dict[str, list[Entry]]:
    """The entries of each module that has a heading of its own."""
    found: dict[str, list[Entry]] = {}
    for module, text in re.findall(r"^##+ `([\w.]+)`\n(.*?)(?=^##|\Z)", PAGE, re.DOTALL | re.MULTILINE):
        found[module] = [entry(bullet) for bullet in re.split(r"^(?=- )", text, flags=re.MULTILINE)[1:]]
    return found


def entry(bullet: str) -> Entry:
    text = re.sub(r"\s+", " ", bullet)
    head, *below = re.split(r"(?= - `)", text)
    return Entry(
        re.findall(r"\*\*`(.*?)`\*\*", head),
        [span[1:] for span in re.findall(r"`(.*?)`", "".join(below)) if span.startswith(".")],
        text,
    )


SECTIONS = sections()


def public_names(module: str) -> set[str]:
    """What `module` exports: its `__all__`, or else the classes and functions that it defines."""
    loaded = importlib.import_module(module)
    listed = getattr(loaded, "__all__", None)
    if listed is not None:
        return set(listed)
    own = {name: value for name, value in vars(loaded).items() if not name.startswith("_") and callable(value)}
    return {name for name, value in own.items() if getattr(value, "__module__", "") == module}


def test_every_public_package_has_a_section() -> None:
    modules = {"zcell"} | {m.name for m in pkgutil.walk_packages(zcell.__path__, "zcell.") if "__main__" not in m.name}
    exporting = {name for name in modules if hasattr(importlib.import_module(name), "__all__")}
    assert exporting - INTERNAL <= SECTIONS.keys()
    assert exporting >= INTERNAL


@pytest.mark.parametrize("module", SECTIONS)
def test_a_section_has_the_names_of_its_module(module: str) -> None:
    documented = [name.partition("(")[0] for found in SECTIONS[module] for name in found.names]
    assert sorted(documented) == sorted(public_names(module))


def parameters(documented: str) -> Iterator[tuple[str, ast.expr | None, bool]]:
    """(name, default, keyword only) of the arguments in a documented call; ``...`` stands for those that are left out."""
    inside = re.sub(r"(^|, )\.\.\.(?=,|$)", "", documented.partition("(")[2].removesuffix(")"))
    function = ast.parse(f"def f({inside.removesuffix('*').removesuffix(', ')}): pass").body[0]
    assert isinstance(function, ast.FunctionDef)
    arguments = function.args
    without = len(arguments.args) - len(arguments.defaults)
    for place, argument in enumerate(arguments.args):
        yield argument.arg, arguments.defaults[place - without] if place >= without else None, False
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        yield argument.arg, default, True
    for rest in (arguments.vararg, arguments.kwarg):
        if rest is not None:
            yield rest.arg, None, False


def check_call(documented: str, real: Any) -> None:
    taken = [p for p in inspect.signature(real).parameters.values() if p.name not in ("self",)]
    by_name = {p.name: p for p in taken}
    listed = list(parameters(documented))
    for name, default, keyword_only in listed:
        assert name in by_name, f"{documented}: there is no argument {name}"
        found = by_name[name]
        assert (found.kind is found.KEYWORD_ONLY) == keyword_only, f"{documented}: {name} is {found.kind.description}"
        assert (found.default is found.empty) == (default is None), f"{documented}: {name} has the default {found.default!r}"
        if default is not None and ast.unparse(default) != "...":
            is_made = repr(found.default) == "<factory>"
            value = eval(ast.unparse(default), {"ReturnCode": zcell.ReturnCode})
            assert value == ({} if is_made else found.default), f"{documented}: {name} has the default {found.default!r}"
    order = [p.name for p in taken if p.name in {name for name, _, _ in listed}]
    assert [name for name, _, _ in listed] == order, f"{documented}: the order is {', '.join(order)}"
    if not re.search(r"(\(|, )\.\.\.[,)]", documented):
        assert len(listed) == len(taken), f"{documented}: it takes {', '.join(by_name)}"


@pytest.mark.parametrize("module", SECTIONS)
def test_a_section_has_the_signatures_of_its_module(module: str) -> None:
    loaded = importlib.import_module(module)
    for found in SECTIONS[module]:
        for name in found.names:
            real = getattr(loaded, name.partition("(")[0])
            if "(" in name:
                check_call(name, real)
            elif isinstance(real, type) and issubclass(real, Enum):
                missing = [value.name for value in real if value.name not in found.text]
                assert not missing, f"{name} has also {missing}"
        for member in found.members:
            owner, attribute = getattr(loaded, found.names[0].partition("(")[0]), member.partition("(")[0]
            assert hasattr(owner, attribute), f"{found.names[0]} has no {attribute}"
            is_call = inspect.isroutine(inspect.getattr_static(owner, attribute))
            assert is_call == ("(" in member), f"{found.names[0]}: {member} is {'a method' if is_call else 'no method'}"
            if is_call:
                check_call(member, getattr(owner, attribute))
