"""Names and values that would lead out of a folder, into a script or into a page are refused."""

import json
import shutil
from pathlib import Path

import pytest

from experiments.config.study import check_name
from experiments.errors import ConfigError
from experiments.sweeps.file import SlurmSettings
from tests.command import ceus

OWN = Path(__file__).parent / "own"
HOSTILE = (
    "../../x", "/abs", "a/b", "..", ".hidden", "-dash", "", "two words", "a\nb", "a\rb", "a\x00b",
    "a\x1b[31mb", "$(touch x)", "`id`", "a;b", "a|b", "<script>alert(1)</script>", "a\"b", "a'b",
    "a\u2028b", "a\u202eb", "größe", "a" * 65, "a\n", "~", "%2e%2e", "a\\b", "*",
)  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_one_rule_for_names(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^the key must be of letters .* Rename it\.$"):
        check_name("the key", name)


@pytest.mark.parametrize("name", ["resnet", "2d.v1_a-b", "_x", "a" * 64])
def test_names_as_they_are_given(name: str) -> None:
    check_name("the key", name)


def hostile_yaml(folder: Path, key: str, value: str) -> Path:
    """The tiny architecture with one more key of `study:`, as a file of the user's."""
    folder.mkdir()
    text = (OWN / "tiny.yaml").read_text().replace("  architecture: tiny\n", "")
    names = {"architecture": "tiny"} | {key: value}
    lines = "".join(f"  {k}: {json.dumps(v)}\n" for k, v in names.items())
    path = folder / "own.yaml"
    path.write_text(text.replace("study:\n", f"study:\n{lines}"))
    return path


@pytest.mark.parametrize("key", ["architecture", "modality", "sweep"])
@pytest.mark.parametrize("value", ["../../esc", "a\n$(touch pwned)", "<script>x</script>"])
def test_a_name_inside_of_a_users_file_is_refused(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: str
) -> None:
    path = hostile_yaml(tmp_path / "own", key, value)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    told = ceus("fit", f"architecture={path}", "modality=image", f"store={store}", packages=OWN)
    assert told.returncode == 2
    assert told.stderr.startswith(f"error: study.{key} must be of letters")
    assert {p.name for p in tmp_path.iterdir()} == {"own", "here"}
    assert not list((tmp_path / "here").iterdir())


@pytest.mark.parametrize(
    ("slurm", "key"),
    [
        ({"partition": "x\ntouch pwn_part"}, "partition"),
        ({"partition": "x --wrap=id"}, "partition"),
        ({"gres": "gpu:1\nid"}, "gres"),
        ({"gres": "$(id)"}, "gres"),
        ({"mem": "1G\n#SBATCH --wrap=id"}, "mem"),
        ({"mem": "lots"}, "mem"),
        ({"sbatch": ["--account=a\nid"]}, "sbatch"),
        ({"sbatch": ["--qos=$(id)"]}, "sbatch"),
        ({"sbatch": ["--constraint=`id`"]}, "sbatch"),
        ({"sbatch": ["id"]}, "sbatch"),
        ({"sbatch": ["--time=1\x0bid"]}, "sbatch"),
        ({"setup": ["true\rid"]}, "setup"),
        ({"setup": ["module load\x00"]}, "setup"),
    ],
)
def test_values_of_slurm_are_refused_by_their_key(
    store: Path, tmp_path: Path, slurm: dict[str, object], key: str
) -> None:
    path = tmp_path / "sweep.yaml"
    axes = {"architecture": [str(OWN / "tiny.yaml")], "modality": ["image"], "fold": [0]}
    launcher = {"kind": "slurm", "slurm": slurm}
    path.write_text(json.dumps({"name": "safe", "axes": axes, "launcher": launcher}))
    told = ceus("sweep", path, f"store={store}", f"runs={tmp_path / 'runs'}", packages=OWN)
    assert told.returncode == 2
    assert f"launcher.slurm.{key} must be " in told.stderr
    assert "Traceback" not in told.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["sweep.yaml"]


def test_values_as_clusters_want_them() -> None:
    SlurmSettings(
        partition="gpu-a100,long",
        gres="gpu:nvidia_a100-sxm4:1",
        mem="64G",
        sbatch=("--constraint=[rack1*2&rack2]", "--comment='two words'", "--exclude=n[1-3]"),
        setup=("module load cuda; export X=$HOME", "\tsource env/bin/activate"),
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("run_id", "../other"),
        ("run_id", ".."),
        ("architecture", "<script>alert(1)</script>"),
        ("modality", "image\x1b[2J"),
        ("name", "<img src=x onerror=alert(1)>"),
    ],
)
def test_a_list_with_names_that_no_sweep_gives_is_not_read(
    tmp_path: Path, key: str, value: str
) -> None:
    run = {"run_id": "a", "architecture": "a", "modality": "image", "fold": 0, "seed": 0}
    content = {"name": "s", "runs": [run]}
    (content if key == "name" else run)[key] = value
    (tmp_path / "sweep.json").write_text(json.dumps(content))
    for command in ("status", "evaluate"):
        told = ceus(command, tmp_path)
        assert told.returncode == 2
        assert "sweep.json must be the list that `ceus sweep` writes" in told.stderr
        assert value not in told.stdout + told.stderr.replace(repr(value), "")


def test_a_folder_that_a_script_cannot_name_is_refused(store: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs\n$(touch pwned)"
    told = ceus(
        "sweep", OWN / "tiny_sweep.yaml", f"architecture={OWN / 'tiny.yaml'}", f"store={store}",
        f"runs={json.dumps(str(runs))}", "launcher.kind=slurm", "modality=image", packages=OWN,
    )  # fmt: skip
    assert told.returncode == 2
    assert "folder of a sweep must have a path without" in told.stderr
    assert not list(tmp_path.rglob("*.sbatch"))
    shutil.rmtree(runs)
