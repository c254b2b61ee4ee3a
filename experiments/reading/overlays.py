"""What `ceus explain` left of a sweep's patients: clips under a map."""

import json
from dataclasses import dataclass
from pathlib import Path

from experiments.errors import ConfigError

_UNSEEN = ("oof", "test")


@dataclass(frozen=True)
class Overlay:
    """A clip beside itself under a map.

    Attributes:
        clip: The MP4.
        patient: The patient's hash.
        item: The clip's id, also of one explained beside an image.
        run: Of which run.
        first_s: Seconds of the clip at the overlay's first frame.
        last_s: At its last.
    """

    clip: Path
    patient: str
    item: str
    run: str
    first_s: float
    last_s: float


def read_overlays(folder: Path) -> list[Overlay]:
    """Overlays by models that had not seen the patient; none if there is no such folder.

    Raises:
        ConfigError: If a file is not what `ceus explain` writes.
    """
    found = []
    for path in sorted(folder.glob("*.json")):
        clip = path.with_suffix(".mp4")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            seconds = content["frames_s"]
            if content["part"] not in _UNSEEN or not seconds or not clip.is_file():
                continue
            overlay = Overlay(
                clip, str(content["patient"]), str(content["item"]).rpartition("+")[2],
                str(content["run_id"]),
                float(seconds[0]), float(seconds[-1]),
            )  # fmt: skip
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise ConfigError(
                f"files in {folder.name} must be as ceus explain wrote them, got "
                f"{type(error).__name__}: {error} ({path}). Explain the patients again, or remove "
                "the file."
            ) from error
        found.append(overlay)
    return found
