"""Names of entries in bundles. Invariant: a name that passes here stays below the directory it is joined to, on any platform,
and no two names that pass one `NameSet` are the same file on any file system."""

from __future__ import annotations

import enum
import re
import unicodedata

from zcell.errors import BundleError
from zcell.workspace.limits import ExtractLimits

DEFAULT_LIMITS = ExtractLimits()

# Names that Windows gives to devices, whatever extension follows.
_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9\u00b9\u00b2\u00b3]) *(\..*)?", re.IGNORECASE | re.DOTALL)
_DRIVE = re.compile(r"[A-Za-z]:")
# Most names: nothing in them can break a rule, lengths aside. What looks like a device's name is left to the rules themselves.
_PLAIN_PART = r"(?!(?i:con|prn|aux|nul|com|lpt))[A-Za-z0-9_][A-Za-z0-9_.+=@-]*"
_PLAIN = re.compile(rf"{_PLAIN_PART}(?:/{_PLAIN_PART})*")


def _refuse(name: str, rule: str) -> BundleError:
    shown = name if len(name) <= 200 else f"{name[:200]}... ({len(name)} characters)"
    return BundleError(f"entry {shown!r} is refused: {rule}")


def validate_entry_name(name: str, *, limits: ExtractLimits = DEFAULT_LIMITS) -> tuple[str, ...]:
    """The components of an entry's name: relative, separated by ``/``, without a trailing one.

    Raises `BundleError` naming the entry and the rule for: empty, absolute, ``.`` and ``..``, empty components, NUL,
    backslashes, drive forms (``C:``), names of devices (``nul``, ``com1.txt``), text that is not UTF-8, and names, components
    or depths above `limits`.
    """
    if len(name) <= min(limits.name_bytes, limits.path_bytes) and _PLAIN.fullmatch(name) and name.count("/") < limits.depth:
        return tuple(name.split("/"))
    if not name:
        raise _refuse(name, "a name must not be empty")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise _refuse(name, "a name must be valid UTF-8") from None
    if size > limits.path_bytes:
        raise _refuse(name, f"a name is at most {limits.path_bytes} bytes long")
    if "\0" in name:
        raise _refuse(name, "a name must not contain NUL")
    if "\\" in name:
        raise _refuse(name, "a name must not contain a backslash")
    if name.startswith("/"):
        raise _refuse(name, "a name must be relative")
    if _DRIVE.match(name):
        raise _refuse(name, "a name must not begin with a drive")
    parts = tuple(name.split("/"))
    if len(parts) > limits.depth:
        raise _refuse(name, f"a name has at most {limits.depth} components")
    for part in parts:
        _validate_component(name, part, limits)
    return parts


def _validate_component(name: str, part: str, limits: ExtractLimits) -> None:
    if not part:
        raise _refuse(name, "a name must not contain an empty component")
    if not part.strip(". "):
        raise _refuse(name, f"a component must not be {part!r}")
    if len(part) > limits.name_bytes or (not part.isascii() and len(part.encode()) > limits.name_bytes):
        raise _refuse(name, f"a component is at most {limits.name_bytes} bytes long")
    if _DEVICE.fullmatch(part):
        raise _refuse(name, f"{part!r} is a reserved name")


def fold(name: str) -> str:
    """The form under which names are compared: caseless and canonical (Unicode 3.13, D145), as case-insensitive and
    normalising file systems compare them."""
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())


class _Kind(enum.Enum):
    FILE = "a file"
    DIRECTORY = "a directory"
    IMPLIED = "a directory implied by another entry"


class NameSet:
    """The names seen so far in one tree; `add` refuses what clashes with them, or exceeds the limits.

    A directory may be implied by a file below it and then be named once itself. Memory is bounded by `limits.entries` and
    `limits.all_names_bytes`.
    """

    def __init__(self, limits: ExtractLimits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._seen: dict[str, tuple[str, _Kind]] = {}
        self._names_bytes = 0

    def __len__(self) -> int:
        """How many files and directories there are, implied ones included."""
        return len(self._seen)

    def add(self, name: str, *, is_dir: bool) -> None:
        """Adds a name that `validate_entry_name` has passed. Raises `BundleError` naming it and what it clashes with."""
        folded = fold(name)
        self._add_parents(name, folded)
        known = self._seen.get(folded)
        if known is not None and not (is_dir and known == (name, _Kind.IMPLIED)):
            raise self._clash(name, _Kind.DIRECTORY if is_dir else _Kind.FILE, known)
        self._remember(folded, name, _Kind.DIRECTORY if is_dir else _Kind.FILE)

    def _add_parents(self, name: str, folded: str) -> None:
        end = name.rfind("/")
        folded_end = folded.rfind("/")
        missing: list[tuple[str, str]] = []
        while end > 0:
            parent, folded_parent = name[:end], folded[:folded_end]
            known = self._seen.get(folded_parent)
            if known is not None:
                if known[0] != parent or known[1] is _Kind.FILE:
                    raise self._clash(name, _Kind.IMPLIED, known)
                break
            missing.append((folded_parent, parent))
            end, folded_end = name.rfind("/", 0, end), folded.rfind("/", 0, folded_end)
        for folded_parent, parent in reversed(missing):
            self._remember(folded_parent, parent, _Kind.IMPLIED)

    def _remember(self, folded: str, name: str, kind: _Kind) -> None:
        if folded not in self._seen:
            if len(self._seen) >= self._limits.entries:
                raise _refuse(name, f"a tree has at most {self._limits.entries} entries, implied directories included")
            self._names_bytes += len(name) if name.isascii() else len(name.encode())
            if self._names_bytes > self._limits.all_names_bytes:
                raise _refuse(name, f"the names of a tree have at most {self._limits.all_names_bytes} bytes together")
        self._seen[folded] = (name, kind)

    @staticmethod
    def _clash(name: str, kind: _Kind, known: tuple[str, _Kind]) -> BundleError:
        other, other_kind = known
        if kind is not _Kind.IMPLIED and other == name:
            return _refuse(name, "the name occurs twice")
        if other_kind is _Kind.FILE and (name + "/").startswith(other + "/"):
            return _refuse(name, f"{other!r} above it is a file")
        return _refuse(name, f"it differs from {other!r} only in case or normalisation")
