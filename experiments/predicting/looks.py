"""Which external patients models of a sweep were tested on: a ledger in the sweep's own folder.

A second model, threshold or version tried on the same patients makes the best of them look better
than it is. `ledger.jsonl` beside the runs keeps each look, chained as the ledger of a store
(`datamodules.ledger`); patients go by keyed hashes of their files' contents.
"""

from pathlib import Path

from datamodules.ledger import enter, read_ledger
from evaluation.tables.external import EXTERNAL
from experiments.errors import ConfigError
from experiments.predicting.output import Prediction


def enter_look(sweep: Path, prediction: Prediction) -> list[str]:
    """Enter an external test before its figures are shown.

    Args:
        sweep: Folder of the sweep.
        prediction: Whose labelled patients are the test.

    Returns:
        Sentences on looks at these patients before this one; none without a labelled patient.

    Raises:
        ConfigError: If the ledger cannot be written, or is not as it was written.
    """
    if not (tables := prediction.external):
        return []
    (auc,) = tables["aucs"].to_dict("records")
    items = prediction.items
    items = items[items["patient_id"].isin(prediction.tested["patient_id"])]
    files = sorted(set(items["source_sha"]))
    try:
        ledger = read_ledger(sweep)
        if ledger and ledger.problems:
            raise ConfigError(
                f"ledger of external tests must be as it was written, got: {ledger.problems[0]} "
                f"({sweep}/ledger.jsonl). Bring it back; to begin another would hide looks."
            )
        before = ledger.of(EXTERNAL) if ledger else []
        own = ledger.hashes(files) if ledger else frozenset()
        enter(
            sweep, EXTERNAL, files, cell=prediction.name, rule=prediction.rule,
            patients=int(auc["patients"]), events=int(auc["events"]),
            auc=round(float(auc["auc"]), 6) if auc["auc"] == auc["auc"] else None,
        )  # fmt: skip
    except OSError as error:
        raise ConfigError(
            "an external test must be entered in the ledger of its sweep, got "
            f"{error.strerror} ({sweep}/ledger.jsonl). Make the folder writable, or leave the "
            "labels empty."
        ) from error
    looks = [entry for entry in before if own.intersection(entry["holdout"])]
    if not looks:
        return []
    cells = sorted({str(entry["cell"]) for entry in looks})
    return [
        f"Look {len(looks) + 1} at these patients or some of them by models of this sweep (before: "
        f"{', '.join(cells)}; first {looks[0]['time'][:10]}): the best of several is optimistic."
    ]
