"""The deployed model of a cell as its sweep's folder has it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING

from datamodules import Store
from evaluation.files import read_parquet
from evaluation.records.holdout import store_of
from experiments.errors import ConfigError
from experiments.gpus import Accelerator
from experiments.predicting.deployed import Deployed, checkpoint_of, find_deployed
from experiments.predicting.ensemble import Ensemble, Scored
from experiments.predicting.facts import facts_of, limits_of
from experiments.predicting.kept_network import keep_network, kept_network, scores_by_kept
from experiments.predicting.network import Network
from experiments.predicting.output import require_rule
from experiments.predicting.reference import Reference, kept_reference, reference_of
from experiments.predicting.sets import Cuts, set_cuts
from experiments.predicting.unlike import Finding, far_features, odd_facts

if TYPE_CHECKING:
    from experiments.predicting.scoring import Model


@dataclass(frozen=True)
class OfSweep:
    """A cell's models with what they were trained on.

    Attributes:
        cuts: Of the conformal sets, by level.
        left_out: What is not looked at: nothing.
    """

    cuts: Cuts
    _deployed: Deployed
    _store: Path | None
    _accelerator: Accelerator
    left_out: str = ""

    @property
    def ensemble(self) -> Ensemble:
        """How scores become probabilities and decisions."""
        return self._deployed.ensemble

    def load(self) -> None:
        """Load the models, which takes longer than all else of one patient.

        Raises:
            ConfigError, DataError: For what the user can mend.
        """
        _ = self._loaded

    @cached_property
    def _loaded(self) -> tuple[Sequence["Model | Network"], Sequence[Reference]]:
        deployed, runs = self._deployed, self._deployed.runs
        by_kept = scores_by_kept(self._accelerator)
        if by_kept:
            known = [(kept_network(deployed, run), kept_reference(deployed, run)) for run in runs]
            networks = [network for network, _ in known if network is not None]
            references = [reference for _, reference in known if reference is not None]
            if len(networks) == len(references) == len(runs):
                for run in runs:
                    checkpoint_of(deployed, run)
                return networks, references
        from experiments.predicting.scoring import load_model  # this imports torch

        models = [load_model(deployed, run, accelerator=self._accelerator) for run in runs]
        references = [reference_of(deployed, model, self._store) for model in models]
        store = self._store or store_of(deployed.sweep.path, deployed.sweep.listing)
        if by_kept and store is not None:
            # This prediction, too, so that those that follow give the same.
            made = [
                kept_network(deployed, model.run) or keep_network(deployed, model, store)
                for model in models
            ]
            networks = [network for network in made if network is not None]
            if len(networks) == len(models):
                return networks, references
        return models, references

    def score(self, new: Store) -> tuple[list[Scored], dict[str, list[Finding]]]:
        """Scores of all patients of a store by each run, and what is odd by patient.

        Raises:
            ConfigError: If a labelled patient is of the sweep, or a logit is not finite.
            DataError: If no patient has what the model sees.
        """
        known = _of_sweep(self._deployed, new)
        models, references = self._loaded
        scored = [model.score(new) for model in models]
        inputs = tuple(models[0].inputs)
        limits = limits_of(references[0].facts, inputs)
        regions = [each.regions for each in references]
        findings: dict[str, list[Finding]] = {}
        for found in (
            known,
            odd_facts(facts_of(new, new.items["patient_id"]), limits, inputs),
            far_features(scored, regions, inputs),
        ):
            for patient, each in found.items():
                findings.setdefault(patient, []).extend(each)
        return scored, findings


def open_sweep(
    folder: Path,
    cell: str,
    *,
    store: Path | None,
    rule: str,
    levels: Sequence[float],
    accelerator: Accelerator,
) -> OfSweep:
    """The deployed model of a cell, still to be loaded.

    Args:
        folder: Sweep folder.
        cell: ARCHITECTURE-MODALITY.
        store: The sweep's store, if it was moved.
        rule: Operating point, which it must have.
        levels: Of conformal sets.
        accelerator: Where to compute.

    Raises:
        ConfigError, EvaluationError: For what the user can mend.
    """
    deployed = find_deployed(folder, cell)
    require_rule(deployed.ensemble, rule)
    return OfSweep(set_cuts(deployed, levels), deployed, store, accelerator)


def _of_sweep(deployed: Deployed, new: Store) -> dict[str, list[Finding]]:
    """Findings on patients whose files the sweep has, too.

    Raises:
        ConfigError: If one of them has a label, so that an external test would be asked for.
    """
    listed = read_parquet(deployed.sweep.path / "cohort.parquet", columns=["source_sha", "label"])
    held_out = dict(zip(listed["source_sha"], listed["label"].isna(), strict=True))
    items = new.items[new.items["source_sha"].isin(list(held_out))]
    if count := items.loc[items["label"].notna(), "patient_id"].nunique():
        raise ConfigError(
            "labelled patients must be others than the sweep's, for they are an external test, "
            f"got {count} with files that the sweep was made of. Leave their labels empty; the "
            "test set is opened by ceus evaluate --unseal-test."
        )
    findings: dict[str, list[Finding]] = {}
    for patient, rows in items.groupby("patient_id"):
        sealed = all(held_out[sha] for sha in rows["source_sha"])
        what = "its test set" if sealed else "those that the model was trained on"
        text = f"the same file is in the sweep, among {what}"
        findings[str(patient)] = [Finding("file of the sweep", text, nan)]
    return findings
