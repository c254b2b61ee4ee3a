"""A seeded tenth of `python -m tests.fuzz`."""

from pathlib import Path

from tests.fuzz.outcomes import FAULTS, fuzz


def test_mutations_end_in_a_reason_a_warning_or_the_right_frames(tmp_path: Path) -> None:
    counted, faults = fuzz(tmp_path, seed=7, count=30)
    assert not faults
    assert counted.total() == 30
    assert not [key for key in counted if key[1] in FAULTS]
    assert sum(number for (_, outcome), number in counted.items() if outcome == "named error") > 8
