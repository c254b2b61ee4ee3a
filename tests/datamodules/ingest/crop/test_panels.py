"""Panels and overlays on screens made around the phantom, and what a person must approve."""

import json
import os
import re
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.signal import fftconvolve

from datamodules.errors import DataError
from datamodules.ingest.crop.overlays import find_overlay
from datamodules.ingest.crop.panels import choose_region, find_layout
from datamodules.ingest.prepare import prepare
from datamodules.ingest.readers.clip import Box
from datamodules.ingest.readers.open import open_clip
from datamodules.ingest.review import approvals_path, read_approvals, review_path
from datamodules.phantom.make import PRESETS, make_phantom
from datamodules.store.clips import ClipReader
from datamodules.store.folder import Store
from tests.datamodules.layouts import NAME, Screen, make_screen


def letters(text: str) -> np.ndarray:
    from PIL import ImageDraw, ImageFont

    font = ImageFont.load_default(size=16)
    image = Image.new("L", (round(font.getlength(text)) + 4, 22))
    ImageDraw.Draw(image).text((1, 1), text, fill=255, font=font)
    return np.asarray(image) > 128


LETTERS = letters("CANARY J")

SCREENS = 100 if os.environ.get("CEUS_ALL_SCREENS") else 8


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[np.ndarray, np.ndarray]]:
    """Clip (T, h, w, 3) and B-mode picture of a few patients of the demo phantom."""
    folder = tmp_path_factory.mktemp("films") / "phantom"
    table = make_phantom(folder, patients=5, preset=PRESETS["demo"], workers=1, progress=False)
    rows = pd.read_csv(table).drop_duplicates(["patient_id", "modality"])
    films = []
    for _, patient_rows in rows.groupby("patient_id"):
        path = patient_rows.set_index("modality")["path"]
        if {"image", "ceus"} <= set(path.index):
            with open_clip(folder / path["ceus"]) as clip:
                contrast = np.stack(list(clip.frames(step=4)))
            films.append((contrast, np.asarray(Image.open(folder / path["image"]).convert("RGB"))))
    assert len(films) >= 3
    return films


def overlap(one: Box, other: Box) -> float:
    """Intersection over union."""
    w = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    h = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    both = max(0, w) * max(0, h)
    return both / (one[2] * one[3] + other[2] * other[3] - both)


def test_the_contrast_panel_is_found_on_95_of_100_screens(
    films: list[tuple[np.ndarray, np.ndarray]],
) -> None:
    is_right = []
    for seed in range(1000, 1000 + SCREENS):
        screen = make_screen(*films[seed % len(films)], seed)
        layout = find_layout(screen.frames)
        is_right.append(overlap(layout.chosen, screen.ceus) >= 0.97)
        assert 0 <= layout.confidence <= 1
    assert np.mean(is_right) >= (0.95 if SCREENS == 100 else 0.9)


def test_a_frame_full_of_ultrasound_is_kept_but_for_dark_edges(
    films: list[tuple[np.ndarray, np.ndarray]],
) -> None:
    for contrast, _ in films:
        layout = find_layout(contrast)
        # Behind air, and in the skin's still line, nothing moves.
        assert overlap(layout.chosen, (0, 0, 128, 128)) > 0.75
        overlay = find_overlay(contrast)
        assert overlay.confidence < 0.5 or overlay.mask.mean() < 0.005


def enlarged(film: np.ndarray) -> np.ndarray:
    return film.repeat(4, axis=1).repeat(4, axis=2)


def test_the_skins_line_is_no_writing(films: list[tuple[np.ndarray, np.ndarray]]) -> None:
    for contrast, _ in films:
        frames = enlarged(contrast)
        assert (frames[:, 0].min(axis=-1) > 150).all()  # it is there, right across
        assert not find_overlay(frames).mask[:4].any()


@pytest.mark.parametrize(
    ("bar", "ink"), [((255, 255, 255), 0), ((20, 60, 200), 255), ((170, 170, 170), 255)]
)
@pytest.mark.parametrize("height", [24, 40])
def test_a_name_on_a_bar_is_not_taken_for_skin(
    films: list[tuple[np.ndarray, np.ndarray]], bar: tuple[int, ...], ink: int, height: int
) -> None:
    frames = enlarged(films[0][0])
    frames[:, :height] = bar
    rows, columns = np.nonzero(LETTERS)
    frames[:, 1 + rows, 60 + columns] = ink
    x, y, w, h = find_layout(frames).chosen
    left = find_overlay(frames[:, y : y + h, x : x + w])
    assert y >= height or min(left.confidence, left.rest) < 0.7


