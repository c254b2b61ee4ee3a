"""The phantom's answer: who is positive, the latent scores, and the best AUC they allow."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from datamodules.phantom.preset import PhantomPreset


@dataclass(frozen=True)
class Patient:
    """One patient before rendering; `split` is "" where the preset has no hold-out."""

    number: int
    label: int
    split: str
    z_image: float
    z_video: float
    age: int
    sex: str
    centre: str
    images: int
    clips: int

    @property
    def patient_id(self) -> str:
        """Pseudonym of the patient."""
        return f"P{self.number:04d}"


def separation(auc: float) -> float:
    """Distance d of two unit-variance normal score distributions whose AUC is Φ(d/√2)."""
    return float(np.sqrt(2) * NormalDist().inv_cdf(auc))


def draw_patients(preset: PhantomPreset, seed: int) -> list[Patient]:
    """Labels with exact counts, latent scores, and covariates that tell nothing."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
    total, test = preset.patients, preset.test_patients
    label = np.zeros(total, int)
    label[: preset.test_positives] = 1
    label[test : test + preset.positives - preset.test_positives] = 1
    part = np.where(np.arange(total) < test, "test", "train" if test else "")
    order = rng.permutation(total)
    label, part = label[order], part[order]
    z_image = rng.normal(label * separation(preset.image_auc))
    z_video = rng.normal(label * separation(preset.video_auc))
    age = np.clip(np.rint(rng.normal(45, 12, total)), 18, 85)
    sex = rng.choice(["F", "M"], total, p=[0.75, 0.25])
    centre = rng.choice(["A", "B", "C"], total)
    images, clips = 1 + (rng.uniform(size=(2, total)) < preset.repeat_share).astype(int)
    return [
        Patient(
            number=i + 1,
            label=int(label[i]),
            split=str(part[i]),
            z_image=float(z_image[i]),
            z_video=float(z_video[i]),
            age=int(age[i]),
            sex=str(sex[i]),
            centre=str(centre[i]),
            images=int(images[i]),
            clips=int(clips[i]),
        )
        for i in range(total)
    ]


def answer(preset: PhantomPreset, people: Sequence[Patient]) -> dict[str, Any]:
    """Separations, best reachable AUCs, and what the latent scores reach on these patients."""
    d_image, d_video = separation(preset.image_auc), separation(preset.video_auc)
    both = NormalDist().cdf(float(np.hypot(d_image, d_video) / np.sqrt(2)))
    label = np.array([patient.label for patient in people])
    part = np.array([patient.split for patient in people])
    z_image = np.array([patient.z_image for patient in people])
    z_video = np.array([patient.z_video for patient in people])
    oracle = {}
    for name in ("all", "train", "test"):
        chosen = (part == name) | (name == "all")
        if chosen.any():
            truth, image, video = label[chosen], z_image[chosen], z_video[chosen]
            oracle[name] = {
                "patients": len(truth),
                "positives": int(truth.sum()),
                "image": _auc(truth, image),
                "video": _auc(truth, video),
                "combined": _auc(truth, d_image * image + d_video * video),
            }
    return {
        "separation": {"image": d_image, "video": d_video},
        "analytic_auc": {"image": preset.image_auc, "video": preset.video_auc, "combined": both},
        "oracle_auc": oracle,
    }


def _auc(label: npt.NDArray[np.int_], score: npt.NDArray[np.float64]) -> float:
    """Share of (positive, negative) pairs in the right order; continuous scores have no ties."""
    positives = int(label.sum())
    rank_sum = int(np.flatnonzero(label[np.argsort(score)]).sum())
    pairs = positives * (label.size - positives)
    return (rank_sum - positives * (positives - 1) // 2) / pairs
