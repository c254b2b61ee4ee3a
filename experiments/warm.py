"""What a run imports, imported once: `experiments.processes.warm_server` loads this and no other.

Importing it ties the process to its parent, which may end before the imports do.
"""

import gc
import signal
from importlib import import_module

from experiments.processes import die_with_parent

die_with_parent()
_on_ctrl_c = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller answers it, in a line
gc.disable()  # what is imported stays; looking for garbage takes a sixth of the time
# wandb.init imports its launch package, half of what a small run costs; the probe two of sklearn's.
for _name in (
    "experiments.training.process",
    "datamodules.batches.modalities",
    "lightning_modules.combined",
    "lightning_modules.video",
    "decord",
    "av",
    "sklearn.linear_model",
    "sklearn.model_selection",
    "wandb.sdk.launch",
):
    import_module(_name)
gc.freeze()  # nor need the forked runs look again, and their pages stay shared
gc.enable()
signal.signal(signal.SIGINT, _on_ctrl_c)  # which the forked runs inherit