@pytest.mark.parametrize("above", [3, 10, 25])
def test_letters_at_a_rule_go_whole(films: list[tuple[np.ndarray, np.ndarray]], above: int) -> None:
    """A line through or under a name is not the skin."""
    frames = enlarged(films[0][0])[:, 12:]
    rows, columns = np.nonzero(LETTERS)
    frames[:, 200 + rows, 60 + columns] = 255
    frames[:, 200 + above] = 255
    found = find_overlay(frames)
    assert found.confidence >= 0.7
    assert found.mask[200 + rows, 60 + columns].mean() > 0.9


def test_a_dim_letter_goes_with_its_line(films: list[tuple[np.ndarray, np.ndarray]]) -> None:
    frames = enlarged(films[0][0])
    frames[:, 200:330, 40:400] = 50
    rows, columns = np.nonzero(LETTERS)
    dim = columns > LETTERS.shape[1] / 2
    frames[:, 240 + rows, 60 + columns] = np.where(dim, 135, 255)[:, None]
    frames[:, 300 + rows, 60 + columns] = 135
    found = find_overlay(frames)
    assert found.mask[240 + rows, 60 + columns].mean() > 0.9
    assert found.confidence >= 0.7 > found.rest, "the dim name of its own is in doubt"


def test_a_still_clip_is_kept_whole_without_confidence() -> None:
    frames = np.repeat(np.random.default_rng(0).integers(0, 255, (1, 64, 80, 3)), 9, 0)
    layout = find_layout(frames.astype(np.uint8))
    assert (layout.chosen, layout.confidence) == ((0, 0, 80, 64), 0.0)


@pytest.fixture(scope="module")
def screen(films: list[tuple[np.ndarray, np.ndarray]]) -> Screen:
    """A screen with two panels beside each other."""
    screens = (make_screen(*films[0], seed) for seed in range(50))
    return next(s for s in screens if s.bmode and s.bmode[1] == s.ceus[1])


def test_a_panel_may_be_named_by_its_place(screen: Screen) -> None:
    assert screen.bmode
    bmode_is = "left" if screen.bmode[0] < screen.ceus[0] else "right"
    named = find_layout(screen.frames, panel=bmode_is)
    assert overlap(named.chosen, screen.bmode) > 0.97
    regions = (screen.ceus, screen.bmode, (0, 0, 20, 9))
    assert choose_region(regions, screen.frames).chosen == screen.ceus
    assert choose_region(regions, screen.frames, panel=bmode_is).chosen == screen.bmode


def write_clip(path: Path, frames: np.ndarray, *, codec: str, pix_fmt: str) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=8)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        stream.time_base = Fraction(1, 8)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture
def exported(screen: Screen, write_cohort: Callable[..., Path]) -> Path:
    """A cohort of one clip, its name burnt in outside and inside of the panel."""
    frames = screen.frames.copy()
    x, y, _, _ = screen.ceus
    frames[:, y + 30 : y + 30 + LETTERS.shape[0], x + 20 : x + 20 + LETTERS.shape[1]][
        :, LETTERS
    ] = 250
    row = {"patient_id": "p1", "label": 1, "modality": "ceus", "path": "canary_jane.avi"}
    table = write_cohort([row | {"canary_note": NAME}])
    write_clip(table.parent / row["path"], frames, codec="mjpeg", pix_fmt="yuvj420p")
    return table


def likeness(frame: np.ndarray, template: np.ndarray) -> float:
    """Best normalised cross-correlation of a template with any place of a grey frame."""
    pattern = template - template.mean()
    local = np.ones(template.shape)
    grey = frame.astype(float)
    mean = fftconvolve(grey, local, "valid") / local.size
    power = fftconvolve(grey**2, local, "valid") - local.size * mean**2
    match = fftconvolve(grey, pattern[::-1, ::-1], "valid")
    return float((match / np.sqrt(np.maximum(power, 1) * (pattern**2).sum())).max())


