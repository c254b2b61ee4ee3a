"""Logistic regression by maximum likelihood, for calibration."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from evaluation.statistics.checks import Floats


@dataclass(frozen=True, kw_only=True)
class LogisticFit:
    """A fitted model.

    Attributes:
        coefficients: (k,) estimates.
        errors: (k,) standard errors from the observed information.
        fitted: (n,) probabilities.
    """

    coefficients: Floats
    errors: Floats
    fitted: Floats


def fit_logistic(
    y: Floats, design: Floats, *, offset: Floats | None = None, like: Literal["glm", "lrm"] = "glm"
) -> LogisticFit:
    """Newton's method with the start and the end of R's `glm` (at epsilon 1e-14) or of rms' `lrm`.

    Both stop before the last digit, and the standard errors are those of the weights that the last
    step was taken with; figures agree with R's only if it is done alike. A step that would leave
    the likelihood worse is halved until it does not, as from log-odds in the hundreds.

    Args:
        y: (n,) 0 or 1.
        design: (n, k) columns of full rank, on which the classes overlap.
        offset: (n,) added to the linear predictor with a coefficient of 1.
        like: "glm" starts near the labels and ends when the deviance stands still; "lrm" starts at
            the prevalence, and ends a step after the deviance changed by less than 0.025.
    """
    from scipy.special import expit, logit

    shift = np.zeros(y.size) if offset is None else offset
    p = (y + 0.5) / 2 if like == "glm" else np.full(y.size, y.mean())
    eta, before, last_step = logit(p), np.inf, False
    beta = np.zeros(design.shape[1])
    for _ in range(100):
        # Of a probability that rounds to 0 or 1 the smallest weight that R's glm knows.
        weight = np.maximum(p * (1 - p), np.finfo(np.float64).eps)
        root = np.sqrt(weight)
        q, r = np.linalg.qr(design * root[:, None])
        last, beta = beta, np.linalg.solve(r, q.T @ (root * (eta - shift + (y - p) / weight)))
        deviance = _deviance(y, shift + design @ beta)
        for _ in range(60):
            if deviance <= before * (1 + 1e-9):
                break
            beta = (last + beta) / 2
            deviance = _deviance(y, shift + design @ beta)
        eta = shift + design @ beta
        p = expit(eta)
        change, before = abs(deviance - before), deviance
        if last_step or (like == "glm" and change < 1e-14 * (abs(deviance) + 0.1)):
            break
        last_step = like == "lrm" and change < 0.025
    errors = np.sqrt((np.linalg.inv(r) ** 2).sum(axis=1))
    return LogisticFit(coefficients=beta, errors=errors, fitted=p)


def _deviance(y: Floats, eta: Floats) -> float:
    return 2 * float(np.logaddexp(0, np.where(y == 1, -eta, eta)).sum())
