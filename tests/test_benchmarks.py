"""What a benchmark of half an hour would otherwise find out at its end."""

from pathlib import Path

from benchmarks.learning import RECIPES, _jobs
from experiments.config.compose import compose
from experiments.training.build import check


def test_every_recipe_is_a_configuration_that_a_run_takes(store: Path, tmp_path: Path) -> None:
    jobs = list(_jobs(tmp_path, "demo", list(RECIPES), (50, 280), (0,)))
    assert {job.recipe for job in jobs} == set(RECIPES)
    assert {"train_patients=50", "train_patients=null"} <= {s for job in jobs for s in job.settings}
    check(compose([*job.settings, f"store={store}", f"runs={tmp_path}"]) for job in jobs)
