"""Which launcher runs a job at a site, and with what settings. Invariant: the choice depends on the job's own texts only.

Order: ``launcher_spec[site]``, then ``launcher_spec["default"]``, then the older nested ``resource_spec[site]``, then the
caller's default. The first that names a launcher wins as a whole; settings of different places are never mixed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from zcell.errors import LaunchError
from zcell.launch.spec import JobSpec

if TYPE_CHECKING:
    from zcell.launch.launcher import Launcher

GROUP = "zcell.launchers"
"""The entry-point group: NAME = "package.module:LauncherClass"."""
DEFAULT_SITE = "default"


@dataclass(frozen=True)
class Selection:
    """A launcher's name, its settings for the job, and where they were found (for error texts)."""

    launcher: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    place: str = "the default"


def launcher_names() -> list[str]:
    """Names of the installed launchers, sorted. Loads none of them."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def load_launcher(name: str) -> type[Launcher]:
    """The launcher class that is installed as `name`. Raises `LaunchError` listing what is installed."""
    from zcell.launch.launcher import Launcher

    found: list[EntryPoint] = [point for point in entry_points(group=GROUP) if point.name == name]
    if not found:
        raise LaunchError(f"no launcher is installed as {name!r}; installed: {', '.join(launcher_names()) or 'none'}")
    try:
        loaded = found[0].load()
    except ImportError as error:
        raise LaunchError(
            f"launcher {name!r} cannot be loaded: {error}; install what it needs: pip install zcell[{name}]"
        ) from error
    if not (isinstance(loaded, type) and issubclass(loaded, Launcher)):
        raise LaunchError(f"launcher {name!r} ({found[0].value}) is no zcell.launch.Launcher")
    return loaded


def select_launcher(spec: JobSpec, *, default: str = "process", known: Iterable[str] | None = None) -> Selection:
    """The launcher for `spec` at `spec.site`. `known` are the launchers' names (default: those installed).

    Raises `LaunchError` naming the job, the place and the setting when a place names several launchers or an unknown one.
    """
    names = list(launcher_names() if known is None else known)
    for site in (spec.site, DEFAULT_SITE):
        if site in spec.launcher_spec:
            return _only_launcher(spec, f"launcher_spec[{site!r}]", spec.launcher_spec[site], names)
    resources = spec.resource_spec.get(spec.site, {})
    nested = {name: value for name, value in resources.items() if name in names and isinstance(value, Mapping)}
    if nested:
        return _only_launcher(spec, f"resource_spec[{spec.site!r}]", nested, names)
    return Selection(default)


def _only_launcher(spec: JobSpec, place: str, choices: object, names: list[str]) -> Selection:
    if not isinstance(choices, Mapping) or len(choices) != 1:
        raise LaunchError(f"job {spec.job_id}: {place} must map exactly one launcher's name to its settings, got {choices!r}")
    ((name, settings),) = choices.items()
    if name not in names:
        raise LaunchError(f"job {spec.job_id}: {place} names the launcher {name!r}; installed: {', '.join(names) or 'none'}")
    if settings is None:
        settings = {}
    if not isinstance(settings, Mapping):
        raise LaunchError(f"job {spec.job_id}: {place}[{name!r}] must be a mapping of settings, got {settings!r}")
    return Selection(str(name), dict(settings), place)
