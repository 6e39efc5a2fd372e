"""Jobs on a Slurm cluster: one batch script per job or array, states from its queue, files and output over the cell tree."""

from zcell.launch.slurm.launcher import SlurmLauncher

__all__ = ["SlurmLauncher"]
