"""Conformal sets of the deployed model, where there are patients that they may be calibrated on."""

from collections.abc import Mapping, Sequence

from evaluation.statistics.conformal import ClassCut, class_cuts
from experiments.errors import ConfigError
from experiments.predicting.deployed import Deployed

Cuts = Mapping[float, tuple[ClassCut, ClassCut]]
"""By level, the cuts of class 0 and of class 1."""

CALIBRATED_ON = (
    "the opened test set: scored by the deployed model, which has seen none of them, so that they "
    "and new patients of the same kind are exchangeable. Out-of-fold scores are of other models, "
    "and are not used."
)


def read_levels(texts: Sequence[str]) -> list[float]:
    """The levels of `--conformal`.

    Raises:
        ConfigError: If one is no number above 0 and below 1.
    """
    levels = []
    for text in texts:
        try:
            level = float(text)
        except ValueError:
            level = 0.0
        if not 0 < level < 1:
            raise ConfigError(
                f"--conformal must give shares above 0 and below 1, got {text!r}. Give 0.1,0.05 "
                "for sets that miss at most 10 % and 5 % of either class."
            )
        levels.append(level)
    return levels


def set_cuts(deployed: Deployed, levels: Sequence[float]) -> Cuts:
    """Where the sets of each level are cut.

    Raises:
        ConfigError: If the test set is sealed, was tampered with, or is too small for a level.
    """
    if not levels:
        return {}
    if deployed.seal.labels is None:
        raise ConfigError(
            "conformal sets must be calibrated on patients whom the deployed model has not seen, "
            f"got a sealed test set and no others ({deployed.sweep.path}). Out-of-fold scores are "
            "of models trained on other patients, not exchangeable with its own. Open the test set "
            "first, when the study is over: ceus evaluate --unseal-test; or leave --conformal out."
        )
    if deployed.seal.problems:
        raise ConfigError(
            "the test set must be as it was opened to calibrate conformal sets on it, got: "
            f"{'; '.join(deployed.seal.problems)} ({deployed.sweep.path}). See ceus evaluate."
        )
    test = deployed.scores.test
    cuts = {level: class_cuts(test["label"], test["score"], alpha=level) for level in levels}
    for level, of_classes in cuts.items():
        for each in of_classes:
            if each.patients < each.needed:
                raise ConfigError(
                    f"conformal sets at {level:g} must be calibrated on {each.needed} or more "
                    f"patients of each class (1 / level - 1), got {each.patients} of class "
                    f"{each.label} in the test set: every set would hold that class. Choose a "
                    f"level of {1 / (each.patients + 1):.3g} or more."
                )
    return cuts
