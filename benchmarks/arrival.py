"""How exactly `ceus prepare` finds the arrival of contrast: phantom clips against their truth.

python -m benchmarks.arrival --preset published --patients 40
"""

import json
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from jsonargparse import auto_cli

from datamodules.ingest.prepare import prepare
from datamodules.phantom.make import make_phantom
from datamodules.store.folder import Store

_TOLERANCE_S = 0.5


def measure(
    *,
    preset: Literal["demo", "published"] = "demo",
    patients: int = 100,
    seed: int = 0,
    canvas: int = 256,
) -> None:
    """Make a phantom, prepare it and print how far the arrivals found lie from the true ones.

    Args:
        preset: Name of the phantom's preset.
        patients: How many; one in twelve has a second clip.
        seed: Seed of the phantom.
        canvas: Side of the stored frames, pixels.
    """
    with tempfile.TemporaryDirectory() as folder:
        table = make_phantom(Path(folder) / "phantom", patients=patients, seed=seed, preset=preset)
        store = Store(prepare(table, Path(folder) / "store", canvas=canvas))
        truth = json.loads((table.parent / "truth.json").read_text())
        clips = store.items[store.items["modality"] == "ceus"]
        errors = arrival_errors(clips, truth)
    offsets = errors[np.isfinite(errors)]
    near = int((np.abs(offsets) <= _TOLERANCE_S).sum())
    print(
        f"{preset}, seed {seed}, canvas {canvas}: {len(errors)} clips, arrival found in "
        f"{len(offsets)}, within {_TOLERANCE_S} s in {near} ({100 * near / len(errors):.1f} %); "
        f"error median {np.median(offsets):+.2f}, range {offsets.min():+.2f} to "
        f"{offsets.max():+.2f} s"
    )


def arrival_errors(clips: pd.DataFrame, truth: dict[str, Any]) -> npt.NDArray[np.float64]:
    """Found minus true arrival in seconds, NaN where none was found; a patient's clips by rank."""
    errors = []
    for patient in truth["patients"]:
        true = sorted(
            min(bolus["arrival_s"] for bolus in clip["boluses"].values())
            for clip in patient["clips"]
        )
        of_patient = clips.loc[clips["patient_id"] == patient["patient_id"], "arrival_s"]
        errors.append(np.sort(of_patient) - true)
    return np.concatenate(errors)


if __name__ == "__main__":
    auto_cli(measure)
