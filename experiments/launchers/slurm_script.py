"""The sbatch script of a job array: what a user reads, edits and may submit by hand."""

import math
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.sweeps.file import SlurmSettings

# What a run takes from the submitting shell, besides the folder it is called in.
_STATED = (
    "PYTHONPATH",
    "WANDB_MODE",
    "WANDB_PROJECT",
    "WANDB_ENTITY",
    "HF_HOME",
    "HF_HUB_OFFLINE",
    "TORCH_HOME",
)


def array_script(
    settings: SlurmSettings,
    *,
    path: Path,
    name: str,
    run_ids: Sequence[str],
    throttle: int | None,
    devices: int,
    after: str,
) -> str:
    """The text of a job array's script.

    Args:
        settings: What a run asks for.
        path: Where the script will stand, absolute, in a folder of the sweep's.
        name: Name of the sweep.
        run_ids: One a task, in the order of the task numbers.
        throttle: Tasks at a time; None for as many as SLURM starts.
        devices: Devices, and processes, of a run on each node.
        after: Options that sbatch is called with for what must end first; "" for none.
    """
    quote = shlex.quote
    numbered = "\n".join(f"  {quote(run)}  # {i}" for i, run in enumerate(run_ids))
    threads = settings.cpus_per_task
    exports = [f"export {key}={quote(os.environ[key])}" for key in _STATED if key in os.environ]
    srun = ["srun", "--kill-on-bad-exit=1", *([f"--cpus-per-task={threads}"] if threads else [])]
    command = [quote(sys.executable), "-P -m experiments.training", '"$run"']
    command += [f"--threads {threads}"] if threads else []
    call = " ".join(["sbatch", *([after] if after else []), quote(str(path))])
    return f"""\
#!/bin/bash -l
# Runs of the sweep {name}, one a task of a job array. Written by `ceus sweep`, which submitted it:
#     {call}
# Edit it and submit it by hand if you like, --array=3,7 for some of the runs only. A run that is
# done is left alone; one that was begun goes on from its last checkpoint. `ceus status` shows how
# they stand. Nothing comes from the submitting shell but what is written here.
{_options(settings, path=path, name=name, count=len(run_ids), throttle=throttle, devices=devices)}

runs=(
{numbered}
)
run={quote(str(path.parents[1]))}/${{runs[$SLURM_ARRAY_TASK_ID]:?no run has this number}}
echo "$(date) $SLURM_ARRAY_TASK_ID on $SLURM_JOB_NODELIST: $run/log.txt"

cd {quote(str(Path.cwd()))} || exit 1
export SLURM_EXPORT_ENV=ALL  # srun hands on what this script sets
{_lines([*exports, *settings.setup])}
{_requeue(settings)}
# In the background, for bash answers a signal only while it waits.
{" ".join(srun)} {" ".join(command)} &
step=$!
wait "$step"
code=$?
while kill -0 "$step" 2>/dev/null; do
  wait "$step"
  code=$?
done
exit "$code"
"""


def _options(
    settings: SlurmSettings,
    *,
    path: Path,
    name: str,
    count: int,
    throttle: int | None,
    devices: int,
) -> str:
    log = str(path.parent).replace("%", "%%") + "/%A_%a.log"
    options = {
        "job-name": f"ceus-{name}",
        "array": f"0-{count - 1}" + (f"%{throttle}" if throttle else ""),
        "partition": settings.partition,
        "time": _time(settings.hours),
        "nodes": settings.nodes,
        "ntasks-per-node": devices,
        "cpus-per-task": settings.cpus_per_task,
        "gres": f"{settings.gres}:{devices}" if settings.gres else None,
        "mem": settings.mem,
        "output": f'"{log}"',
        "open-mode": "append",
        "export": "NONE",
        # To this script only: Lightning would answer USR1 in its own way.
        "signal": f"B:USR1@{settings.warn_seconds}" if settings.requeues else None,
    }
    lines = [f"--{key}={value}" for key, value in options.items() if value is not None]
    lines += ["--requeue" if settings.requeues else "--no-requeue", *settings.sbatch]
    return "\n".join(f"#SBATCH {line}" for line in lines)


def _requeue(settings: SlurmSettings) -> str:
    if not settings.requeues:
        return ""
    return f"""
# {settings.warn_seconds} s before the time limit: back into the queue, {settings.requeues} times \
at most.
again() {{
  if [ "${{SLURM_RESTART_COUNT:-0}}" -lt {settings.requeues} ]; then
    echo "$(date) the time limit is near: $run goes back into the queue"
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
  fi
}}
trap again USR1
"""


def _time(hours: float | None) -> str | None:
    if hours is None:
        return None
    minutes = math.ceil(hours * 60)
    return f"{minutes // 60}:{minutes % 60:02d}:00"


def _lines(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
