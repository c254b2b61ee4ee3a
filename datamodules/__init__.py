"""From files to batches on the device.

Names are imported when first used, so that what the command line needs first (splits, store,
prepare, phantom) costs neither torch nor lightning: it has to start in about a second.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from datamodules.errors import DataError

if TYPE_CHECKING:
    from datamodules.batches.augment import Augment
    from datamodules.batches.datamodule import PatientDataModule
    from datamodules.batches.modalities import (
        CeusVideoDataModule,
        CombinedDataModule,
        ImageDataModule,
    )
    from datamodules.batches.phases import KeyFrames, PhaseFrames
    from datamodules.batches.sampling import (
        ClipTimes,
        FrameSampling,
        TimedWindow,
        UniformFrames,
        WindowGrid,
    )
    from datamodules.store.clips import ClipReader
    from datamodules.store.folder import Store
    from datamodules.store.splits import Split, load_split, make_split

__all__ = [
    "Augment",
    "CeusVideoDataModule",
    "ClipReader",
    "ClipTimes",
    "CombinedDataModule",
    "DataError",
    "FrameSampling",
    "ImageDataModule",
    "KeyFrames",
    "PatientDataModule",
    "PhaseFrames",
    "Split",
    "Store",
    "TimedWindow",
    "UniformFrames",
    "WindowGrid",
    "load_split",
    "make_split",
]

_NAMES_OF = {
    "batches.augment": ("Augment",),
    "batches.datamodule": ("PatientDataModule",),
    "batches.modalities": ("CeusVideoDataModule", "CombinedDataModule", "ImageDataModule"),
    "batches.phases": ("KeyFrames", "PhaseFrames"),
    "batches.sampling": (
        "ClipTimes", "FrameSampling", "TimedWindow", "UniformFrames", "WindowGrid",
    ),
    "store.clips": ("ClipReader",),
    "store.folder": ("Store",),
    "store.splits": ("Split", "load_split", "make_split"),
}  # fmt: skip


def __getattr__(name: str) -> Any:
    for module, names in _NAMES_OF.items():
        if name in names:
            return getattr(import_module(f"datamodules.{module}"), name)
    raise AttributeError(f"module 'datamodules' has no attribute {name!r}")
