"""Smoothed event rates over predicted probabilities, as R computes them, to the last digits.

`loess`: Cleveland & Grosse's (R's default: local quadratics at the vertices of a k-d tree, blended
by cubics), `loess direct`: the same without the tree, `lowess`: Cleveland 1979 without robustness
steps, as rms::val.prob, `lowess direct`: the same at every point, `rcs`: logistic regression on a
restricted cubic spline of the log-odds.
"""

from math import floor
from typing import Literal

import numpy as np

from evaluation.statistics.checks import Floats
from evaluation.statistics.logistic import fit_logistic

Smoother = Literal["loess", "loess direct", "lowess", "lowess direct", "rcs"]

SMOOTHERS: tuple[Smoother, ...] = ("loess", "loess direct", "lowess", "lowess direct", "rcs")

_LOESS_SPAN, _LOWESS_SPAN = 0.75, 2 / 3

_CELL = 0.2  # a cell of the tree with fewer than this share of the span is not cut


class TooFewValuesError(ValueError):
    """The probabilities take too few values for this smoother; the message says which."""


def smooth(y: Floats, p: Floats, smoother: Smoother) -> Floats:
    """The smoothed event rate at each patient's probability.

    Args:
        y: (n,) 0 or 1.
        p: (n,) probabilities; for `rcs` inside (0, 1).
        smoother: One of SMOOTHERS.

    Returns:
        (n,) estimates; local polynomials may leave [0, 1].

    Raises:
        TooFewValuesError: too few distinct probabilities.
    """
    if smoother == "rcs":
        return _spline(y, np.log(p / (1 - p)))
    if smoother == "lowess":
        return _lowess(y, p, skip=0.01)
    if smoother == "lowess direct":
        return _lowess(y, p, skip=0.0)
    if smoother == "loess direct":
        return np.asarray(_local_quadratics(y, p, p)[:, 0])
    return _loess(y, p)


def _loess(y: Floats, x: Floats) -> Floats:
    vertices = _vertices(np.sort(x))
    value, slope = _local_quadratics(y, x, vertices).T
    # A point on a vertex belongs to the cell below it, and has its value either way.
    cell = np.clip(np.searchsorted(vertices, x) - 1, 0, vertices.size - 2)
    width = vertices[cell + 1] - vertices[cell]
    t = (x - vertices[cell]) / width
    return np.asarray(
        (1 - t) ** 2 * (1 + 2 * t) * value[cell]
        + t**2 * (3 - 2 * t) * value[cell + 1]
        + t * (1 - t) ** 2 * width * slope[cell]
        - t**2 * (1 - t) * width * slope[cell + 1]
    )


