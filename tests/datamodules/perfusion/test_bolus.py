"""The formulas against integration, the fit against curves that are known, and none invented."""

import numpy as np
import pytest
from scipy.integrate import quad

from datamodules.perfusion.bolus import PARAMETERS, WASH_OUT, Bolus, fit_bolus

BOLI = [Bolus(0.01, 0.3, 3.0, 2.2, 0.95), Bolus(0, 40.0, 10.0, 8.0, 0.6), Bolus(5, 1, 0, 20, 1.2)]


@pytest.mark.parametrize("bolus", BOLI)
def test_the_formulas_are_what_integration_and_differences_give(bolus: Bolus) -> None:
    known = bolus.parameters()
    start, top = bolus.arrival_s, bolus.arrival_s + bolus.rise_s

    def rise(t: float) -> float:
        return float(bolus(t)) - bolus.baseline

    seconds = np.linspace(start + 1e-3, top + 12 * bolus.rise_s, 400_001)
    curve = bolus(seconds) - bolus.baseline
    slope = np.gradient(curve, seconds)
    up, down = slope.argmax(), slope.argmin()
    end = top + known["FT"]
    late = {"limit": 500, "points": [top, 3 * top, 30 * top]}
    whole = quad(rise, start, 3000 * top, **late)[0]
    first_moment = quad(lambda t: (t - start) * rise(t), start, 3000 * top, **late)[0]
    expected = {
        "AT": start,
        "PE": curve.max(),
        "TTP": seconds[curve.argmax()] - start,
        "RT": top - (seconds[up] - curve[up] / slope[up]),
        "FT": seconds[down] - curve[down] / slope[down] - top,
        "mTT": first_moment / whole,
        "WiAUC": quad(rise, start, top)[0],
        "WoAUC": quad(rise, top, end)[0],
        "WiWoAUC": quad(rise, start, end, points=[top])[0],
        "WiR": slope[up],
        "WoR": -slope[down],
    }
    assert set(expected) == set(PARAMETERS)
    assert known == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("bolus", BOLI[:2])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 255.0])
def test_a_bolus_is_found_again_at_any_scale(bolus: Bolus, scale: float) -> None:
    seconds = np.arange(0, 60, 0.125)
    fit = fit_bolus(seconds, scale * bolus(seconds))
    assert fit.bolus is not None
    found = fit.parameters()
    times = {name for name, unit in PARAMETERS.items() if unit == "s"}
    for name, value in bolus.parameters().items():
        assert found[name] == pytest.approx(value * (1 if name in times else scale), rel=0.01), name
    assert fit.r2 > 0.999
    assert not fit.notes


def test_speckle_and_frames_out_of_view_do_not_bend_it() -> None:
    seconds, bolus = np.arange(0, 15, 0.125), BOLI[0]
    noise = np.random.default_rng(0).gamma(300, 1 / 300, seconds.size)
    curve = bolus(seconds) * noise
    curve[20:30] = np.nan
    found = fit_bolus(seconds, curve).parameters()
    assert found == pytest.approx(bolus.parameters(), rel=0.1)


@pytest.mark.parametrize(
    ("until", "note"),
    [(4.5, "clip ends before the peak of contrast"), (8.0, "clip too short for wash-out")],
)
def test_a_clip_that_ends_early_is_marked(until: float, note: str) -> None:
    seconds = np.arange(0, until, 0.125)
    fit = fit_bolus(seconds, BOLI[0](seconds))
    assert any(text.startswith(note) for text in fit.notes), fit.notes
    found = fit.parameters()
    assert all(np.isnan(found[name]) for name in WASH_OUT)
    assert np.isnan(found["PE"]) == (fit.bolus is None)


def test_contrast_from_the_first_frames_is_marked() -> None:
    seconds = np.arange(0, 15, 0.125)
    fit = fit_bolus(seconds, BOLI[0](seconds + 4))
    assert any("from the first frames" in text for text in fit.notes), fit


_NOISE = np.random.default_rng(1).normal(50, 5, 200)


@pytest.mark.parametrize(
    ("seconds", "curve", "reason"),
    [
        (np.arange(200) / 8, _NOISE, "no bolus: it would explain"),
        (np.arange(200) / 8, np.full(200, 7.0), "intensity never changes"),
        (np.arange(5.0), np.arange(5.0), "got 5 frames of 4.0 s"),
        (np.arange(20) / 20, np.arange(20.0), "got 20 frames of 0.9 s"),
        ([0.0], [1.0], "got 1 frames of 0.0 s"),
        (np.arange(50.0), np.full(50, np.nan), "got 0 frames"),
    ],
)
def test_where_none_fits_it_is_said(seconds: np.ndarray, curve: np.ndarray, reason: str) -> None:
    fit = fit_bolus(seconds, curve)
    assert fit.bolus is None
    assert reason in fit.notes[0]
    assert all(np.isnan(value) for value in fit.parameters().values())