def test_no_name_is_left_in_the_store_nor_in_its_pixels(
    exported: Path, screen: Screen, tmp_path: Path
) -> None:
    store = prepare(exported, tmp_path / "store", canvas=512, progress=False, workers=1)
    for path in store.rglob("*"):
        content = str(path.relative_to(store)).encode() + (
            path.read_bytes() if path.is_file() else b""
        )
        assert not re.search(rb"canary|jane|4711", content, re.IGNORECASE), path.name
    opened = Store(store)
    (item,) = opened.items.to_dict("records")
    assert "panel found by its pixels" in item["warnings"]
    assert "blacked out as writing" in item["warnings"]
    quality = pd.read_csv(store / "quality.csv").iloc[0]
    box = tuple(map(int, quality["crop"].split(",")))
    assert overlap(box, screen.ceus) > 0.94
    # The same search finds the name in a store of whole frames.
    as_is = prepare(exported, tmp_path / "as-is", canvas=512, as_is=True, progress=False, workers=1)
    for where, finds in ((opened, False), (Store(as_is), True)):
        name = where.items["item_id"][0]
        frame = ClipReader(where).read(name, [8])[0].float().mean(0).numpy()
        side = 512 / max(screen.frames.shape[1:3] if finds else (box[2], box[3]))
        size = (round(LETTERS.shape[1] * side), round(LETTERS.shape[0] * side))
        template = np.asarray(Image.fromarray(LETTERS).convert("L").resize(size)).astype(float)
        assert (likeness(frame, template) > 0.6) == finds


def test_what_may_be_writing_and_was_left_is_told(
    write_cohort: Callable[..., Path],
    films: list[tuple[np.ndarray, np.ndarray]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A clip too short to tell writing from tissue."""
    table = write_cohort([{"patient_id": "p1", "label": 1, "modality": "ceus", "path": "c.avi"}])
    write_clip(table.parent / "c.avi", enlarged(films[0][0])[:7], codec="mjpeg", pix_fmt="yuvj420p")
    store = prepare(table, tmp_path / "store", canvas=64, progress=False, workers=1)
    assert "marks in doubt not blacked out" in Store(store).items["warnings"][0]
    assert "1 of 1 clips show what may be writing, and it was left" in capsys.readouterr().err
    review_path(store).unlink()  # the store knows the clip: it is looked at again, for the page
    for _ in range(2):
        with pytest.raises(
            DataError, match=r"approve what may be writing \(confidence 0.00\); tick"
        ):
            prepare(table, store, canvas=64, progress=False, workers=1, require_review=True)
        page = review_path(store).read_text()
        assert "in doubt: what may be writing (0.00)" in page
    (item,) = re.findall(r'checkbox" value="(\w+)"', page)
    approvals_path(store).write_text(f"item_id\n{item}\n")
    prepare(table, store, canvas=64, progress=False, workers=1, require_review=True)
    # Frames as they came were kept from call to call, and not in what is handed on; nor do they
    # stay where an earlier version left them.
    assert not holding_frames(store)
    list_of = store / "prepared.json"
    content = json.loads(list_of.read_text())
    content["items"][item]["thumbnail"] = "data:image/jpeg;base64,AA"
    list_of.write_text(json.dumps(content))
    assert holding_frames(store) == [list_of]
    prepare(table, store, canvas=64, progress=False, workers=1)
    assert not holding_frames(store)


def holding_frames(folder: Path) -> list[Path]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if b"data:image" in path.read_bytes()]


def test_doubtful_panels_wait_for_approval(exported: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    make = partial(prepare, exported, store, canvas=64, progress=False, workers=1)
    make()
    page = review_path(store).read_text()
    item = Store(store).items["item_id"][0]
    assert f'value="{item}"' in page
    assert "data:image/jpeg;base64," in page
    assert not re.search(r"canary|jane", page, re.IGNORECASE)

    with open_clip(exported.parent / "canary_jane.avi") as clip:
        still = np.repeat(np.stack(list(clip.frames()))[:1], 16, 0)
    # Without loss: nothing at all moves, so nothing can be told.
    write_clip(exported.parent / "canary_jane.avi", still, codec="ffv1", pix_fmt="bgr0")
    with pytest.raises(DataError, match=r"must approve panel \(confidence 0.00\)"):
        make(require_review=True)
    page = review_path(store).read_text()
    (item,) = re.findall(r'checkbox" value="(\w+)"', page)
    approvals_path(store).write_text(f"item_id\n{item}\n")
    make(require_review=True)
    assert Store(store).items["item_id"].tolist() == [item]


def test_approvals_of_another_kind_are_refused(tmp_path: Path) -> None:
    assert read_approvals(tmp_path / "store") == frozenset()
    approvals_path(tmp_path / "store").write_text("name\nx\n")
    with pytest.raises(DataError, match="approvals must have a first column item_id, got 'name'"):
        read_approvals(tmp_path / "store")
