"""A real SLURM on this host, for tests: munged, slurmctld and a slurmd for each node, on loopback alone.

Needs the programs of the packages munge and slurm-wlm, no systemd, and root for several nodes only. All files are in
the folder given; a node pretends to have 4 CPUs. Jobs of the partition `low` are requeued when `high` preempts them.
"""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel")
SECONDS = 30
"""Patience with each command, and with the start."""

CONFIG = """\
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# cred_expire is also how long a requeued job waits.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,bf_interval=1,sched_interval=1,sched_min_interval=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
EnforcePartLimits=ALL
{nodes}
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE MaxTime=60
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF MaxTime=60
"""


def missing() -> str:
    """The first program that is not installed, or ""."""
    return next((name for name in PROGRAMS if not shutil.which(name, path=_path())), "")


def _path() -> str:
    return os.environ["PATH"] + ":/usr/sbin:/sbin"


class Cluster:
    """A context; `ask` runs a command of SLURM on it, and `environment` is what any other needs to find it.

    nodes: their names. Such as 127.0.0.2 are addresses of this host too, and with several nodes each is the name that
    the processes there take their host to have.
    """

    def __init__(self, folder: Path, nodes: Sequence[str] = ("localhost",)) -> None:
        self.folder, self.nodes = folder, nodes
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": _path()}
        self._daemons: list[subprocess.Popen] = []

    def __enter__(self) -> "Cluster":
        for name in ("state", "spool"):
            (self.folder / name).mkdir(parents=True)
        self.folder.chmod(0o755)
        key = self.folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(os.urandom(128))
        text = CONFIG.format(
            folder=self.folder,
            user=getpass.getuser(),
            port=_port(),
            nodes="\n".join(
                f"NodeName={node} NodeHostname={node} NodeAddr={socket.gethostbyname(node)} Port={_port()} CPUs=4 "
                "RealMemory=1000000"
                for node in self.nodes
            ),
        )
        (self.folder / "slurm.conf").write_text(text)
        munge = {name: self.folder / f"munge.{name}" for name in ("socket", "pid", "log", "seed")}
        options = [f"--{option}={munge[name]}" for option, name in
                   (("socket", "socket"), ("pid-file", "pid"), ("log-file", "log"), ("seed-file", "seed"))]  # fmt: skip
        try:
            self._start(
                "munged",
                "--foreground",
                "--force",
                f"--key-file={key}",
                "--origin=127.0.0.1",
                *options,
            )
            self._until(munge["socket"].exists, "munged")
            self._start("slurmctld", "-D", "-i")
            for node in self.nodes:
                self._start("slurmd", "-D", "-N", node, host=node if len(self.nodes) > 1 else "")
            self._until(self._idle, "the nodes")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        if len(self._daemons) > 1:
            self.ask("scancel", "--user", getpass.getuser(), fails=True)
            end = time.monotonic() + SECONDS
            while self.ask("squeue", "-h", fails=True) and time.monotonic() < end:
                time.sleep(0.1)
        for daemon in reversed(self._daemons):
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(SECONDS)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait(SECONDS)

    def ask(self, *command: str, fails: bool = False) -> str:
        """The output of a command, with `fails` also of a failing one."""
        done = subprocess.run(
            command, env=os.environ | self.environment, capture_output=True, text=True, timeout=SECONDS
        )  # fmt: skip
        assert fails or done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout.strip()

    def _idle(self) -> bool:
        states = self.ask("sinfo", "-h", "-N", "-p", "low", "-o", "%T", fails=True).split()
        return states == ["idle"] * len(self.nodes)

    def _start(self, *command: str, host: str = "") -> None:
        """Start a daemon under the host name `host`."""
        # Slurm binds to the address of the host's own name: where that is not loopback, under the name localhost.
        host = host or ("" if _name_is_loopback() else "localhost")
        prefix = (
            ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', host] if host else []
        )
        with open(self.folder / f"{command[0]}{host}.out", "w") as output:
            self._daemons.append(
                subprocess.Popen([*prefix, *command], env=os.environ | self.environment, stdin=subprocess.DEVNULL,
                                 stdout=output, stderr=output)
            )  # fmt: skip

    def _until(self, ready, what: str) -> None:
        end = time.monotonic() + SECONDS
        while not ready():
            if time.monotonic() > end or any(d.poll() is not None for d in self._daemons):
                said = "".join(p.read_text(errors="replace") for p in self.folder.glob("*.out"))
                raise TimeoutError(f"{what} did not come up: {said[-2000:]}")
            time.sleep(0.05)


def _port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _name_is_loopback() -> bool:
    try:
        return socket.gethostbyname(socket.gethostname()).startswith("127.")
    except OSError:
        return False
