"""`ceus prepare`, with all its checks, against FFmpeg writing clips of the same kind."""

import shutil
from pathlib import Path

from benchmarks.material import CANVAS, ffmpeg, run_ffmpeg, write_source
from benchmarks.measure import Section, interleave, verdict
from datamodules.ingest.item import ingest
from datamodules.ingest.task import Task

_FRAMES = 600
_TITLE = "Preparing"


def run(folder: Path) -> Section:
    """Times them."""
    about = (
        f"{_FRAMES} frames of a source as above to the store's all-intra H.264 at {CANVAS} pixels, "
        "on one core. ceus decodes strictly, resizes in RGB with antialias, encodes, hashes, reads "
        "back at random and compares; FFmpeg scales in YUV and encodes with the same settings."
    )
    if not ffmpeg():
        skipped = ["FFmpeg's command is not installed"]
        return Section(_TITLE, about, ("by", "CPU s", "wall s"), (), skipped=skipped)
    folder.mkdir(parents=True, exist_ok=True)
    source, staging = folder / "short.mp4", folder / "staging"
    write_source(source, frames=_FRAMES)
    scale = f"scale={CANVAS}:-2:flags=bicubic,pad={CANVAS}:{CANVAS}:0:(oh-ih)/2"
    coding = "-c:v libx264 -preset veryfast -tune fastdecode -crf 14 -aq-mode 0 -g 1 -threads 1"

    def ours() -> None:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        task = Task(0, source, "p", "ceus", None, CANVAS, staging, frozenset())
        assert not ingest(task).reason

    def theirs() -> None:
        run_ffmpeg(
            "-threads", "1", "-i", source, "-vf", scale, *coding.split(), staging / "out.mp4"
        )

    timings = interleave({"ceus prepare": ours, "ffmpeg": theirs}, rounds=3)
    shutil.rmtree(staging)
    speed = timings.wall_ratio("ffmpeg", "ceus prepare")
    return Section(
        title=_TITLE,
        about=about,
        columns=("by", "CPU s", "wall s"),
        rows=[(n, f"{timings.cpu(n):.2f}", f"{timings.wall(n):.2f}") for n in timings.costs],
        targets=[verdict("Speed of ceus / of FFmpeg", speed, least=0.5)],
    )
