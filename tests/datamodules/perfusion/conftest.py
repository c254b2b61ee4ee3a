"""Phantom clips of which all is known: kinetics, how the tissue moves, and where what lies."""

import copy
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.ingest.prepare import prepare
from datamodules.perfusion.bolus import Bolus
from datamodules.phantom import render
from datamodules.phantom.anatomy import draw_anatomy
from datamodules.phantom.files import write_clip
from datamodules.phantom.perfusion import REGIONS, draw_perfusion
from datamodules.phantom.tissue import perfused, regions

FRAMES, FPS, SIDE, DEPTH_MM = 120, 8, 128, 22.0
RANGE_DB = 50.0  # of the phantom's display
PATIENTS = int(os.environ.get("CEUS_PHANTOM_PATIENTS", "3"))


@dataclass(frozen=True)
class Known:
    """A clip's truth: the bolus of each region, and (T, 2) where the tissue is, y and x."""

    boluses: dict[str, Bolus]
    position: np.ndarray


@dataclass(frozen=True)
class Phantom:
    store: Path
    known: dict[str, Known]


def make_clip(seed: int, folder: Path) -> tuple[str, Known]:
    """Writes a clip and two masks drawn on its brightest frame; gives its row."""
    rng = np.random.default_rng(seed)
    anatomy = draw_anatomy(rng)
    boluses = draw_perfusion(rng, vascularity=rng.uniform(0.05, 0.95), time_scale=0.3)
    pixels_per_mm = SIDE / DEPTH_MM
    pad = int(np.ceil(render._MOTION_MM * pixels_per_mm)) + 1
    wide = SIDE + 2 * pad
    x, y = render._grid((wide, wide), pixels_per_mm, anatomy.side, top_mm=-pad / pixels_per_mm)
    twin = copy.deepcopy(rng)  # draws what the renderer will
    shares = perfused(twin, anatomy, x, y, pixels_per_mm)
    render._echo(
        twin, anatomy, suspicion=render._PLAIN_NODULE, size=(wide, wide),
        depth_mm=wide / pixels_per_mm, top_mm=-pad / pixels_per_mm,
    )  # fmt: skip
    corner = pixels_per_mm * render._motion(twin, np.arange(FRAMES) / FPS)
    rendered = render.render_ceus(
        rng, anatomy, boluses, frames=FRAMES, fps=FPS, size=(SIDE, SIDE), depth_mm=DEPTH_MM
    )
    frames = list(rendered.frames)
    clip = write_clip(folder / f"{seed}", frames, size=(SIDE, SIDE), kind=seed, fps=FPS)
    level = np.convolve([frame.mean() for frame in frames], np.ones(FPS), "same")
    drawn_on = int(level.argmax())
    drawn, known = rendered.masks(drawn_on), {}
    for (name, mask), region in zip(regions(anatomy, x, y), ("nodule", "thyroid"), strict=True):
        bolus = boluses[region]
        peak = 10 ** (bolus.peak_db / 10) * shares[REGIONS.index(region)][mask].mean()
        rise = bolus.peak_s - bolus.arrival_s
        known[name] = Bolus(0.0, float(peak), bolus.arrival_s, rise, bolus.sigma)
        Image.fromarray(drawn[name]).save(folder / f"{seed}-{name}.png")
    row = f"{seed},{seed % 2},ceus,{clip.name},{seed}-lesion.png;{seed}-parenchyma.png"
    return row, Known(known, corner[drawn_on] - corner)


@pytest.fixture(scope="session")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Phantom:
    """A store of a few such clips; of as many as CEUS_PHANTOM_PATIENTS says."""
    folder = tmp_path_factory.mktemp("perfusion")
    made = {str(seed): make_clip(seed, folder) for seed in range(100, 100 + PATIENTS)}
    table = ["patient_id,label,modality,path,mask", *(row for row, _ in made.values())]
    (folder / "cohort.csv").write_text("\n".join(table) + "\n")
    store = prepare(
        folder / "cohort.csv", folder / "store", canvas=SIDE, as_is=True, progress=False, workers=1
    )
    return Phantom(store, {patient: known for patient, (_, known) in made.items()})
