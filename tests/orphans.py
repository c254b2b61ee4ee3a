"""What tests start ends with them, however they end, and answers Ctrl-C, however they began."""

import os
import signal
import subprocess
import sys
import uuid

_MARK = "CEUS_TESTS"
_watching: list[subprocess.Popen[bytes]] = []
_WATCH = """
import os, signal, sys, time
parent, mark = int(sys.argv[1]), sys.argv[2].encode()
while os.getppid() == parent:
    time.sleep(0.3)
for _ in range(3):  # one may be starting another
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                if mark in file.read().split(b"\\0"):
                    os.kill(int(pid), signal.SIGKILL)
        except OSError:
            pass
    time.sleep(0.2)
"""


def end_with_this_process() -> None:
    """Have every process that inherits this one's environment killed when this one is gone.

    In whatever session it is: a process that tests have to stop by Ctrl-C has one of its own. And
    give SIGINT its meaning back, which `nohup` and a shell's `&` take from all that they start.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    mark = f"{_MARK}={uuid.uuid4()}"
    environment = {name: value for name, value in os.environ.items() if name != _MARK}
    command = [sys.executable, "-I", "-S", "-c", _WATCH, str(os.getpid()), mark]
    _watching.append(
        subprocess.Popen(
            command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL
        )
    )
    os.environ[_MARK] = mark.partition("=")[2]
