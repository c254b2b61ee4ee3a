"""Writing results so that no reader ever sees half a file."""

import os
from pathlib import Path


def write_atomic(path: Path, content: str | bytes) -> None:
    """Replace a file by new content in one step (text as UTF-8, newlines as they are)."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    temporary.replace(path)
