"""The prepared cohort on disk: items, splits, clips, and reading them back."""

import os

# Read as decord is loaded. On CUDA it polls for the last frames of a stream, by default 10,240
# times, and under load then gives up, or shows a frame twice (decord's issues 121 and 135).
os.environ.setdefault("DECORD_EOF_RETRY_MAX", "100000000")
