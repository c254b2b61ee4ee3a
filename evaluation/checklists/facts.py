"""What a sweep knows of its study: the fields of the sentences in answers.yaml."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from evaluation.records.analysis import MEAN, SELECTED, Analysis
from evaluation.records.question import Question
from evaluation.result import Evaluation
from evaluation.tables.cohort import DEVELOPMENT
from evaluation.tables.operating import YOUDEN, rules
from evaluation.tables.scores import of_cell
from evaluation.text.format import PARTS, brief, number
from evaluation.text.sentences import findings, headline, is_deployed

Facts = dict[str, Any]

_EPOCH = {
    "inner_bce": "that of the epoch with the lowest patient-level cross-entropy of inner "
    "validation",
    "refit": "that of so many epochs as inner validation chose, trained again on all training "
    "patients",
    "last": "that of the schedule's end",
    "ema": "the moving average of the weights at the schedule's end",
}
"""What `study.selection` takes as the model of a run."""

_START = {
    True: "from the image and video models of the same architecture, fold and seed",
    False: "from their encoders' initial weights",
}
"""What a combined model starts from, by whether it is warm."""

_SPLIT = ("seed", "holdout", "num_folds", "inner_fraction", "centres", "repeats")


def facts(evaluation: Evaluation) -> Facts:
    """Every field by its name; None, "" or empty where the folder does not know."""
    study, sweep, cells = evaluation.study, evaluation.sweep, evaluation.tables.cells
    split = study.design.get("split", {})
    commits = {flat.get("commit", "") for flat in sweep.environments.values()}
    return {
        "question": sweep.question,
        "asked": sweep.question != Question(),
        "opened": evaluation.seal.labels is not None,
        "openings": len(evaluation.seal.openings),
        "deployed": is_deployed(evaluation),
        "seeds": len({run.seed for run in sweep.runs}),
        "folds": cells["folds_expected"].max() // evaluation.repeats,
        "repeats": evaluation.repeats,
        "architectures": ", ".join(dict.fromkeys(cells["architecture"])),
        "split": {name: split.get(name) for name in _SPLIT} if split else {},
        "split_sha": sweep.shas["split_sha"][:12],
        "operating_points": ", ".join(rules(sweep.analysis)),
        "cohort_known": study.items is not None,
        "covariates": ", ".join(study.covariates),
        "centres": bool({"centre", "center", "site"} & set(study.covariates)),
        "commits": ", ".join(sorted(commits - {"", "None"})),
        "packages": _packages(evaluation),
        "findings": findings(evaluation),
        "headline": headline(evaluation),
        "primary": _primary(sweep.analysis),
        **_files(evaluation),
        **_patients(evaluation),
        **_missing(evaluation),
        **_settings(evaluation),
        **_figures(evaluation),
    }


def _primary(analysis: Analysis) -> str:
    """The declared contrast in words; "" if none was."""
    declared = analysis.primary
    if declared is None:
        return ""
    architecture = {
        MEAN: "mean over architectures",
        SELECTED: "of each the architecture with the best out-of-fold AUC",
    }.get(declared.architecture, declared.architecture)
    modalities = " less ".join(declared.modalities)
    return f"{modalities} ({architecture}), confirmatory {PARTS[str(declared.part)]}"


def _packages(evaluation: Evaluation) -> str:
    """Versions of Python and of the packages that runs were trained with."""
    versions: dict[str, set[str]] = {}
    for flat in evaluation.sweep.environments.values():
        for key, value in flat.items():
            if key == "python" or key.startswith("packages."):
                versions.setdefault(key.removeprefix("packages."), set()).add(value)
    return ", ".join(f"{name} {'/'.join(sorted(each))}" for name, each in versions.items())


def _files(evaluation: Evaluation) -> Facts:
    """How files were kept, and how long and how fast clips are."""
    canvas, quality = evaluation.study.design.get("canvas"), evaluation.study.quality
    kept: Facts = {"canvas": canvas, "crop_methods": None, "lowest_psnr": "", "warned": None}
    if canvas is not None and quality is not None and len(quality):
        if "crop_method" in quality:
            methods = Counter(quality["crop_method"].dropna().astype(str))
            kept["crop_methods"] = ", ".join(f"{m} ({n})" for m, n in sorted(methods.items()))
        if "psnr" in quality and quality["psnr"].notna().any():
            kept["lowest_psnr"] = number(quality["psnr"].min(), 1)
        if "warnings" in quality:
            kept |= {"warned": int(quality["warnings"].notna().sum()), "files": len(quality)}
    return kept | {"clips": _clips(evaluation.study.items)}


def _clips(items: pd.DataFrame | None) -> Facts:
    if items is None or not {"seconds", "modality"} <= set(items):
        return {}
    clips = items[items["modality"] == "ceus"]
    if clips.empty:
        return {}
    known: Facts = dict.fromkeys(("slowest", "fastest"), "")
    for column, low, high in (("seconds", "shortest", "longest"), ("fps", "slowest", "fastest")):
        if column in clips:
            ends = clips[column].min(), clips[column].max()
            known |= {low: number(ends[0], 0), high: number(ends[1], 0)}
    return known


def _patients(evaluation: Evaluation) -> Facts:
    """Counts of the flow, and who is positive in each part of the split."""
    flow = evaluation.tables.flow
    rows = {
        step: flow[flow["step"] == step].to_dict("records")
        for step in ("cohort table", "left out", "split", "scored")
    }
    parts = {DEVELOPMENT: "out-of-fold"}
    return {
        "table": rows["cohort table"],
        "left_out": rows["left out"],
        "splits": [row | {"events": _events(row)} for row in rows["split"]],
        "scored": ", ".join(
            f"{row['modality']} {parts.get(row['split'], 'hold-out')} {row['patients']} "
            f"({_events(row)})"
            for row in rows["scored"]
        ),
        "prevalence": ", ".join(
            f"{row['split']} {100 * row['events'] / row['patients']:.1f} %"
            for row in rows["split"]
            if not pd.isna(row["events"])
        ),
    }


def _events(row: Mapping[Any, Any]) -> str:
    return "events sealed" if pd.isna(row["events"]) else f"{row['events']} events"


def _missing(evaluation: Evaluation) -> Facts:
    """Modalities and covariates that patients lack, each with their number."""
    patients, covariates = evaluation.study.patients, evaluation.study.covariates
    files = {
        str(name).removeprefix("items_"): int((patients[name] == 0).sum())
        for name in patients
        if str(name).startswith("items_")
    }
    values = {name: int(patients[name].replace("", None).isna().sum()) for name in covariates}
    return {
        "patients_known": not patients.empty,
        "lacking_files": [pair for pair in files.items() if pair[1]],
        "lacking_covariates": [pair for pair in values.items() if pair[1]],
    }


def _settings(evaluation: Evaluation) -> Facts:
    """Of the cells' configurations: each setting with its different values, in brief."""
    cells = evaluation.study.settings
    study = {cell: config["study"] for cell, config in cells.items()}
    selection = {cell: str(each.get("selection", "inner_bce")) for cell, each in study.items()}
    studies = list(study.values())
    names = (
        "image_size", "video_size", "num_frames", "train_sampling", "eval_sampling", "augment",
        "mirror_views", "image_encoder", "video_encoder", "head",
    )  # fmt: skip
    settings = {
        name: "; ".join(dict.fromkeys(filter(None, (brief(study.get(name)) for study in studies))))
        for name in names
    }
    encoders = [study.get(name) for study in studies for name in ("image_encoder", "video_encoder")]
    pretrained = {
        (each.get("init_args") or {}).get("pretrained")
        for each in encoders
        if isinstance(each, Mapping)
    }
    runs = evaluation.tables.training
    return {
        "configured": bool(cells),
        "settings": settings,
        "sizes": [
            (name, settings[key])
            for name, key in (("images", "image_size"), ("clips", "video_size"))
            if settings[key]
        ],
        "encoders_pretrained": list(
            dict.fromkeys(each is not False for each in sorted(pretrained - {None}, key=str))
        ),
        "study": {
            name: _each({cell: each.get(name) for cell, each in study.items()})
            for name in ("encoder_lr", "head_lr", "batch_size", "patience")
        },
        "trainer": {
            name: _each({cell: each["trainer"].get(name) for cell, each in cells.items()})
            for name in ("max_epochs", "precision")
        },
        "pos_weight": _each(
            {
                cell: (each.get("model", {}).get("init_args") or {}).get("pos_weight", "balanced")
                for cell, each in cells.items()
            }
        ),
        "epoch": _each({cell: _EPOCH.get(name, name) for cell, name in selection.items()}),
        "patience_used": bool({"inner_bce", "refit"} & set(selection.values())),
        "warm_start": _each(
            {
                cell: _START[bool(each.get("warm_start"))]
                for cell, each in study.items()
                if cell[1] == "combined"
            }
        ),
        "axes": _axes(evaluation),
        "trained": {"runs": len(runs), "fewest": runs["epochs"].min(), "most": runs["epochs"].max()}
        if len(runs)
        else {},
    }


