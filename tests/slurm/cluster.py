"""A SLURM cluster of two nodes on this machine, in a folder of its own, for tests.

    python tests/slurm/cluster.py    # a shell in which sbatch and squeue mean this cluster

It has its own munged, slurmctld and slurmd processes, sockets, ports and key, is found only
through SLURM_CONF, and is taken down at the end: a SLURM that the machine has is not touched.
Needs the Debian packages slurm-wlm and munge, no cgroups, no accounting.
"""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol")
_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])

# Quick: SLURM's defaults wait for seconds where a test wants an answer at once.
_CONFIG = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={ports[0]}
AuthType=auth/munge
# A requeued job waits until its credential has expired.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
MinJobAge=2
KillWait=3
MaxArraySize=5
PropagateResourceLimits=NONE
NodeName=first,second NodeHostname={host} NodeAddr=127.0.0.1 Port=[{ports[1]}-{ports[2]}] CPUs=4
PartitionName=tests Nodes=ALL Default=YES MaxTime=60 State=UP
"""


def missing() -> list[str]:
    """Programs of a cluster that this machine lacks."""
    return [name for name in PROGRAMS if shutil.which(name, path=_PATH) is None]


@contextlib.contextmanager
def cluster() -> Iterator[dict[str, str]]:
    """Start a cluster; gives the environment in which its commands are called."""
    with tempfile.TemporaryDirectory(prefix="slurm-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        host = socket.gethostname().split(".")[0]
        user = pwd.getpwuid(os.getuid()).pw_name
        config = _CONFIG.format(folder=folder, host=host, user=user, ports=_ports())
        (folder / "slurm.conf").write_text(config)
        (folder / "key").write_bytes(os.urandom(128))
        (folder / "key").chmod(0o600)
        (folder / "state").mkdir()
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SBATCH"))}
        environment |= {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": _PATH}
        munge = ["munged", "--foreground", "--force", f"--key-file={folder}/key"]
        munge += [f"--{kind}-file={folder}/munge.{kind}" for kind in ("pid", "log", "seed")]
        commands = [
            [*munge, f"--socket={folder}/munge.socket"],
            ["slurmctld", "-D"],
            ["slurmd", "-D", "-N", "first"],
            ["slurmd", "-D", "-N", "second"],
        ]
        daemons = []
        try:
            for command in commands:
                with (folder / f"{command[0]}.out").open("ab") as out:
                    daemons.append(
                        subprocess.Popen(command, env=environment, stdout=out, stderr=out)
                    )
                if command is commands[0]:
                    _until((folder / "munge.socket").exists, folder)
            _until(lambda: _idle(environment) == 2, folder)
            yield environment
        finally:
            with contextlib.suppress(subprocess.TimeoutExpired):
                _call(environment, "scancel", "--user", user, "--signal=KILL")
                _call(environment, "scancel", "--user", user)
                _until(lambda: not _call(environment, "squeue", "--noheader"), folder, seconds=10)
            for daemon in reversed(daemons):
                daemon.terminate()
            for daemon in daemons:
                try:
                    daemon.wait(10)
                except subprocess.TimeoutExpired:
                    daemon.kill()
                    daemon.wait()


def _ports() -> list[int]:
    """One free port, and two that follow each other."""
    while True:
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(socket.socket()) for _ in range(3)]
            sockets[0].bind(("127.0.0.1", 0))
            sockets[1].bind(("127.0.0.1", 0))
            ports = [sockets[0].getsockname()[1], sockets[1].getsockname()[1]]
            with contextlib.suppress(OSError):
                sockets[2].bind(("127.0.0.1", ports[1] + 1))
                return [*ports, ports[1] + 1]


def _call(environment: dict[str, str], *command: str) -> str:
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=20
    )
    return result.stdout


def _idle(environment: dict[str, str]) -> int:
    return _call(environment, "sinfo", "--noheader", "--Node", "--format=%T").split().count("idle")


def _until(holds: object, folder: Path, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not holds():  # type: ignore[operator]
        if time.monotonic() > deadline:
            logs = "\n".join(path.read_text()[-2000:] for path in folder.glob("*.out"))
            raise TimeoutError(f"the test cluster did not come up, or go:\n{logs}")
        time.sleep(0.1)


if __name__ == "__main__":
    if missing():
        sys.exit(f"not installed: {', '.join(missing())}")
    with cluster() as made:
        print(f"SLURM_CONF={made['SLURM_CONF']}; leave the shell to take the cluster down")
        subprocess.run([os.environ.get("SHELL", "/bin/bash")], env=made, check=False)
