"""Patients through a run's model, as training scores them, with the features on the way."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from datamodules import PatientDataModule, Store
from datamodules.batches.inputs import Input
from datamodules.batches.rows import Row
from evaluation.records.runs import Run
from experiments.gpus import Accelerator
from experiments.predicting.deployed import Deployed, checkpoint_of
from experiments.predicting.ensemble import Scored, require_finite
from experiments.predicting.network import features_by_patient
from experiments.training.trained import Trained, load_trained, quiet
from lightning_modules import PatientClassifier
from lightning_modules.scores import gather_rows, patient_scores


@dataclass(frozen=True)
class Model:
    """A run's model, ready to score.

    Attributes:
        run: Whose it is.
        trained: As its checkpoint has it.
    """

    run: Run
    trained: Trained

    @property
    def inputs(self) -> Mapping[str, Input]:
        """`image` and `video`, in this order, or one of them."""
        return self.trained.data.inputs

    @property
    def data(self) -> PatientDataModule:
        """Its datamodule, which has opened no store yet."""
        return self.trained.data

    def score(self, store: Store) -> Scored:
        """Scores of all patients of a store who have an input, and the features it gives.

        Raises:
            ConfigError: If a logit is not finite.
            DataError: If there are no such patients, or a file is damaged.
        """
        self.data.take_new(store.path)
        return self.score_rows(self.data.evaluation_rows(self.data.patients("new")))

    def score_rows(self, rows: Sequence[Row]) -> Scored:
        """Score rows of the store that the datamodule has opened.

        Raises:
            ConfigError: If a logit is not finite.
        """
        model, data = self.trained.model, self.trained.data
        model.setup("predict")
        with data.predicting(rows), _recorded(model, data.inputs) as kept:
            batches: Any = self.trained.trainer.predict(model, datamodule=data)
        by_key = {row.key: row for row in rows}
        scored = [by_key[key] for batch in batches for key in batch["row_key"]]
        patients = patient_scores(gather_rows(batches)).set_index("patient_id")
        require_finite(patients["logit"], self.run.run_id)
        return Scored(
            score=patients["logit"] - float(model.logit_shift),
            items=patients["n_items"],
            features={
                key: features_by_patient(key, torch.cat(given).numpy(), scored)
                for key, given in kept.items()
                if sum(map(len, given)) == len(scored) and all(part.ndim == 2 for part in given)
            },
        )


def load_model(deployed: Deployed, run: Run, *, accelerator: Accelerator) -> Model:
    """A run's model as its checkpoint has it.

    Args:
        deployed: What it belongs to.
        run: Which of its runs.
        accelerator: Where it is to compute; `auto` takes a GPU if there is one.

    Raises:
        ConfigError: If its checkpoint is not the one that its predictions were made with, and as
            `load_trained`.
    """
    folder = checkpoint_of(deployed, run).parents[1]
    return Model(run, load_trained(folder, accelerator=accelerator))


@contextmanager
def _recorded(
    model: PatientClassifier, inputs: Mapping[str, Any]
) -> Iterator[dict[str, list[torch.Tensor]]]:
    """The features that the head is shown meanwhile, batch by batch, by input."""
    kept: dict[str, list[torch.Tensor]] = {key: [] for key in inputs}
    encode = model.encode

    def keeping(batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        features = encode(batch)
        for key in kept.keys() & features.keys():
            kept[key].append(features[key].detach().float().cpu())
        return features

    # On this one object, until the end: a hook on an encoder would see each mirrored view, too.
    model.encode = keeping  # type: ignore[method-assign]
    try:
        with quiet():
            yield kept
    finally:
        del model.encode
