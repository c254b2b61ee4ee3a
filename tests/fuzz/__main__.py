"""Seeded mutations of clips, DICOM files, pictures and tables: what becomes of each is counted.

    python -m tests.fuzz --seed 1 --count 300 [--real FOLDER]

Each mutated file goes through what `ceus prepare` does with a row, in a process of its own, and its
frames are compared with those of the file it was made from. Exit 1 if a file crashed, hung, took
over 2 GB, or gave wrong frames without a word.

Some mutations cannot be told by any decoder: a changed payload that is a valid stream all the same
(no format here but PNG has a checksum of it), and a value that is as plausible as the right one.
They
are counted for themselves, and only where the number of frames is right.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.fuzz.outcomes import OUTCOMES, fuzz


def main() -> int:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--real", type=Path, help="folder of real clips, pictures and DICOM files")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        counted, faults = fuzz(Path(folder), given.seed, given.count, given.real)
    kinds = sorted({kind for kind, _ in counted})
    print(f"seed {given.seed}, {given.count} mutations")
    print(f"{'':28}" + "".join(f"{kind:>9}" for kind in kinds))
    for outcome in OUTCOMES:
        print(f"{outcome:28}" + "".join(f"{counted[kind, outcome]:9}" for kind in kinds))
    print("\n".join(faults))
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
