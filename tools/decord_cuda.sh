#!/bin/sh
# Builds decord with CUDA from source and installs it over the wheel, into the Python given:
#
#     tools/decord_cuda.sh .venv/bin/python
#
# Needs: an NVIDIA driver with its video library (libnvcuvid.so.1; in containers the driver
# capability `video`), the CUDA toolkit (nvcc), git, cmake, a C++ compiler, and the development
# files of FFmpeg 4 (decord 0.6 does not compile against later ones). On Ubuntu 22.04:
#
#     apt-get install git cmake g++ pkg-config libavcodec-dev libavformat-dev libavfilter-dev \
#         libavutil-dev libavdevice-dev libswresample-dev
#
# Or build FFmpeg 4.4 into a folder and name it: FFMPEG_DIR=/opt/ffmpeg4 make decord-cuda
set -eu

python=${1:?"name the Python to install into, as .venv/bin/python"}
cuda=${CUDA_HOME:-/usr/local/cuda}
ffmpeg=${FFMPEG_DIR:-}
version=v0.6.0

need() { command -v "$1" >/dev/null || { echo "error: $1 is needed, and not found. $2" >&2; exit 2; }; }
need git "Install git."
need cmake "Install cmake."
need c++ "Install a C++ compiler."
[ -x "$cuda/bin/nvcc" ] || { echo "error: nvcc is needed, and not found in $cuda/bin. Set CUDA_HOME." >&2; exit 2; }
if [ -z "$ffmpeg" ]; then
    need pkg-config "Install pkg-config, or set FFMPEG_DIR."
    pkg-config --max-version=58.999 libavcodec 2>/dev/null || {
        echo "error: development files of FFmpeg 4 (libavcodec 58) are needed, got $(pkg-config --modversion libavcodec 2>/dev/null || echo none). Set FFMPEG_DIR." >&2
        exit 2
    }
fi
nvcuvid=$(ldconfig -p | sed -n 's/.*libnvcuvid\.so\.1 .*=> //p' | head -n 1)
[ -n "$nvcuvid" ] || { echo "error: libnvcuvid.so.1 of the NVIDIA driver is needed, and not found." >&2; exit 2; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
git clone --quiet --depth 1 --branch $version --recursive https://github.com/dmlc/decord "$work/decord"
cmake -S "$work/decord" -B "$work/build" -DCMAKE_BUILD_TYPE=Release -DUSE_CUDA="$cuda" \
    -DCMAKE_CUDA_COMPILER="$cuda/bin/nvcc" -DCUDA_NVCUVID_LIBRARY="$nvcuvid" \
    -DCMAKE_POLICY_VERSION_MINIMUM=3.5 ${ffmpeg:+-DFFMPEG_DIR="$ffmpeg"}
cmake --build "$work/build" --parallel
# decord's setup copies the library from here to beside its sources; from there it cannot.
DECORD_LIBRARY_PATH="$work/build" "$python" -m pip install --quiet --force-reinstall --no-deps "$work/decord/python"
"$python" -c "
import torch
from datamodules.store.decode import DecordCuda, probe
reason = probe(DecordCuda(torch.device('cuda', 0)))
raise SystemExit(f'error: built, but {reason}' if reason else print('decord decodes on CUDA'))
"
