"""Whether a Slurm cluster will take jobs, as far as asking tells. Invariant: nothing is submitted, and what is missing has its cure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from zcell.errors import LaunchError
from zcell.launch.checkup import Check
from zcell.launch.slurm.commands import Commands, SlurmError

PAGE = "docs/howto-slurm.md"
_REACH = "is slurmctld running, and does SLURM_CONF, or /etc/slurm/slurm.conf, name it?"


def examine(commands: Commands, partition: str) -> Iterator[Check]:
    """The checks, in the order in which their failures explain each other. `partition` "": the cluster's default."""
    try:
        commands.check("this machine")
        yield Check("programs", commands.run("sbatch", "--version").strip())
        chosen = [f"--partition={partition}"] if partition else []
        lines = commands.run("sinfo", "--noheader", "--format=%R %D", *chosen).splitlines()
    except LaunchError as error:
        yield Check("programs", str(error), "usage", f"see {PAGE}, Settings: bin")
        return
    except SlurmError as error:
        yield Check("cluster", str(error), "link", _REACH)
        return
    found: Counter[str] = Counter()
    for name, nodes in map(str.split, filter(str.strip, lines)):
        found[name] += int(nodes)
    if partition and partition not in found:
        yield Check("cluster", f"it has no partition {partition!r}", "usage", "name one of those that sinfo lists")
        return
    yield Check(
        "cluster", ", ".join(f"partition {name}: nodes {nodes}" for name, nodes in sorted(found.items())) or "no partition"
    )
