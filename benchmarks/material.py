"""Clips to time on: made once, kept in `data/bench`."""

import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.ndimage import gaussian_filter

from datamodules.ingest.prepare import prepare
from datamodules.store.avi import splice
from datamodules.store.clip_file import read_index, read_packets
from datamodules.store.folder import Store

WIDTH, HEIGHT, FRAMES, GOP, CANVAS, SIZE, CLIP = 1024, 768, 1500, 25, 256, 224, 32
"""Sources: pixels, frames, frames between key frames. Store: side. Read: side and frames."""

Indices = npt.NDArray[np.int64]


class Material:
    """A long source, its store, and the store's clip as an ordinary file.

    Args:
        folder: Where it is kept; made there if it is not (half a minute).

    Attributes:
        source: 1024×768, 1,500 frames.
        store: What `ceus prepare` makes of it.
        item: The store's item.
        plain: The packets of this item as an AVI that any reader opens.
        psnr: dB, of the store against the frames it was made from.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.source = folder / "source.mp4"
        write_source(self.source, frames=FRAMES)
        cohort = folder / "cohort.csv"
        cohort.write_text(f"patient_id,label,modality,path\np,0,ceus,{self.source.name}\n")
        self.store = Store(
            prepare(cohort, folder / "store", canvas=CANVAS, as_is=True, progress=False)
        )
        self.item = str(self.store.items["item_id"][0])
        self.psnr = float(pd.read_csv(self.store.path / "quality.csv")["psnr"][0])
        self.plain = folder / f"{self.item}.avi"
        if not self.plain.exists():
            index = read_index(self.store.item_path(self.item, ".idx"))
            path = self.store.item_path(self.item, ".h264")
            packets = read_packets(path, index, frames=range(len(index)))
            self.plain.write_bytes(splice(packets, CANVAS))

    def wanted(self, count: int, *, seed: int) -> list[Indices]:
        """`count` times 32 frames at random of all 1,500, in order, none of them twice."""
        order = np.random.default_rng(seed).permutation(FRAMES)[: count * CLIP]
        return list(np.sort(order.reshape(count, CLIP), axis=1))


def write_source(path: Path, *, frames: int) -> None:
    """H.264 of 1024×768 with a key frame every second, as a scanner exports it; once.

    Tissue speckle that moves with breathing, under an amber enhancement that washes in.
    """
    if path.exists():
        return
    rng = np.random.default_rng(0)
    shape = (HEIGHT + 128, WIDTH + 128)
    layers = []
    for _ in range(2):  # the envelope of filtered noise is speckle (Burckhardt 1978)
        speckle = np.hypot(*(gaussian_filter(rng.normal(size=shape), (3.0, 6.0)) for _ in range(2)))
        echo = gaussian_filter(rng.normal(size=shape), 50)  # bright and dark tissue
        layer = speckle * ((echo - echo.min()) / np.ptp(echo)) ** 2
        layers.append(np.clip(layer / np.percentile(layer, 99.5) * 255, 0, 255))
    tissue, agent = (layer.astype(np.uint16) for layer in layers)
    partial = path.with_suffix(".partial.mp4")
    with av.open(str(partial), "w") as container:
        options = {"preset": "veryfast", "crf": "20", "x264-params": f"keyint={GOP}:scenecut=0"}
        stream: Any = container.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(frames):
            x, y = (int(64 + 60 * wave(number / 40)) for wave in (np.sin, np.cos))
            gain = int(20 + 100 * min(number, 500) / 500)
            grey = tissue[y:, x:][:HEIGHT, :WIDTH] * 60
            grey += agent[128 - y :, 128 - x :][:HEIGHT, :WIDTH] * gain
            luma = (16 + (grey >> 8)).astype(np.uint8)
            tint = luma[::2, ::2] >> 5
            frame = av.VideoFrame(WIDTH, HEIGHT, "yuv420p")
            planes = (luma, 128 - tint, 128 + tint // 2)
            for plane, values in zip(frame.planes, planes, strict=True):
                plane.update(values.astype(np.uint8).tobytes())
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    partial.replace(path)


@cache
def ffmpeg() -> str:
    """FFmpeg's command; "" where there is none."""
    return shutil.which("ffmpeg") or ""


def run_ffmpeg(*arguments: object) -> None:
    """Runs FFmpeg quietly, over files that are there."""
    command = [ffmpeg(), "-v", "error", "-nostdin", "-y", *map(str, arguments)]
    subprocess.run(command, check=True)
