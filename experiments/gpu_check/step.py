"""What a step of the check knows and tells, and the process it runs in."""

import json
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from datamodules.files import write_atomic


class SkipError(Exception):
    """The step cannot be done here; the reason is the message."""


class FailedError(Exception):
    """What the step found is not as it must be; the reason is the message."""


@dataclass(frozen=True)
class Where:
    """Where a step works.

    Attributes:
        folder: For its files; one for all steps.
        device: `cuda`; or `cpu`, which tries the script itself out, with small networks.
        figures: File that its findings go to.
    """

    folder: Path
    device: str
    figures: Path

    @property
    def is_full(self) -> bool:
        """Whether networks are of the study's size."""
        return self.device == "cuda"

    def tell(self, **figures: Any) -> None:
        """Add to the findings; what was told stands, whatever becomes of the step."""
        told = json.loads(self.figures.read_text()) if self.figures.is_file() else {}
        write_atomic(self.figures, json.dumps(told | figures))


def run_step(function: str, where: Where) -> None:
    """Do one step in this process and tell how it ended, as `state` and `reason`."""
    module, _, name = function.rpartition(".")
    begun = time.perf_counter()
    state, reason = "passed", None
    try:
        step: Callable[[Where], None] = getattr(import_module(module), name)
        step(where)
    except SkipError as error:
        state, reason = "skipped", str(error)
    except FailedError as error:
        state, reason = "failed", str(error)
    except Exception as error:  # noqa: BLE001  the next step is to have its turn
        traceback.print_exc()
        state, reason = "failed", f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
    where.tell(state=state, reason=reason, seconds=round(time.perf_counter() - begun, 1))


def read_figures(path: Path) -> Mapping[str, Any]:
    """What a step told; nothing if it told nothing."""
    with suppress(OSError, ValueError):
        told: Mapping[str, Any] = json.loads(path.read_text())
        return told
    return {}


def child() -> None:
    """A step's own process: function, folder, device, file of the figures."""
    function, folder, device, figures = sys.argv[1:]
    run_step(function, Where(Path(folder), device, Path(figures)))
