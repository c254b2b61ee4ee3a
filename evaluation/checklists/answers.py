"""What a sweep can say to an item of a checklist, and where that is to be seen.

Each answer is a sentence or two with this sweep's own figures; "" where the folder does not know.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from evaluation.result import Evaluation
from evaluation.tables.cohort import DEVELOPMENT
from evaluation.tables.operating import YOUDEN, rules
from evaluation.text.format import brief, number
from evaluation.text.sentences import findings, headline, is_deployed


@dataclass(frozen=True)
class Answer:
    """A text and where its evidence is: a section of the report or a file."""

    text: str
    evidence: str


def answers(evaluation: Evaluation) -> dict[str, Answer]:
    """Every answer by its key."""
    study, opened = evaluation.study, evaluation.seal.labels is not None
    scored = _scored(evaluation)
    return {
        "preprocessing": Answer(_preprocessing(evaluation), "quality.csv; store"),
        "acquisition": Answer(_acquisition(evaluation), "Patients, Table 1"),
        "size": Answer(
            f"{scored} How the size was decided is for the authors.", "What a cohort can show"
        ),
        "missing": Answer(_missing(evaluation), "Patients"),
        "partition": Answer(_partition(evaluation), "Provenance; Patients"),
        "disjoint": Answer(
            "By patient: all items of a patient are in one part of a split, which is checked "
            "whenever the split and the predictions are read.",
            "Provenance",
        ),
        "inputs": Answer(_inputs(evaluation), "Provenance, Settings"),
        "model": Answer(_model(evaluation), "Provenance, Settings"),
        "initial": Answer(_initial(evaluation), "Provenance, Settings"),
        "training": Answer(_training(evaluation), "Training and runs"),
        "selection": Answer(
            "In a run the checkpoint with the lowest patient-level cross-entropy of inner "
            "validation. Between architectures the highest fold-mean out-of-fold AUC, in which "
            "the test set has no part. No setting is tuned within the sweep.",
            "Training and runs; Results",
        ),
        "imbalance": Answer(_imbalance(evaluation), "config.yaml of the runs"),
        "predictions": Answer(
            "A patient's items are averaged on the log-odds scale, then the models of "
            f"{_seeds(evaluation)}. The test set is scored by "
            + ("the deployed model, trained on all development patients."
               if is_deployed(evaluation) else "the mean of the fold models."),
            "How the figures are made",
        ),
        "measures": Answer(
            "AUC: fold mean with LeDell's interval, pooled with DeLong's; sensitivity, "
            "specificity, accuracy and predictive values with exact intervals; calibration "
            "intercept, slope, Brier score and ICI; net benefit. Plots: ROC with bands, "
            "calibration and decision curves.",
            "How the figures are made",
        ),
        "comparisons": Answer(
            "Paired differences on the same patients: influence curves of the fold mean "
            "out-of-fold, DeLong's test on the test set; one primary contrast, all others after "
            "Holm; McNemar's exact test of calls.",
            "Differences between models",
        ),
        "updating": Answer("None: no model was updated or recalibrated after evaluation.", "–"),
        "output": Answer(
            "A probability per patient, the weighting of the loss undone, and a call at each "
            "operating point.",
            "Operating points",
        ),
        "thresholds": Answer(_thresholds(evaluation), "Thresholds and their transfer"),
        "indeterminate": Answer(
            "There are none: every scored patient has a probability, and one at the threshold is "
            "called positive.",
            "patients.csv",
        ),
        "shift": Answer(_shift(evaluation), "Patients, Table 1"),
        "code": Answer(_code(evaluation), "Provenance"),
        "software": Answer(_software(evaluation), "Provenance"),
        "flow": Answer(_flow(evaluation), "Patients; flow.csv"),
        "characteristics": Answer(
            f"By split and label: {', '.join(study.covariates) or 'technical facts of the files'}."
            if study.items is not None
            else "",
            "Patients, Table 1",
        ),
        "numbers": Answer(scored, "Patients; Results"),
        "prevalence": Answer(_prevalence(evaluation), "Patients"),
        "weights": Answer(
            "Checkpoints lie in the run folders, their SHA-256 in each prediction table; they load "
            "with weights_only=True from the run's config.yaml.",
            "model_card.md" if is_deployed(evaluation) else "run folders",
        ),
        "performance": Answer(_performance(evaluation), "Results"),
        "diagnostic": Answer(_diagnostic(evaluation), "Operating points"),
        "crosstab": Answer(
            "2 × 2 tables of every cell, out-of-fold" + (" and test." if opened else "."),
            "Operating points, confusion matrices",
        ),
        "centres": Answer(
            "A column of centres was kept and is described; performance by centre is not computed."
            if {"centre", "center", "site"} & set(study.covariates)
            else "",
            "Patients, Table 1",
        ),
        "variability": Answer(_variability(evaluation), "ROC curves and spread over folds"),
        "explanation": Answer("None is computed by the evaluation.", "–"),
        "internal": Answer(
            f"Cross-validation over {evaluation.tables.cells['folds_expected'].max()} folds"
            + (" and the hold-out, which was opened." if opened else "; the hold-out is sealed."),
            "Results",
        ),
        "failures": Answer(
            "Every wrong call is listed by pseudonym with its score; a reading of these cases, "
            "and performance in subgroups, are for the authors.",
            "patients.csv",
        ),
        "audit": Answer(
            "Every prediction of every run is stored; their hash is in the report, and openings "
            "of the test set are recorded in a chained ledger.",
            "Provenance; Openings of the test set",
        ),
    }  # fmt: skip


def _first(evaluation: Evaluation) -> Mapping[str, Any]:
    return next(iter(evaluation.study.settings.values()), {})


def _several(values: list[str]) -> str:
    return "; ".join(dict.fromkeys(filter(None, values)))


def _of_cells(evaluation: Evaluation, name: str) -> str:
    found = [brief(each.get("study", {}).get(name)) for each in evaluation.study.settings.values()]
    return _several(found)


def _preprocessing(evaluation: Evaluation) -> str:
    canvas, quality = evaluation.study.design.get("canvas"), evaluation.study.quality
    if canvas is None:
        return ""
    told = [f"Files are letterboxed to {canvas} × {canvas} px, aspect ratio kept."]
    if quality is not None and len(quality):
        if "crop_method" in quality:
            methods = Counter(quality["crop_method"].dropna().astype(str))
            told.append(
                "Panel of the export found by: "
                + ", ".join(f"{name} ({n})" for name, n in sorted(methods.items()))
                + "."
            )
        if "psnr" in quality and quality["psnr"].notna().any():
            told.append(f"Stored clips differ by {number(quality['psnr'].min(), 1)} dB at least.")
        if "warnings" in quality:
            warned = int(quality["warnings"].notna().sum())
            told.append(f"{warned} of {len(quality)} files carry a warning.")
    return " ".join(told)


def _acquisition(evaluation: Evaluation) -> str:
    items = evaluation.study.items
    if items is None or "seconds" not in items:
        return ""
    clips = items[items["modality"] == "ceus"] if "modality" in items else items[:0]
    if clips.empty:
        return ""
    return (
        f"Clips last {number(clips['seconds'].min(), 0)} to {number(clips['seconds'].max(), 0)} s"
        + (
            f" at {number(clips['fps'].min(), 0)} to {number(clips['fps'].max(), 0)} frames a "
            "second."
            if "fps" in clips
            else "."
        )
        + " Devices and contrast protocol are for the authors."
    )


def _rows(evaluation: Evaluation, step: str) -> list[dict[Any, Any]]:
    flow = evaluation.tables.flow
    return flow[flow["step"] == step].to_dict("records")


def _events(row: Mapping[Any, Any]) -> str:
    return "events sealed" if pd.isna(row["events"]) else f"{row['events']} events"


def _scored(evaluation: Evaluation) -> str:
    told = [
        f"{row['modality']} {'out-of-fold' if row['split'] == DEVELOPMENT else 'hold-out'} "
        f"{row['patients']} ({_events(row)})"
        for row in _rows(evaluation, "scored")
    ]
    return f"Patients scored: {', '.join(told)}."


def _flow(evaluation: Evaluation) -> str:
    told = [
        f"{row['rows']} files of {row['patients']} patients in the cohort table."
        for row in _rows(evaluation, "cohort table")
    ]
    told += [
        f"{row['rows']} files left out, {row['patients']} patients with none left."
        for row in _rows(evaluation, "left out")
    ]
    told += [
        f"{str(row['split']).capitalize()}: {row['patients']} patients ({_events(row)})."
        for row in _rows(evaluation, "split")
    ]
    return " ".join([*told, _scored(evaluation)])


def _missing(evaluation: Evaluation) -> str:
    patients, told = evaluation.study.patients, []
    for name in patients:
        lacking = int((patients[name] == 0).sum()) if str(name).startswith("items_") else 0
        if lacking:
            told.append(f"{lacking} patients lack {str(name).removeprefix('items_')} files")
    for name in evaluation.study.covariates:
        lacking = int(patients[name].replace("", None).isna().sum())
        if lacking:
            told.append(f"{name} is missing for {lacking}")
    if patients.empty:
        return ""
    found = "; ".join(told) if told else "No patient lacks a modality or a kept covariate"
    return (
        f"{found}. A patient is scored by the models whose modality they have; nothing is imputed."
    )


def _partition(evaluation: Evaluation) -> str:
    split = evaluation.study.design.get("split", {})
    told = [
        f"{str(row['split']).capitalize()} {row['patients']} patients ({_events(row)})."
        for row in _rows(evaluation, "split")
    ]
    if split:
        told.append(
            f"Split by patient, stratified by label, seed {split.get('seed')}: hold-out by "
            f"{split.get('holdout')}, {split.get('num_folds')} folds, within each "
            f"{split.get('inner_fraction')} of the training patients as inner validation."
        )
    told.append(f"Split hash {evaluation.sweep.shas['split_sha'][:12]}.")
    return " ".join(told)


def _inputs(evaluation: Evaluation) -> str:
    if not evaluation.study.settings:
        return ""
    sizes = {
        "images": _of_cells(evaluation, "image_size"),
        "clips": _of_cells(evaluation, "video_size"),
    }
    told = ", ".join(f"{name} {size} px" for name, size in sizes.items() if size)
    return (
        f"{told}; {_of_cells(evaluation, 'num_frames') or '–'} frames of a clip; training "
        f"{_of_cells(evaluation, 'train_sampling')}, scoring "
        f"{_of_cells(evaluation, 'eval_sampling')}; augmentation {_of_cells(evaluation, 'augment')}"
        "; intensities standardised by the encoder's pretraining mean and SD."
    )


def _model(evaluation: Evaluation) -> str:
    if not evaluation.study.settings:
        return ""
    return (
        f"Architectures {', '.join(dict.fromkeys(evaluation.tables.cells['architecture']))}. "
        f"Image encoders: {_of_cells(evaluation, 'image_encoder') or 'none'}. Video encoders: "
        f"{_of_cells(evaluation, 'video_encoder') or 'none'}. Fusion: "
        f"{_of_cells(evaluation, 'head') or 'none'}."
    )


def _initial(evaluation: Evaluation) -> str:
    found = set()
    for config in evaluation.study.settings.values():
        for name in ("image_encoder", "video_encoder"):
            encoder = config.get("study", {}).get(name)
            if isinstance(encoder, Mapping):
                found.add((encoder.get("init_args") or {}).get("pretrained"))
    told = [
        "at random" if each is False else "from pretrained weights"
        for each in sorted(found - {None}, key=str)
    ]
    return f"Encoders start {' or '.join(dict.fromkeys(told))}; heads at random." if told else ""


def _training(evaluation: Evaluation) -> str:
    runs, config = evaluation.tables.training, _first(evaluation)
    told = []
    if config:
        study, trainer = config.get("study", {}), config.get("trainer", {})
        told.append(
            f"AdamW, learning rates {study.get('encoder_lr')} (encoder) and {study.get('head_lr')} "
            f"(head), batches of {study.get('batch_size')}, at most {trainer.get('max_epochs')} "
            f"epochs, stopped after {study.get('patience')} without a better inner BCE, precision "
            f"{trainer.get('precision')}."
        )
    if len(runs):
        told.append(
            f"{len(runs)} runs trained {runs['epochs'].min()} to {runs['epochs'].max()} epochs."
        )
    return " ".join(told)


def _imbalance(evaluation: Evaluation) -> str:
    config = _first(evaluation)
    if not config:
        return ""
    arguments = config.get("model", {}).get("init_args") or {}
    weight = arguments.get("pos_weight", "balanced")
    return (
        f"The loss weighs positives by {weight}"
        + (" (negatives over positives of the training rows)" if weight == "balanced" else "")
        + "; probabilities are shifted back by the logarithm of the weight."
    )


def _seeds(evaluation: Evaluation) -> str:
    count = len({run.seed for run in evaluation.sweep.runs})
    return f"{count} seed{'' if count == 1 else 's'}"


def _thresholds(evaluation: Evaluation) -> str:
    names = ", ".join(rules(evaluation.sweep.analysis))
    state = (
        "were frozen to a file before the test labels were read"
        if evaluation.seal.openings
        else "are frozen to a file when the test set is opened"
    )
    return (
        f"Operating points, declared before training: {names}. Thresholds are chosen on "
        f"out-of-fold scores alone (a fold at that of the other folds) and {state}."
    )


def _shift(evaluation: Evaluation) -> str:
    table = evaluation.tables.characteristics
    if table.empty:
        return ""
    apart = table[table["smd"].abs() > 0.1]["characteristic"].tolist()
    told = ", ".join(dict.fromkeys(apart)) or "none"
    return (
        "The hold-out is of the same cohort. Characteristics with a standardised mean difference "
        f"above 0.1: {told}. No external data set was evaluated."
    )


def _code(evaluation: Evaluation) -> str:
    commits = {flat.get("commit", "") for flat in evaluation.sweep.environments.values()}
    known = sorted(commits - {"", "None"})
    told = f"Trained at commit {', '.join(known)}. " if known else ""
    return f"{told}Where code, model and data can be had is for the authors."


def _software(evaluation: Evaluation) -> str:
    found: dict[str, set[str]] = {}
    for flat in evaluation.sweep.environments.values():
        for key, value in flat.items():
            if key == "python" or key.startswith("packages."):
                found.setdefault(key.removeprefix("packages."), set()).add(value)
    told = ", ".join(f"{name} {'/'.join(sorted(versions))}" for name, versions in found.items())
    return f"{told}." if told else ""


def _prevalence(evaluation: Evaluation) -> str:
    told = [
        f"{row['split']} {100 * row['events'] / row['patients']:.1f} %"
        for row in _rows(evaluation, "split")
        if not pd.isna(row["events"])
    ]
    return (
        f"Share with the target condition: {', '.join(told)}. Whether this is that of the intended "
        "population is for the authors."
        if told
        else ""
    )


def _performance(evaluation: Evaluation) -> str:
    told = [
        f"{each.modality} ({each.architecture}) out-of-fold AUC {each.oof}"
        + (f", test {each.test}" if each.test else "")
        for each in findings(evaluation)
    ]
    return f"{'; '.join(told)}. {headline(evaluation)}" if told else ""


def _diagnostic(evaluation: Evaluation) -> str:
    table = evaluation.tables.operating
    part = "oof" if evaluation.seal.labels is None else "test"
    mine = table[(table["part"] == part) & (table["rule"] == YOUDEN)]
    chosen = {(each.architecture, each.modality) for each in findings(evaluation)}
    told = [
        f"{row['modality']} ({row['architecture']}) sensitivity {number(row['sensitivity'], 2)} "
        f"({number(row['sensitivity_low'], 2)}–{number(row['sensitivity_high'], 2)}), specificity "
        f"{number(row['specificity'], 2)} ({number(row['specificity_low'], 2)}–"
        f"{number(row['specificity_high'], 2)})"
        for row in mine.to_dict("records")
        if (row["architecture"], row["modality"]) in chosen
    ]
    name = "Out-of-fold" if part == "oof" else "Test"
    return f"{name}, at Youden's threshold: {'; '.join(told)}." if told else ""


def _variability(evaluation: Evaluation) -> str:
    spread = evaluation.tables.cells["fold_sd_auc"]
    folds = (
        f"SD of the AUC over folds {number(spread.min())} to {number(spread.max())}; "
        if spread.notna().any()
        else ""
    )
    return f"{folds}{_seeds(evaluation)} averaged; both set before training."
