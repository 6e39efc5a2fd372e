"""Data sets of a study. Invariant: a job gets those of its own study, each below ``/data/STUDY/`` with the mode the site gave it.

The site's ``local/study_data.yaml`` maps a study to its data sets, and each of those to a directory of the engine's host::

    breast-cancer:
      images: {source: /srv/data/images, mode: ro}
      scratch: {source: /srv/data/scratch, mode: rw}
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from zcell.errors import LaunchError

STUDIES = "study_data.yaml"
ROOT = "/data"
MODES = ("ro", "rw")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\Z")


@dataclass(frozen=True)
class DataSet:
    """One directory for one study."""

    study: str
    name: str
    source: str
    mode: str

    @property
    def target(self) -> str:
        """Where it is in the container."""
        return f"{ROOT}/{self.study}/{self.name}"


def study_data(path: Path, study: str) -> list[DataSet]:
    """The data sets that the file `path` gives to `study`; none when there is no such file, or no study.

    Raises `LaunchError` naming the file and the entry that is wrong, or the study that it lacks.
    """
    if not study:
        return []
    try:
        text = path.read_text()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise LaunchError(f"study {study!r}: {path} cannot be read: {error}") from error
    studies = _parse(path, text)
    if study not in studies:
        known = ", ".join(sorted(map(str, studies))) or "none"
        raise LaunchError(f"study {study!r} is not in {path}, which has {known}")
    if not _NAME.match(study):
        raise LaunchError(f"{path}: study {study!r} is no name for a directory; use letters, digits, '_', '-' and '.'")
    sets = studies[study]
    if sets is None:
        return []
    if not isinstance(sets, Mapping):
        raise LaunchError(f"{path}: {study} must map names of data sets to their source and mode, got {sets!r}")
    return [_data_set(path, study, name, entry) for name, entry in sets.items()]


def _parse(path: Path, text: str) -> Mapping[str, Any]:
    try:
        import yaml
    except ImportError as error:
        raise LaunchError(f"{path} cannot be read without PyYAML: pip install zcell[docker]") from error
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise LaunchError(f"{path} is no YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, Mapping):
        raise LaunchError(f"{path} must map studies to their data sets, got {type(content).__name__}")
    return content


def _data_set(path: Path, study: str, name: Any, entry: Any) -> DataSet:
    where = f"{path}: {study}.{name}"
    if not isinstance(name, str) or not _NAME.match(name):
        raise LaunchError(f"{where}: a data set's name is made of letters, digits, '_', '-' and '.', got {name!r}")
    if not isinstance(entry, Mapping) or not entry.keys() <= {"source", "mode"} or "source" not in entry:
        raise LaunchError(f"{where} must be {{source: /absolute/path, mode: ro}}, got {entry!r}")
    source, mode = entry["source"], entry.get("mode", "ro")
    if not isinstance(source, str) or not source.startswith("/") or ".." in PurePosixPath(source).parts:
        raise LaunchError(f"{where}: source must be an absolute path without '..', got {source!r}")
    if mode not in MODES:
        raise LaunchError(f"{where}: mode must be one of {', '.join(MODES)}, got {mode!r}")
    return DataSet(study, name, source, mode)
