"""Both classes in every share of every step, as far as there are rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.batches.plan import balanced_repeats, stratified_order, training_batches


def labels_of(n: int, positives: int) -> np.ndarray:
    labels = np.zeros(n, dtype=np.int64)
    labels[np.random.default_rng(n).permutation(n)[:positives]] = 1
    return labels


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_each_process_gets_its_share_of_both_classes(data: st.DataObject) -> None:
    n = data.draw(st.integers(2, 120), "rows")
    positives = data.draw(st.integers(1, n - 1), "positives")
    batch_size = data.draw(st.integers(1, 16), "batch size")
    world = data.draw(st.integers(1, 4), "processes")
    labels, step = labels_of(n, positives), batch_size * world
    order = stratified_order(labels, step=step, rng=np.random.default_rng(positives))
    assert sorted(order) == list(range(n))
    rarer = int(2 * positives <= n)
    few = int((labels == rarer).sum())
    steps = [order[start : start + step] for start in range(0, n, step)]
    counts = [int((labels[rows] == rarer).sum()) for rows in steps]
    if few >= len(steps) and n % step != 1:
        assert min(counts) >= 1, "every step has both classes where there are enough rows"
    for rows, count in zip(steps[:-1], counts, strict=False):
        share = few * len(rows) / n
        assert share - 1 < count < share + 1 or few >= len(steps)
    shares = [
        training_batches(order, batch_size=batch_size, rank=rank, world=world)
        for rank in range(world)
    ]
    for one in zip(*shares, strict=True):
        inside = [int((labels[rows[weights > 0]] == rarer).sum()) for rows, weights in one]
        assert max(inside) - min(inside) <= 1, "dealt evenly"


def test_steps_of_the_study_hold_two_positives_or_one() -> None:
    labels = labels_of(224, 44)  # 0.8 × 280 patients, 0.8 × 55 positives
    for epoch in range(20):
        order = stratified_order(labels, step=8, rng=np.random.default_rng(epoch))
        assert {int(labels[order[s : s + 8]].sum()) for s in range(0, 224, 8)} == {1, 2}


def test_epochs_differ_and_are_seeded() -> None:
    labels = labels_of(40, 10)
    first, again, other = (
        stratified_order(labels, step=8, rng=np.random.default_rng(s)) for s in (0, 0, 1)
    )
    assert (first == again).all()
    assert set(first[:8]) != set(other[:8])


@pytest.mark.parametrize("positives", [3, 10, 17])
def test_repeats_make_the_classes_equal(positives: int) -> None:
    labels = labels_of(20, positives)
    again = balanced_repeats(labels, np.random.default_rng(0))
    assert (
        np.bincount(np.concatenate([labels, labels[again]])).tolist()
        == [20 - min(positives, 20 - positives)] * 2
    )
    times = np.bincount(again, minlength=20)[labels == int(positives <= 10)]
    assert times.max() - times.min() <= 1
