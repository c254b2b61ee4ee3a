"""What a run and a user's own code print: in log.txt, with patients by their hashes."""

import os
import re
from collections.abc import Callable
from pathlib import Path

from datamodules.store.folder import Store
from experiments.config.run import Run
from experiments.run_folder.status import read_status
from experiments.training.log import _Lines


def test_no_patient_is_named_however_the_users_code_says_it(
    make: Callable[..., Run], start: Callable[[Run], int], store: Path
) -> None:
    run = make("model.class_path=own_package.Talker")
    assert start(run) == 1
    log = (run.folder / "log.txt").read_text(encoding="utf-8")
    patients = set(Store(store).items["patient_id"])
    told = {"log": log, "status": (run.folder / "status.json").read_text()}
    for name, text in told.items():
        found = patients & {word.upper() for word in re.split(r"[\W_]+", text)}
        assert not found, name
    for said in (
        r"printed [0-9a-f]{16}_a\.avi",
        r" and [0-9a-f]{16}\n",
        r"bytes of [0-9a-f]{16}\n",
        r"warned of [0-9a-f]{16}",
        r"logged [0-9a-f]{16} ü",
        r"rank zero [0-9a-f]{16}\n",
        r"the last line has no end [0-9a-f]{16}",
        r"cannot score [0-9a-f]{16}_clip",
    ):
        assert re.search(said, log), said
    assert re.search(r"cannot score [0-9a-f]{16}_clip", str(read_status(run.folder).reason))


def test_lines_are_written_whole_as_they_come(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    lines = _Lines(fd, lambda text: text.replace("P1", "hash"))

    def written() -> str:
        return (tmp_path / "log.txt").read_bytes().decode()

    lines.write(b"of P")
    assert written() == ""
    lines.write("1\rand P1 ü".encode())
    assert written() == "of hash\r"
    lines.finish()
    lines.finish()
    assert written() == "of hash\rand hash ü"
