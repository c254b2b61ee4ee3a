"""From files to batches on the device.

Names are imported when first used, so that ``import datamodules.splits`` (and prepare, phantom,
store) costs neither torch nor lightning: the command line has to start in about a second.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from datamodules.errors import DataError

if TYPE_CHECKING:
    from datamodules.augment import Augment
    from datamodules.ceus_video import CeusVideoDataModule
    from datamodules.clips import ClipReader
    from datamodules.combined import CombinedDataModule
    from datamodules.image import ImageDataModule
    from datamodules.phases import KeyFrames, PhaseFrames
    from datamodules.sampling import (
        ClipTimes,
        FrameSampling,
        TimedWindow,
        UniformFrames,
        WindowGrid,
    )
    from datamodules.splits import Split, load_split, make_split
    from datamodules.store import Store

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
    "PhaseFrames",
    "Split",
    "Store",
    "TimedWindow",
    "UniformFrames",
    "WindowGrid",
    "load_split",
    "make_split",
]

_MODULE_OF = {
    "Augment": "augment",
    "CeusVideoDataModule": "ceus_video",
    "ClipReader": "clips",
    "ClipTimes": "sampling",
    "CombinedDataModule": "combined",
    "FrameSampling": "sampling",
    "ImageDataModule": "image",
    "KeyFrames": "phases",
    "PhaseFrames": "phases",
    "Split": "splits",
    "Store": "store",
    "TimedWindow": "sampling",
    "UniformFrames": "sampling",
    "WindowGrid": "sampling",
    "load_split": "splits",
    "make_split": "splits",
}


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(import_module(f"datamodules.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module 'datamodules' has no attribute {name!r}")
