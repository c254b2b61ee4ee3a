"""`python -P -m experiments.training RUN_DIR`: one run in its own process."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.ffmpeg import ffmpeg_environment
from experiments.processes import use_own_temporary_folder


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry of `python -P -m experiments.training`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=None)
    options = parser.parse_args(arguments)
    if wanted := ffmpeg_environment():
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | wanted)
    use_own_temporary_folder()
    from experiments.training.process import run_and_exit  # W&B makes folders when it is imported

    # Ranks that SLURM started are started again by it, all together, when the sweep is called.
    again = os.environ.get("SLURM_NTASKS", "1") == "1"
    run_and_exit(options.folder, options.threads, has_terminal=True, again=again)


if __name__ == "__main__":
    main()