def _each(values: Mapping[tuple[str, str], object]) -> str:
    """What cells hold, and where they differ, of which cells.

    Cells go by architecture or by modality where that tells them apart: `1e-4 (resnet); 3e-4
    (mvit, swin)`.
    """
    found = {cell: brief(value) for cell, value in values.items()}
    texts = list(dict.fromkeys(filter(None, found.values())))
    if len(texts) < 2:
        return "".join(texts)

    def named(text: str, name: Callable[[tuple[str, str]], str]) -> list[str]:
        return list(dict.fromkeys(name(cell) for cell in found if found[cell] == text))

    names: tuple[Callable[[tuple[str, str]], str], ...] = (
        lambda cell: cell[0], lambda cell: cell[1], " ".join,
    )  # fmt: skip
    for name in names:
        groups = {text: named(text, name) for text in texts}
        if sum(map(len, groups.values())) == len({name(cell) for cell in found}):
            break
    return "; ".join(f"{text} ({', '.join(cells)})" for text, cells in groups.items())


def _axes(evaluation: Evaluation) -> str:
    """Settings that cells of one architecture differ in, which are in their names."""
    values: dict[str, list[str]] = {}
    for architecture in dict.fromkeys(evaluation.tables.cells["architecture"]):
        for part in str(architecture).split("+")[1:]:
            key, _, value = part.partition("=")
            values.setdefault(key, []).append(value)
    return "; ".join(f"{key} {', '.join(dict.fromkeys(each))}" for key, each in values.items())


def _figures(evaluation: Evaluation) -> Facts:
    """Spread over folds, rates at Youden's threshold, and characteristics that shifted."""
    tables = evaluation.tables
    spread, smd = tables.cells["fold_sd_auc"], tables.characteristics
    part = "oof" if evaluation.seal.labels is None else "test"
    points = tables.operating
    points = points[(points["part"] == part) & (points["rule"] == YOUDEN)]
    shifted = [] if smd.empty else smd[smd["smd"].abs() > 0.1]["characteristic"].tolist()
    return {
        "fold_sd": {"lowest": number(spread.min()), "highest": number(spread.max())}
        if spread.notna().any()
        else {},
        "rates": [
            row
            for cell in evaluation.selected.to_dict("records")
            for row in of_cell(points, cell["architecture"], cell["modality"]).to_dict("records")
        ],
        "shifted": None if smd.empty else ", ".join(dict.fromkeys(shifted)),
    }
