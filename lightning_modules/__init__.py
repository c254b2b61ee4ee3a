"""How a network is trained and scored: one base, three classifiers."""

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
