"""A Slurm cluster of the tests' own: one node. Invariant: it touches nothing of the machine's, and leaves nothing when it is closed.

Own munge, ports and directories; no cgroups. The node's daemon runs in a mount namespace with a ``/tmp`` of its own, so that what
tests put into theirs is not there: jobs get nothing but what is sent to them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tests.engines.daemon import ADMIN_PATH, LIMIT, Daemon, free_port, kill_marked
from tests.eventually import eventually

PROGRAMS = {
    "sbatch": "slurm-wlm",
    "squeue": "slurm-wlm",
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "munged": "munge",
    "slurmdbd": "slurmdbd",
    "mariadbd": "mariadb-server-core",
}
CPUS = 64
"""What the node claims to have: enough for every test's jobs at once."""

_ROOT = Path(__file__).resolve().parents[2]
_OWN_TMP = """
conf=$1; shift
mount -t tmpfs -o mode=1777 tmpfs "$0"
for kept; do mkdir -p "$0/${kept#/tmp/}"; mount --bind "$kept" "$0/${kept#/tmp/}"; done
mount --rbind "$0" /tmp
exec slurmd -D -f "$conf"
"""
"""What the node needs of this project and its python stays visible when those are in ``/tmp``."""

_CONF = """\
ClusterName=zcelltest
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={state}/munge/socket,cred_expire=5
CredType=cred/munge
SlurmctldPort={controller_port}
SlurmdPort={node_port}
StateSaveLocation={state}/save
SlurmdSpoolDir={state}/spool
SlurmctldPidFile={state}/slurmctld.pid
SlurmdPidFile={state}/slurmd.pid
SlurmdParameters=config_overrides
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
{accounting}
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
KillWait=30
MinJobAge={min_job_age}
MaxArraySize=100
SchedulerParameters=sched_interval=2,batch_sched_delay=0,bf_interval=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=65536 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
PartitionName=small Nodes=ALL MaxTime=60 MaxNodes=1 State=UP
"""
_DBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={state}/munge/socket
DbdHost=localhost
DbdPort={dbd_port}
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={db_port}
StorageUser=root
StorageLoc=slurm
LogFile={state}/slurmdbd.log
PidFile={state}/slurmdbd.pid
"""


class SlurmCluster:
    """The cluster. `environment` is what its programs need to find it."""

    def __init__(self, directory: Path, *, accounting: bool = False) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        name = "slurm-accounting" if accounting else "slurm"
        self._record = directory / f"{name}.state"
        self._lock: IO[str] = (directory / f"{name}.lock").open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            _remove(Path(self._record.read_text()))
        # not in /tmp, of which the node has its own; short, because sockets have short paths
        self.state = Path(tempfile.mkdtemp(prefix="zs-", dir="/var/tmp"))
        self._record.write_text(str(self.state))
        self.accounting = accounting
        self.host = socket.gethostname().partition(".")[0]
        self.environment = {"SLURM_CONF": str(self.state / "slurm.conf")}
        self._write()
        conf, mark, log = str(self.state / "slurm.conf"), str(self.state), self.state
        self._munge = Daemon(self._munge_command(), log / "munged.log", mark)
        self._database = Daemon(self._database_command(), log / "mariadbd.log", mark)
        # slurmdbd finds its file beside slurm.conf and names it nowhere; the title tells it from others
        dbd = ["sh", "-c", "exec slurmdbd -D", f"{self.state}/slurmdbd"]
        self._dbd = Daemon(dbd, log / "slurmdbd.out", "slurmdbd", self.environment)
        self._controller = Daemon(["slurmctld", "-D", "-f", conf], log / "slurmctld.log", mark)
        self._kept = sorted({str(p) for p in (_ROOT, Path(sys.prefix), Path(sys.base_prefix)) if Path("/tmp") in p.parents})
        node = ["unshare", "--mount", "sh", "-euc", _OWN_TMP, str(self.state / "tmp"), conf, *self._kept]
        self._node = Daemon(node, log / "slurmd.log", mark)

    def _write(self) -> None:
        for name in ("munge", "save", "spool", "tmp"):
            (self.state / name).mkdir(mode=0o700)
        self.state.chmod(0o755)
        key = self.state / "munge" / "key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(1024))
        self._db_port, self._dbd_port = free_port(), free_port()
        storage = "AccountingStorageType=accounting_storage/none"
        if self.accounting:
            storage = "\n".join(
                (
                    "AccountingStorageType=accounting_storage/slurmdbd",
                    "AccountingStorageHost=localhost",
                    f"AccountingStoragePort={self._dbd_port}",
                    f"AccountingStoragePass={self.state}/munge/socket",
                )
            )
        values = {
            "state": self.state,
            "host": self.host,
            "cpus": CPUS,
            "accounting": storage,
            # as soon as a job has ended it is gone from the queue, and only its accounts are left
            "min_job_age": 2 if self.accounting else 300,
            "controller_port": free_port(),
            "node_port": free_port(),
            "db_port": self._db_port,
            "dbd_port": self._dbd_port,
        }
        (self.state / "slurm.conf").write_text(_CONF.format(**values))
        (self.state / "slurmdbd.conf").touch(mode=0o600)
        (self.state / "slurmdbd.conf").write_text(_DBD_CONF.format(**values))

    def _munge_command(self) -> list[str]:
        munge = self.state / "munge"
        files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        return ["munged", "--foreground", "--force", *(f"--{option}={munge / name}" for option, name in files.items())]

    def _database_command(self) -> list[str]:
        (self.state / "database").mkdir(mode=0o700)
        return [
            "mariadbd",
            "--no-defaults",
            f"--datadir={self.state}/database",
            f"--socket={self.state}/mariadb.socket",
            f"--pid-file={self.state}/mariadb.pid",
            "--bind-address=127.0.0.1",
            f"--port={self._db_port}",
            "--skip-grant-tables",
            "--user=root",
            "--innodb-buffer-pool-size=16M",
            "--innodb-log-file-size=8M",
        ]

    def start(self) -> None:
        """Returns once the node takes jobs."""
        self._munge.start()
        eventually((self.state / "munge" / "socket").exists, LIMIT, self._munge.log)
        if self.accounting:
            self._database.start()
            eventually(lambda: _answers(self._db_port), LIMIT, self._database.log)
            self._dbd.start()
            eventually(lambda: _answers(self._dbd_port), LIMIT, self._dbd.log)
            self.run("sacctmgr", "-i", "add", "cluster", "zcelltest")
        self._controller.start()
        self._node.start()
        self.wait_for_node()

    def wait_for_node(self) -> None:
        eventually(self._takes_jobs, LIMIT, lambda: self._controller.log() + self._node.log())

    def _takes_jobs(self) -> bool:
        done = subprocess.run(
            ["sinfo", "--noheader", "--format=%T"], env=self._env(), capture_output=True, text=True, timeout=LIMIT, check=False
        )
        return done.returncode == 0 and set(done.stdout.split()) <= {"idle", "mixed", "allocated"} and bool(done.stdout.strip())

    def _env(self) -> dict[str, str]:
        return dict(os.environ) | {"PATH": ADMIN_PATH} | self.environment

    def run(self, *command: str) -> str:
        """What a program of Slurm writes; fails with its error when it fails."""
        done = subprocess.run(command, env=self._env(), capture_output=True, text=True, timeout=LIMIT, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def fail_node(self) -> None:
        """Declare the node dead, whatever runs there."""
        self.run("scontrol", "update", f"nodename={self.host}", "state=down", "reason=test")

    def mend_node(self) -> None:
        if "down" in self.run("sinfo", "--noheader", "--format=%T"):  # it may have come back by itself
            with contextlib.suppress(AssertionError):
                self.run("scontrol", "update", f"nodename={self.host}", "state=resume")
        self.wait_for_node()

    def stop_controller(self) -> None:
        """An orderly end: it saves what it knows, which it otherwise does every few seconds only."""
        self._controller.end()

    def kill_controller(self) -> None:
        self._controller.end(signal.SIGKILL)

    def pause_controller(self) -> None:
        """From now on it takes connections and answers nothing."""
        self._controller.send(signal.SIGSTOP)

    def resume_controller(self) -> None:
        self._controller.send(signal.SIGCONT)

    def start_controller(self, *, cold: bool = False) -> None:
        """Start it again; `cold`: without any memory of its jobs."""
        if cold:
            shutil.rmtree(self.state / "save")
            (self.state / "save").mkdir(mode=0o700)
        self._controller.start()
        self.wait_for_node()

    def node_tmp(self) -> Path:
        """The node's own ``/tmp``, seen from here."""
        return Path(f"/proc/{self._node.pid}/root/tmp")

    def left(self) -> list[str]:
        """Jobs, and what they left in the node's ``/tmp``."""
        jobs = self.run("squeue", "--noheader", "--format=job %i is %T").splitlines()
        kept = {Path(path).parts[2] for path in self._kept}
        return jobs + [f"{path.name} in the node's /tmp" for path in self.node_tmp().iterdir() if path.name not in kept]

    def close(self) -> None:
        try:
            if self._controller.is_alive():
                subprocess.run(["scancel", "--user=root"], env=self._env(), timeout=LIMIT, check=False, capture_output=True)
                with contextlib.suppress(AssertionError):
                    eventually(lambda: not self.run("squeue", "--noheader"), 15)
            for daemon in (self._node, self._controller, self._dbd, self._database, self._munge):
                daemon.end()
        finally:
            _remove(self.state)
            self._record.unlink(missing_ok=True)
            self._lock.close()


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _remove(state: Path) -> None:
    kill_marked(str(state))
    shutil.rmtree(state, ignore_errors=True)


@contextlib.contextmanager
def slurm_cluster(directory: Path, *, accounting: bool = False) -> Iterator[SlurmCluster]:
    """The cluster, for the length of the block."""
    cluster = SlurmCluster(directory, accounting=accounting)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()
