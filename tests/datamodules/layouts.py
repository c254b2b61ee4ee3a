"""Screens of scanners made around phantom clips: dual panels, overlays, logos, clocks, names."""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

WORDS = ("MI 0.08", "TIS 0.1", "12 cm", "Gn 62", "C5-1", "Thyroid", "FR 13Hz", "2D 58%", "General")
NAME = "CANARY, JANE 4711"


@dataclass(frozen=True)
class Screen:
    """Frames (T, H, W, 3) uint8 and the true boxes (x, y, w, h) of the panels."""

    frames: np.ndarray
    ceus: tuple[int, int, int, int]
    bmode: tuple[int, int, int, int] | None


def make_screen(contrast: np.ndarray, tissue: np.ndarray, seed: int, *, frames: int = 16) -> Screen:
    """Compose one export screen.

    Args:
        contrast: (T, h, w, 3) frames of a CEUS clip.
        tissue: (H, W, 3) B-mode picture; it is made to move and flicker.
        seed: draws size, places, texts.
        frames: how many to make, spread over the clip.
    """
    rng = np.random.default_rng(seed)
    width, height = ((640, 480), (800, 600), (1024, 768), (720, 576))[rng.integers(4)]
    dual = bool(rng.random() < 0.8)
    stacked = dual and bool(rng.random() < 0.15)
    gap = int(rng.integers(0, 16))
    top, bottom = int(rng.integers(30, 70)), int(rng.integers(25, 60))
    left, right = int(rng.integers(20, 90)), int(rng.integers(20, 70))
    room_w = width - left - right - (gap if dual and not stacked else 0)
    room_h = height - top - bottom - (gap if stacked else 0)
    w = room_w // 2 if dual and not stacked else room_w
    h = room_h // 2 if stacked else room_h
    w = min(w, round(h * rng.uniform(1.0, 1.5)))
    h = min(h, round(w * rng.uniform(0.9, 1.6)))
    first = (left, top, w, h)
    second = (left, top + h + gap, w, h) if stacked else (left + w + gap, top, w, h)
    boxes = [first, second] if dual else [first]
    if dual and rng.random() < 0.5:
        boxes.reverse()
    ceus, bmode = boxes[0], boxes[1] if dual else None
    grey_map = dual and rng.random() < 0.25  # a contrast map without tint
    back = Image.new("RGB", (width, height), tuple(int(v) for v in rng.integers(0, 30, 3)))
    draw = ImageDraw.Draw(back)
    font = ImageFont.load_default(size=int(rng.integers(11, 19)))
    draw.text((8, 6), NAME, fill="white", font=font)
    draw.ellipse((width - 40, 6, width - 12, 28), fill=(40, 110, 220))
    for number in range(int(rng.integers(3, 9))):
        where = (int(rng.integers(2, max(3, left - 15))), top + 20 * number)
        draw.text(where, str(rng.choice(WORDS)), fill=(230, 230, 90), font=font)
    for x, y, bw, bh in boxes:
        for tick in range(0, bh, max(8, bh // 9)):
            draw.line((x + bw + 1, y + tick, x + bw + 5, y + tick), fill="white")
        for level in range(60):
            shade = 255 - 4 * level
            draw.line((x + bw - 12, y - 26 + level // 3, x + bw - 4, y - 26 + level // 3),
                      fill=(shade, shade, shade))  # fmt: skip
    quality = int(rng.integers(75, 95))
    pictures = []
    for number in range(frames):
        at = number * (len(contrast) - 1) // (frames - 1)
        frame = back.copy()
        light = Image.fromarray(contrast[at]).resize(ceus[2:], Image.Resampling.BICUBIC)
        if grey_map:
            light = light.convert("L").convert("RGB")
        frame.paste(light, ceus[:2])
        if bmode:
            moved = np.roll(tissue, rng.integers(-2, 3, 2), axis=(0, 1)).astype(np.float32)
            moved *= rng.gamma(12, 1 / 12, moved.shape[:2])[..., None]
            grey = Image.fromarray(moved.clip(0, 255).astype(np.uint8))
            frame.paste(grey.resize(bmode[2:], Image.Resampling.BICUBIC), bmode[:2])
        overlay = ImageDraw.Draw(frame)
        overlay.text((width - 130, height - 22), f"00:{number:02d}.{number * 7 % 100:02d}",
                     fill="white", font=font)  # fmt: skip
        for x, y, bw, bh in boxes:  # focus mark and a caliper inside the picture
            overlay.text((x + 6, y + bh - 24), "+ 12.3 mm", fill=(0, 255, 0), font=font)
            overlay.ellipse((x + bw // 2, y + 3, x + bw // 2 + 7, y + 10), fill=(255, 180, 0))
        buffer = io.BytesIO()
        frame.save(buffer, "JPEG", quality=quality)
        pictures.append(np.asarray(Image.open(buffer)))
    return Screen(np.stack(pictures), ceus, bmode)
