"""How a network is trained and scored: one base, three classifiers.

Names are imported when first used: scores are gathered where there is no torch, too.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_modules.average import WeightAverage
    from lightning_modules.base import PatientClassifier
    from lightning_modules.combined import CombinedClassifier
    from lightning_modules.freeze import FreezeEncoders
    from lightning_modules.image import ImageClassifier
    from lightning_modules.pretrain import EncoderPretraining
    from lightning_modules.scores import gather_rows, patient_scores
    from lightning_modules.sync_norm import SyncBatchNorm
    from lightning_modules.video import VideoClassifier

__all__ = [
    "CombinedClassifier",
    "EncoderPretraining",
    "FreezeEncoders",
    "ImageClassifier",
    "PatientClassifier",
    "SyncBatchNorm",
    "VideoClassifier",
    "WeightAverage",
    "gather_rows",
    "patient_scores",
]

_MODULE_OF = {
    "CombinedClassifier": "combined",
    "EncoderPretraining": "pretrain",
    "FreezeEncoders": "freeze",
    "ImageClassifier": "image",
    "PatientClassifier": "base",
    "SyncBatchNorm": "sync_norm",
    "VideoClassifier": "video",
    "WeightAverage": "average",
    "gather_rows": "scores",
    "patient_scores": "scores",
}


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(import_module(f"lightning_modules.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module 'lightning_modules' has no attribute {name!r}")
