"""`tight_storage.py STORE FOLDER`: a run on a disk that is full, has room again, is read-only.

To be run where mounts are this process's own (unshare -m). Prints what it found as JSON.
"""

import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path

from experiments.cli import main
from experiments.config.compose import compose
from experiments.config.run import make_run
from experiments.launchers.local import launch
from experiments.run_folder.status import read_status
from experiments.sweeps.expand import Sweep
from experiments.sweeps.file import LauncherSettings
from experiments.sweeps.freeze import freeze

OWN = Path(__file__).parent


def ceus(*arguments: str) -> tuple[int, str]:
    printed = io.StringIO()
    with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(printed):
        try:
            main(arguments)
        except SystemExit as ended:
            return int(ended.code or 0), printed.getvalue()
    raise AssertionError


def scenario(store: str, folder: Path) -> dict[str, object]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=True)
    common = [f"architecture={OWN / 'tiny.yaml'}", f"store={store}", f"runs={folder}"]
    kill = {"at": ["train 5"], "marks": str(folder)}
    callbacks = json.dumps([{"class_path": "own_package.Kill", "init_args": kill}])
    settings = ["modality=image", "wandb=false", "trainer.max_epochs=3", "batch_size=4"]
    own = [*common, *settings, f"trainer.callbacks={callbacks}"]
    run = make_run(compose(own))
    freeze(Sweep("fit", run.folder.parent, (run,), LauncherSettings()))

    def start() -> int:
        failed = launch([run], 1, LauncherSettings(parallel=1), before=lambda: None, needs={})
        return failed[0][1] if failed else 0

    found: dict[str, object] = {"killed": start()}
    last = run.folder / "checkpoints" / "last.ckpt"
    whole = last.read_bytes()
    ballast = folder / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    with ballast.open("r+b") as file:
        file.truncate(ballast.stat().st_size - 2 * 4096)  # room for a status, not for a checkpoint
    found["full"] = ceus("fit", *own)
    found["kept"] = last.read_bytes() == whole
    ballast.unlink()
    found |= {"again": start(), "resumed": read_status(run.folder).resumed}
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    found["status"] = ceus("status", str(run.folder.parent))
    found["fit"] = ceus("fit", *common, *settings)  # another run, for it has no callback
    return found


if __name__ == "__main__":
    print(json.dumps(scenario(sys.argv[1], Path(sys.argv[2]))))