def _vertices(x: Floats) -> Floats:
    """Ends of the cells: the range and a little more, cut at medians down to small cells."""
    largest_leaf = floor(x.size * _LOESS_SPAN * _CELL)
    margin = 0.005 * max(x[-1] - x[0], 1e-10 * max(abs(x[0]), abs(x[-1])) + 1e-30)
    vertices = {x[0] - margin, x[-1] + margin}
    cells = [(0, x.size - 1, x[0] - margin, x[-1] + margin)]
    while cells:
        first, last, low, high = cells.pop()
        if last - first + 1 <= largest_leaf:
            continue
        # The lower median, counted from 1 as the original does.
        middle = _untied(x, (first + last + 2) // 2 - 1, first, last)
        cut = x[middle]
        if cut in (low, high):
            continue
        vertices.add(cut)
        cells += [(first, middle, low, cut), (middle + 1, last, cut, high)]
    return np.array(sorted(vertices))


def _untied(x: Floats, middle: int, first: int, last: int) -> int:
    """The place nearest the middle after which the next value is another."""
    offset = 0
    while first <= middle + offset < last:
        if x[middle + offset] != x[middle + offset + 1]:
            return middle + offset
        offset = 1 - offset if offset <= 0 else -offset
    return middle


def _local_quadratics(y: Floats, x: Floats, points: Floats) -> Floats:
    """(points, 2): value and slope of the tricube weighted parabola at each point."""
    apart = x - points[:, None]
    distance = np.abs(apart)
    count = min(x.size, floor(x.size * _LOESS_SPAN + 1e-5))
    nearest = max(count, 1) - 1
    reach = np.partition(distance, nearest, axis=1)[:, nearest, None]
    if (reach <= 0).any():
        raise TooFewValuesError("loess needs neighbours of other probabilities")
    weight = np.sqrt((1 - np.minimum(distance / reach, 1) ** 3) ** 3)
    design = weight[..., None] * apart[..., None] ** np.arange(3)
    norm = np.sqrt((design**2).sum(axis=1, keepdims=True))
    norm[norm == 0] = 1
    design /= norm
    q, r = np.linalg.qr(design)
    lacking = np.abs(np.diagonal(r, axis1=1, axis2=2)).min(axis=1) < 1e-7
    r[lacking] = np.eye(3)
    right = np.einsum("pnk,pn->pk", q, weight * y)
    fit = np.linalg.solve(r, right[..., None])[..., 0]
    # Singular values below this share of the first are taken for 0, as in the original.
    tolerance = 100 * np.finfo(np.float64).eps
    for at in np.flatnonzero(lacking):
        fit[at] = np.linalg.lstsq(design[at], weight[at] * y, rcond=tolerance)[0]
    return np.asarray((fit / norm[:, 0])[:, :2])


def _lowess(y: Floats, p: Floats, *, skip: float) -> Floats:
    """Local lines at points `skip` of the range apart at least, joined by straight lines."""
    order = np.argsort(p, kind="stable")
    x, events = p[order], y[order]
    spread = x[-1] - x[0]
    if spread <= 0:
        raise TooFewValuesError("lowess needs more than one probability")
    count = max(min(x.size, floor(_LOWESS_SPAN * x.size + 1e-7)), 2)
    fitted = np.empty(x.size)
    at, last, left = 0, -1, 0
    while True:
        while left + count < x.size and x[left + count] - x[at] < x[at] - x[left]:
            left += 1
        fitted[at] = _local_line(x, events, at=at, left=left, count=count)
        if 0 <= last < at - 1:
            between = slice(last + 1, at)
            share = (x[between] - x[last]) / (x[at] - x[last])
            fitted[between] = share * fitted[at] + (1 - share) * fitted[last]
        last = at
        # Equal probabilities share a fit; those a little higher are skipped and joined later.
        ahead = at + 1
        while ahead < x.size and x[ahead] <= x[at] + skip * spread:
            if x[ahead] == x[at]:
                fitted[ahead], last = fitted[at], ahead
            ahead += 1
        at = max(last + 1, ahead - 1)
        if last == x.size - 1:
            break
    result = np.empty(x.size)
    result[order] = fitted
    return result


def _local_line(x: Floats, events: Floats, *, at: int, left: int, count: int) -> float:
    """The value at a point of the line through its neighbours, tricube weighted."""
    reach = max(x[at] - x[left], x[left + count - 1] - x[at])
    distance = np.abs(x - x[at])
    weight = np.ones(x.size)
    far = distance > 0.001 * reach
    weight[far] = (1 - np.minimum(distance[far] / max(reach, 1e-300), 1) ** 3) ** 3
    weight[(distance > 0.999 * reach) | (np.arange(x.size) < left)] = 0
    weight /= weight.sum()
    centre = (weight * x).sum()
    square = (weight * (x - centre) ** 2).sum()
    if np.sqrt(square) > 0.001 * (x[-1] - x[0]):
        weight *= 1 + (x[at] - centre) / square * (x - centre)
    return float((weight * events).sum())


_COEFFICIENTS = 3  # of a spline with three knots


def _spline(y: Floats, x: Floats) -> Floats:
    """Harrell's restricted cubic spline with knots at the 10th, 50th and 90th percentile."""
    low, middle, high = np.quantile(x, (0.1, 0.5, 0.9))
    if not low < middle < high or x.size < _COEFFICIENTS:
        raise TooFewValuesError("a spline needs three knots apart, and as many patients")

    def cube(knot: float) -> Floats:
        return np.asarray(np.maximum(x - knot, 0) ** 3 / (high - low) ** 2)

    bend = (
        cube(low)
        - cube(middle) * (high - low) / (high - middle)
        + cube(high) * (middle - low) / (high - middle)
    )
    return fit_logistic(y, np.column_stack([np.ones_like(x), x, bend]), like="lrm").fitted
