"""Masks of the cohort table: taken the way of the frames they belong to, or refused."""

from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from datamodules.errors import DataError
from datamodules.ingest.cohort_file import read_cohort
from datamodules.ingest.masks import fit_masks, read_masks
from datamodules.ingest.prepare import prepare
from datamodules.ingest.readers.pictures import MediaError
from datamodules.store.clips import ClipReader
from datamodules.store.folder import Store

HEIGHT, WIDTH = 96, 128
run = partial(prepare, canvas=64, as_is=True, progress=False, workers=1)


def mask_of(top: int, left: int, bottom: int, right: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[top:bottom, left:right] = 255
    return mask


LESION = mask_of(30, 40, 60, 90)
AROUND = mask_of(20, 30, 80, 110)  # lesion included, as glands are drawn


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """clip.mp4 of 12 frames, white in LESION, with pixels wider than high; and masks."""
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream: Any = container.add_stream("libx264", rate=4, options={"crf": "5"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(3, 2)
        for _ in range(12):
            rgb = np.repeat(np.maximum(LESION, 40)[..., None], 3, axis=-1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        container.mux(stream.encode(None))
    for name, mask in {
        "lesion": LESION,
        "around": AROUND,
        "ones": LESION // 255,
        "black": 0 * LESION,
        "small": LESION[::2, ::2],
        "inner": mask_of(35, 45, 50, 80),
        "corner": mask_of(0, 0, 8, 8),
        "dot": mask_of(50, 60, 51, 61),
        "photo": np.tile(np.arange(WIDTH, dtype=np.uint8), (HEIGHT, 1)),
    }.items():
        Image.fromarray(mask).save(tmp_path / f"{name}.png")
    Image.fromarray(LESION).save(tmp_path / "lesion.jpg", quality=70)
    return tmp_path


def table(folder: Path, mask: str, *, crop: str = "", more: str = "") -> Path:
    path = folder / "cohort.csv"
    path.write_text(
        f'patient_id,label,modality,path,crop,mask\na,0,ceus,clip.mp4,"{crop}",{mask}\n{more}'
    )
    return path


@pytest.mark.parametrize(
    ("mask", "crop"), [("lesion.png", ""), ("ones.png", "24,16,90,70"), ("lesion.jpg", "")]
)
def test_a_mask_lies_where_the_stored_frames_show_it(folder: Path, mask: str, crop: str) -> None:
    store = Store(run(table(folder, mask, crop=crop), folder / "store"))
    (item,) = store.items["item_id"]
    shown = ClipReader(store).read(item, [5])[0].float().mean(dim=0).numpy() > 140
    placed = store.mask(item)
    assert placed is not None
    lesion, parenchyma = placed
    assert shown.sum() > 100
    assert (lesion & shown).sum() / (lesion | shown).sum() > 0.9
    assert not parenchyma.any()


def test_the_parenchyma_is_without_the_lesion(folder: Path) -> None:
    store = Store(run(table(folder, "lesion.png; around.png"), folder / "store"))
    masks = store.mask(store.items["item_id"].iloc[0])
    assert masks is not None
    lesion, parenchyma = masks
    assert not (lesion & parenchyma).any()
    # 30 × 50 of 60 × 80 pixels.
    assert parenchyma.sum() / lesion.sum() == pytest.approx((4800 - 1500) / 1500, rel=0.1)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ("small", "mask of the lesion must be of the size of its clip's frames, 128×96 pixels"),
        ("lesion small", "mask of the parenchyma must be of the size"),
        ("black", "mask of the lesion must mark pixels, white on black, got only black"),
        ("photo", "must be black and white, got a picture of many grey levels"),
        ("lesion inner", "must mark pixels beside the lesion"),
        ("dot", "wider than a pixel of the stored frames, 64 by 64, got 1 pixels of the source"),
        ("corner", "in the part of the frame that is kept (x,y,w,h = 24,16,90,70), got none"),
    ],
)
def test_a_mask_that_cannot_be_meant_is_refused(folder: Path, names: str, told: str) -> None:
    paths = [folder / f"{name}.png" for name in names.split()]
    with pytest.raises(MediaError) as caught:
        fit_masks(read_masks(paths, (HEIGHT, WIDTH, 3)), (24, 16, 90, 70), 64, aspect=1.5)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("mask", "told"),
    [
        ("none.png", "mask: file must exist, got none"),
        ("../lesion.png", "mask: path must lie in the cohort's folder"),
        ("lesion.png;", "mask: path must name a file, got nothing"),
        ("lesion.png;around.png;ones.png", "got 3 files"),
    ],
)
def test_the_table_names_one_mask_or_two(folder: Path, mask: str, told: str) -> None:
    (problem,) = read_cohort(table(folder, mask)).problems
    assert told in problem.reason


def test_a_mask_of_an_image_is_refused(folder: Path) -> None:
    path = table(folder, "", more="b,1,image,photo.png,,lesion.png\n")
    (problem,) = read_cohort(path).problems
    assert problem.reason.startswith("mask must be of a clip, got one of an image")


@pytest.mark.parametrize("mask", ["black.png", "clip.mp4", "corner.png"])
def test_a_bad_mask_is_a_bad_row(folder: Path, mask: str) -> None:
    with pytest.raises(DataError, match="got 1 bad of 1") as caught:
        run(table(folder, mask, crop="24,16,90,70"), folder / "store")
    assert "mask of the lesion" in str(caught.value)
    assert not (folder / "store").exists()


def test_another_mask_changes_nothing_that_is_learned_from(folder: Path) -> None:
    store = Store(run(table(folder, ""), folder / "store"))
    assert "mask" not in store.items
    sha, (item,) = store.sha, store.items["item_id"]
    assert store.mask(item) is None
    clip = store.item_path(item, ".h264")
    written = clip.stat().st_mtime_ns
    files = []
    for mask in ("lesion.png", "lesion.png;around.png"):
        store = Store(run(table(folder, mask), folder / "store"))
        assert (store.sha, store.items["item_id"].tolist()) == (sha, [item])
        assert clip.stat().st_mtime_ns == written
        files.append({path.name for path in clip.parent.glob("*.mask.png")})
        assert store.items["mask"].iloc[0] + ".mask.png" in files[-1]
    assert all(len(names) == 1 for names in files)
    assert files[0] != files[1]
    next(clip.parent.glob("*.mask.png")).write_bytes(b"damaged")
    with pytest.raises(DataError, match="image must be readable"):
        Store(folder / "store").mask(item)
