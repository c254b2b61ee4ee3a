"""A killed test run leaves nothing behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
_RUN = """
import subprocess, sys, time
from tests.orphans import end_with_this_process
end_with_this_process()
code = "import signal as s, time; print(s.getsignal(2) is s.SIG_IGN, flush=True); time.sleep(60)"
started = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
print(started.pid, flush=True)
time.sleep(60)
"""


def test_what_a_killed_test_run_started_ends_and_could_be_interrupted() -> None:
    run = subprocess.Popen(
        [sys.executable, "-c", _RUN],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        # As nohup and a shell's `&` start it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),  # noqa: PLW1509
    )
    assert run.stdout is not None
    said = {run.stdout.readline().strip(), run.stdout.readline().strip()}
    (started,) = said - {"False"}
    run.kill()
    run.communicate()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{started}/environ").exists():
        if "\nState:\tZ" in Path(f"/proc/{started}/status").read_text():
            break  # it ended; whoever is first of this machine's processes has not looked yet
        assert time.monotonic() < deadline
        time.sleep(0.05)
