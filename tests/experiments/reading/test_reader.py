"""`ceus reader` and `ceus readers`: in a browser, and at the command line."""

import io
import json
import shutil
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from time import monotonic
from typing import Any

import av
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from datamodules.store.clip_file import read_index
from datamodules.store.clips import ClipReader
from datamodules.store.folder import Store
from datamodules.store.pseudonyms import Pseudonyms
from evaluation import auc_interval, unseal
from evaluation.files import read_csv
from evaluation.records.listing import ListedRun, Listing
from evaluation.records.runs import read_sweep
from evaluation.records.schema import RUN_COLUMNS
from experiments.reading.overlays import read_overlays
from tests.command import ceus

CELLS = ("image", "combined")


@pytest.fixture(scope="module")
def sweep(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep folder of two cells × two folds over the store; the first patient explained."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    opened = Store(store)
    split = json.loads((store / "splits" / "default.json").read_text())
    runs = [
        ListedRun(run_id=f"tiny-{cell}-fold{fold}", architecture="tiny", modality=cell,
                  fold=str(fold), seed=0)
        for cell in CELLS for fold in (0, 1)
    ]  # fmt: skip
    folder.mkdir()
    (folder / "sweep.json").write_text(Listing(name="tiny", runs=tuple(runs)).to_json())
    rng = np.random.default_rng(4)
    for run in runs:
        parts = split["folds"][int(run.fold)] | {"test": split["holdout"]}
        rows = [(part, patient) for part, members in parts.items() for patient in members]
        table = pd.DataFrame(rows, columns=["part", "patient_id"])
        truth = table["patient_id"].map(opened.labels)
        logit = rng.normal(truth, 1.0).round(2)
        columns = {name: getattr(run, name) for name in RUN_COLUMNS} | {
            "label": truth.where(table["part"] != "test").astype(float), "logit": logit,
            "probability": 1 / (1 + np.exp(-logit)), "n_items": 1, "config_sha": "c" * 64,
            "split_sha": split["sha"], "store_sha": opened.sha, "checkpoint_sha": "d" * 64,
        }  # fmt: skip
        (folder / run.run_id).mkdir()
        table.assign(**columns).to_parquet(folder / run.run_id / "predictions.parquet")
        (folder / run.run_id / "status.json").write_text('{"state": "done"}')
        config = f"study: {{store: {store}}}\ntrainer: {{}}"
        (folder / run.run_id / "config.yaml").write_text(config)
    items = opened.items
    items.assign(
        label=items["label"].astype("Int8").mask(items["patient_id"].isin(split["holdout"]))
    ).to_parquet(folder / "cohort.parquet")
    explain(folder, opened, unseen(folder)[0])
    return folder


def explain(folder: Path, store: Store, patient: str) -> None:
    """Files as `ceus explain` leaves them: the clip, beside it the same in red, the curve below."""
    items = store.items[store.items["patient_id"] == patient].set_index("modality")["item_id"]
    image, clip = (sorted(items[[modality]])[0] for modality in ("image", "ceus"))
    stem = folder / "explained" / f"tiny-combined-fold0-{image}+{clip}-0"
    stem.parent.mkdir()
    index = read_index(store.item_path(clip, ".idx"))
    with av.open(str(stem.with_suffix(".mp4")), "w") as container:
        stream = container.add_stream(
            "libx264", rate=Fraction(1 / index["pts"][1]).limit_denominator(99)
        )
        stream.width, stream.height, stream.pix_fmt = 512, 320, "yuv420p"
        picture = np.zeros((320, 512, 3), np.uint8)
        picture[:256, 256:] = (200, 30, 30)
        for _ in index:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    content = {
        "run_id": "tiny-combined-fold0", "patient": Pseudonyms(store.path).of(patient),
        "item": f"{image}+{clip}", "part": "oof", "frames_s": index["pts"][[0, -1]].tolist(),
    }  # fmt: skip
    stem.with_suffix(".json").write_text(json.dumps(content))


def unseen(sweep: Path) -> list[str]:
    """The patients scored out of fold."""
    table = read_sweep(sweep).predictions
    return sorted(table.loc[table["part"] == "oof", "patient_id"].unique())


@pytest.fixture(scope="module")
def folder(sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page."""
    out = tmp_path_factory.mktemp("page") / "reader"
    result = ceus("reader", sweep, "--out", out)
    assert result.returncode == 0, result.stderr
    assert "1 with an overlay" in result.stdout
    return out


def script(path: Path) -> dict[str, Any]:
    """What a script of the page assigns, by name."""
    lines = path.read_text().splitlines()
    return {
        line.split(" = ")[0].removeprefix("window."): json.loads(line.split(" = ", 1)[1][:-1])
        for line in lines
    }


def test_the_page_shows_the_very_pixels_and_names_nobody(
    sweep: Path, folder: Path, store: Path, cohort: Path
) -> None:
    opened, hashes = Store(store), Pseudonyms(store)
    patients = unseen(sweep)
    cases = script(folder / "cases.js")["ceusCases"]
    assert [case["patient"] for case in cases] == sorted(map(hashes.of, patients))
    assert {key for case in cases for key in case} == {"patient", "images", "clips"}  # no label
    by_hash = {hashes.of(patient): patient for patient in patients}
    for case in cases:
        items = opened.items[opened.items["patient_id"] == by_hash[case["patient"]]]
        images = items.loc[items["modality"] == "image", "item_id"].sort_values()
        clips = items.loc[items["modality"] == "ceus", "item_id"].sort_values()
        for file, item in zip(case["images"], images, strict=True):
            shown = np.asarray(Image.open(folder / file))
            assert (shown == opened.image(item).transpose(1, 2, 0)).all()
        for clip, item in zip(case["clips"], clips, strict=True):
            stored = ClipReader(opened).index(item)
            with av.open(str(folder / clip["file"])) as video:
                frames = list(video.decode(video=0))
            assert [frame.time for frame in frames] == pytest.approx(list(stored["pts"]), abs=1e-4)
            assert clip["seconds"] == pytest.approx(list(stored["pts"]), abs=1e-4)
            assert all(len(curve["seen"]) == len(frames) for curve in clip["curves"].values())
            read = ClipReader(opened).read(item, range(len(frames))).numpy()
            for frame, pixels in zip(frames, read, strict=True):
                rgb = frame.to_ndarray(format="rgb24").transpose(2, 0, 1).astype(int)
                assert np.abs(rgb - pixels).max() <= 4  # two decoders' rounding
    names = [*opened.items["patient_id"], *pd.read_csv(cohort)["path"], str(store)]
    for path in folder.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        assert not [name for name in names if name in path.name or name.encode() in content]
        assert path.suffix != ".html" or b"//" not in content.replace(b"<!--", b"")
    scores = script(folder / "model.js")["ceusModel"]
    assert scores["cells"] == [["tiny", cell] for cell in CELLS]
    table = read_sweep(sweep).predictions
    own = table[table["part"] == "oof"].set_index(["modality", "patient_id"])["probability"]
    for name, probabilities in scores["probabilities"].items():
        expected = [own[cell, by_hash[name]] for cell in CELLS]
        assert probabilities == pytest.approx(expected, abs=1e-4)
    mapped = [name for name, maps in scores["maps"].items() if maps]
    assert mapped == [hashes.of(patients[0])]
    assert (folder / scores["maps"][mapped[0]][0]["file"]).is_file()


def test_some_patients_are_drawn_with_the_shares_of_the_classes(
    sweep: Path, store: Path, tmp_path: Path
) -> None:
    drawn = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        result = ceus("reader", sweep, "--out", tmp_path / name, "--count", 6, "--seed", seed)
        assert result.returncode == 0, result.stderr
        cases = script(tmp_path / name / "cases.js")["ceusCases"]
        drawn.append([case["patient"] for case in cases])
    assert len(drawn[0]) == 6
    assert drawn[0] == drawn[1] != drawn[2]
    labels, hashes = Store(store).labels, Pseudonyms(store)
    everyone = unseen(sweep)
    share = sum(labels[patient] for patient in everyone) / len(everyone)
    positive = sum(labels[hashes.find(name)] for name in drawn[2])
    assert positive == round(6 * share)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--part", "test"], "the test set must be opened before it is read"),
        (["--count", "1"], "count must be 2 to"),
        (["--count", "99"], "count must be 2 to"),
        (["--store", "nowhere"], "store must be a folder"),
    ],
)
def test_a_page_that_cannot_be_made_is_one_error(
    sweep: Path, tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    result = ceus("reader", sweep, "--out", tmp_path / "page", *arguments)
    assert result.returncode == 2
    assert complaint in " ".join(result.stderr.split())
    assert not list(tmp_path.iterdir())


def test_a_page_is_not_written_over_another(sweep: Path, folder: Path) -> None:
    result = ceus("reader", sweep, "--out", folder)
    assert (result.returncode, "out must be a new folder" in result.stderr) == (2, True)


def test_of_explanations_only_whole_ones_by_models_that_had_not_seen_the_patient(
    sweep: Path, tmp_path: Path
) -> None:
    shutil.copytree(sweep / "explained", tmp_path / "explained")
    (path,) = (tmp_path / "explained").glob("*.json")
    assert len(read_overlays(path.parent)) == 1
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"part": "train"}))
    assert not read_overlays(path.parent)
    path.write_text(path.read_text()[:50])
    shutil.copytree(sweep, tmp_path / "sweep")
    shutil.rmtree(tmp_path / "sweep" / "explained")
    shutil.copytree(path.parent, tmp_path / "sweep" / "explained")
    result = ceus("reader", tmp_path / "sweep", "--out", tmp_path / "page")
    assert result.returncode == 2
    assert "must be as ceus explain wrote them" in result.stderr


def test_the_test_set_is_read_once_it_was_opened(sweep: Path, store: Path, tmp_path: Path) -> None:
    for name, source in (("sweep", sweep), ("store", store)):
        shutil.copytree(source, tmp_path / name)
    for path in (tmp_path / "sweep").glob("*/config.yaml"):
        path.write_text(f"study: {{store: {tmp_path / 'store'}}}")
    unseal(tmp_path / "sweep", tmp_path / "store", reason="to be read")
    result = ceus(
        "reader", tmp_path / "sweep", "--part", "test", "--store", tmp_path / "store",
        "--out", tmp_path / "page",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    cases = script(tmp_path / "page" / "cases.js")["ceusCases"]
    hashes = Pseudonyms(tmp_path / "store")
    read = {hashes.find(case["patient"]) for case in cases}
    table = read_sweep(sweep).predictions
    assert read == set(table.loc[table["part"] == "test", "patient_id"])


# In the browser


@pytest.fixture
def page(browser: Any, folder: Path) -> Iterator[Any]:
    """The page, begun by reader A."""
    context = browser.new_context(viewport={"width": 1280, "height": 860}, accept_downloads=True)
    page = context.new_page()
    seen: list[str] = []
    page.on("console", lambda message: seen.append(message.text))
    page.on("pageerror", lambda error: seen.append(str(error)))
    page.on("request", lambda request: seen.append(request.url))
    page.goto((folder / "index.html").as_uri())
    begin(page, "A")
    yield page
    context.close()
    assert all(each.startswith((folder.as_uri(), "blob:")) for each in seen), seen


def begin(page: Any, reader: str) -> None:
    page.fill("#reader", reader)
    page.keyboard.press("Enter")
    page.wait_for_function("clip.readyState >= 2")


def press(page: Any, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def answer(page: Any, confidence: int) -> None:
    press(page, *str(confidence), "Enter")


def finish(page: Any, confidences: dict[str, int]) -> None:
    """Answer for every patient left in a pass, and the models asked where they may be."""
    while page.locator("#reading").is_visible():
        press(page, "m")
        answer(page, confidences[shown(page)])


def shown(page: Any) -> str:
    """The hash of the patient shown, from the name of the clip's file."""
    return page.evaluate("clip.src").rpartition("/")[2].partition("-")[0]


def drawn(page: Any) -> np.ndarray:
    """The clip as it is drawn, grey, 64 pixels a side."""
    picture = Image.open(io.BytesIO(page.locator("#clip").screenshot())).convert("L")
    return np.asarray(picture.resize((64, 64)), np.float64)


def downloaded(page: Any, to: Path) -> dict[str, Any]:
    with page.expect_download() as waiting:
        page.click("#save")
    waiting.value.save_as(to)
    assert waiting.value.suggested_filename == "answers-A.json"
    return json.loads(to.read_text())


@pytest.mark.browser
def test_the_clip_plays_and_the_frame_shown_is_the_frame_stated(
    page: Any, folder: Path, store: Path
) -> None:
    page.wait_for_function("!clip.paused && clip.currentTime > 0.3")
    before = drawn(page)
    page.wait_for_timeout(700)
    assert np.abs(drawn(page) - before).max() > 10
    press(page, " ")
    page.wait_for_function("clip.paused")
    with av.open(str(folder / "media" / f"{shown(page)}-clip1.mp4")) as video:
        frames = np.stack(
            [np.asarray(frame.to_image().convert("L"), float) for frame in video.decode(video=0)]
        )
    # Where one frame differs most from the next: there a wrong one is seen.
    turn = int(np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2)).argmax())
    page.evaluate(PRESENTED)
    page.click("#curve", position={"x": 38, "y": 60})  # its start
    assert stated(page) == 0
    press(page, *["ArrowRight"] * turn)
    for number in (turn, turn + 1):
        assert stated(page) == number
        seen = drawn(page)
        errors = [np.abs(seen - frames[each]).mean() for each in (turn, turn + 1)]
        assert np.argmin(errors) == number - turn
        press(page, "ArrowRight")
    press(page, "ArrowUp", "ArrowUp", "ArrowDown")
    assert page.evaluate("clip.playbackRate") == 1.5
    page.click("#curve", position={"x": 38, "y": 60})
    press(page, "Shift+ArrowRight")
    seconds = script(folder / "cases.js")["ceusCases"]
    (own,) = (case["clips"][0]["seconds"] for case in seconds if case["patient"] == shown(page))
    assert own[stated(page)] == pytest.approx(1, abs=0.2)
    press(page, "ArrowLeft")
    assert own[stated(page)] < 1


PRESENTED = """(function next() {
    clip.requestVideoFrameCallback((_, { mediaTime }) => { window.presented = mediaTime; next(); });
})()"""


def stated(page: Any) -> int:
    """The frame that the page names, from 0, once the browser has presented what it sought."""
    page.wait_for_function(
        """() => {
            const own = ceusCases.find(({ patient }) => clip.src.includes(patient));
            const named = Number(/frame (\\d+)/.exec(time.textContent)[1]) - 1;
            const late = window.presented - own.clips[0].seconds[named];
            return !clip.seeking && Math.abs(late) < 0.01;
        }"""
    )
    return int(page.inner_text("#time").split("frame ")[1].split()[0]) - 1


@pytest.mark.browser
def test_keys_type_a_confidence_and_answers_outlive_the_page(page: Any, folder: Path) -> None:
    assert page.inner_text("#confidence") == "–"
    press(page, "Enter")
    assert "patient 1 of" in page.inner_text("#where")  # nothing typed, nothing saved
    for keys, told in (
        ("75", "75"), (["Backspace"], "7"), ("0", "70"), ("5", "5"), (["Backspace"], "–"),
        ("100", "100"),
    ):  # fmt: skip
        press(page, *keys)
        assert page.inner_text("#confidence") == told
    first = shown(page)
    press(page, "Enter")
    answer(page, 30)
    page.wait_for_function("clip.readyState >= 2")
    assert "patient 3 of" in page.inner_text("#where")
    page.reload()
    page.get_by_role("button", name="A (2 answers)").click()
    assert "patient 3 of" in page.inner_text("#where")
    press(page, "PageUp", "PageUp")
    assert (shown(page), page.inner_text("#confidence")) == (first, "100")
    press(page, "9", "5")
    assert page.inner_text("#confidence") == "95"  # begun anew
    press(page, "Enter")
    assert "patient 3 of" in page.inner_text("#where")
    page.reload()
    begin(page, "B")
    assert "0 answered" in page.inner_text("#where")  # another reader begins anew


@pytest.mark.browser
def test_readers_see_other_orders_that_stay(page: Any) -> None:
    def order() -> list[str]:
        count = page.evaluate("ceusPage.patients")
        seen = []
        for _ in range(count):
            seen.append(shown(page))
            press(page, "PageDown")
        return seen

    first = order()
    assert len(set(first)) == len(first)
    page.reload()
    begin(page, "A")
    assert order() == first
    page.reload()
    begin(page, "B")
    assert order() != first


@pytest.mark.browser
def test_models_are_hidden_until_the_second_pass_and_until_asked(
    page: Any, sweep: Path, store: Path, tmp_path: Path
) -> None:
    """Then both passes are downloaded, and compared by `ceus readers`."""
    began = monotonic() - 60  # the page was opened before, and loads for a while
    assert page.evaluate("window.ceusModel") is None
    press(page, "m")
    assert page.evaluate("window.ceusModel") is None
    assert not page.locator("#model").is_visible()
    hashes = Pseudonyms(store)
    labels = {hashes.of(patient): Store(store).labels[patient] for patient in unseen(sweep)}
    rng = np.random.default_rng(1)
    unaided = {name: int(rng.integers(0, 80)) + 20 * label for name, label in labels.items()}
    aided = {name: int(rng.integers(0, 50)) + 50 * label for name, label in labels.items()}
    finish(page, unaided)
    assert "first pass is complete" in page.inner_text("#done")
    page.click("#go")
    page.wait_for_function("window.ceusModel && clip.readyState >= 2")
    assert not page.locator("#said").is_visible()
    assert page.locator("#cells").inner_text() == ""
    press(page, "5", "Enter")
    assert "0 answered" in page.inner_text("#where")  # no answer before the models were asked
    explained = hashes.of(unseen(sweep)[0])
    if shown(page) == explained:
        press(page, "PageDown")
    press(page, "m")
    value = page.evaluate("ceusModel.probabilities")[shown(page)][0]
    assert f"{100 * value:.0f} %" in page.locator("#cells").inner_text()
    press(page, *["PageUp"] * len(labels))
    while shown(page) != explained:
        press(page, "PageDown")
    page.wait_for_function("clip.readyState >= 2")
    press(page, "o")
    assert not page.locator("#shown").is_visible()  # asked of another patient, not of this one
    press(page, "m", "o")
    page.wait_for_function("!document.getElementById('over').hidden && map.readyState >= 2")
    press(page, "o")
    page.wait_for_function("document.getElementById('over').hidden")
    press(page, *["PageUp"] * len(labels))
    finish(page, aided)
    assert "Both passes are complete" in page.inner_text("#done")
    content = downloaded(page, tmp_path / "a.json")
    assert content["reader"] == "A"
    given = {(each["pass"], each["patient"]): each for each in content["answers"]}
    assert len(given) == len(content["answers"]) == 2 * len(labels)
    for name in labels:
        assert given["without", name]["confidence"] == unaided[name]
        assert given["with", name]["confidence"] == aided[name]
        assert 0 <= given["without", name]["seconds"] <= monotonic() - began
    assert {each["position"] for each in content["answers"]} == set(range(1, len(labels) + 1))

    result = ceus("readers", sweep, tmp_path / "a.json")
    assert result.returncode == 0, result.stderr
    aucs = read_csv(sweep / "readers" / "aucs.csv").set_index(["name", "pass"])
    for which, scores in (("without", unaided), ("with", aided)):
        expected = auc_interval(list(labels.values()), [scores[name] for name in labels])
        row = aucs.loc["A", which]
        assert (row["auc"], row["low"]) == pytest.approx((expected.auc, expected.low))
    assert "a single reader" in " ".join(result.stdout.split())


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 800])
def test_nothing_is_cut_off(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for part in ("#image", "#clip", "#curve", "#answer"):
        box = page.locator(part).bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
        assert min(box["width"], box["height"]) > 20
    assert page.locator("#clip").bounding_box()["y"] < 200


# At the command line


@pytest.fixture
def answers(folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """Writes the answers of a reader, with changes: `answers("A", change=...)`."""
    written = script(folder / "cases.js")
    facts = {key: value for key, value in written["ceusPage"].items() if key != "question"}
    patients = [case["patient"] for case in written["ceusCases"]]

    def write(
        reader: str, change: Callable[[dict[str, Any]], Any] = lambda _: None, name: str = ""
    ) -> Path:
        rng = np.random.default_rng(sum(reader.encode()))
        rows = [
            {"patient": patient, "pass": which, "confidence": int(rng.integers(0, 101)),
             "seconds": 12.5, "position": number}
            for which in ("without", "with")
            for number, patient in enumerate(patients, start=1)
        ]  # fmt: skip
        content = {
            "page": dict(facts), "reader": reader, "patients": list(patients), "answers": rows,
        }  # fmt: skip
        change(content)
        path = tmp_path / f"{name or reader}.json"
        path.write_text(json.dumps(content))
        return path

    return write


def test_two_readers_are_compared_for_other_readers_and_patients(
    sweep: Path, answers: Callable[..., Path]
) -> None:
    result = ceus("readers", sweep, answers("=A"), answers("B"))
    assert result.returncode == 0, result.stderr
    told = " ".join(result.stdout.split())
    assert "Mean of 2 readers, with less without" in told
    assert "Hillis" in told
    folder = sweep / "readers"
    aucs, mrmc, patients = (read_csv(folder / f"{n}.csv") for n in ("aucs", "mrmc", "patients"))
    assert list(aucs["kind"]) == ["model", "model", *["reader"] * 4, *["mean of readers"] * 2]
    assert set(aucs["patients"]) == {len(unseen(sweep))}
    assert mrmc["readers"].tolist() == [2]
    assert mrmc["difference"].notna().all()
    assert list(patients["patient_id"]) == unseen(sweep)
    assert {"label", "model tiny-combined", "=A without", "B with"} <= set(patients)
    assert "'=A" in (folder / "aucs.csv").read_text()  # no spreadsheet computes a reader's code


def test_the_report_shows_a_reader_study_beside_its_own_predictions_only(
    sweep: Path, answers: Callable[..., Path]
) -> None:
    result = ceus("readers", sweep, answers("A"), answers("B"))
    assert result.returncode == 0, result.stderr
    evaluated = ceus("evaluate", sweep)
    assert evaluated.returncode == 0, evaluated.stderr
    report = sweep / "evaluation" / "report.html"
    page, source = report.read_text(), sweep / "readers" / "source.csv"
    assert "Radiologists on the same patients" in page
    assert "Mean of 2 readers, with less without" in page
    assert "../readers/aucs.csv" in page
    written = source.read_text()
    source.write_text(written.replace(read_sweep(sweep).predictions_sha, "0" * 64))
    assert ceus("evaluate", sweep).returncode == 0
    assert "until ceus readers is called again" in report.read_text()
    source.write_text("part\noof\n")
    refused = ceus("evaluate", sweep)
    assert refused.returncode == 2
    assert "as ceus readers wrote them" in refused.stderr
    source.write_text(written)


def test_an_incomplete_pass_is_a_warning_and_has_no_difference(
    sweep: Path, answers: Callable[..., Path]
) -> None:
    half = answers("half", lambda content: content["answers"].pop())
    result = ceus("readers", sweep, half, answers("B"), answers("C"))
    assert result.returncode == 0, result.stderr
    told = " ".join(result.stdout.split())
    count = len(unseen(sweep))
    assert told.count("warning: ") == 1
    assert f"warning: reader half answered {count - 1} of {count} patients with the models" in told
    assert "half, with less without: undefined (a pass is not complete)" in told
    assert "Mean of 2 readers" in told
    aucs = read_csv(sweep / "readers" / "aucs.csv").set_index(["name", "pass"])
    assert aucs.loc["half", "with"]["patients"] == count - 1


def test_other_predictions_than_the_page_showed_are_a_warning(
    sweep: Path, answers: Callable[..., Path]
) -> None:
    result = ceus("readers", sweep, answers("A", edit("page", "predictions_sha", "0" * 64)))
    assert result.returncode == 0
    assert "not those that the page showed" in " ".join(result.stdout.split())


def edit(*place: Any) -> Callable[[dict[str, Any]], None]:
    """What sets a value in the answers, by its keys."""
    *keys, last, value = place

    def change(content: Any) -> None:
        for key in keys:
            content = content[key]
        content[last] = value

    return change


def stranger(content: dict[str, Any]) -> None:
    """A patient of no page of this store, as if there were one more."""
    own = content["patients"][0]
    content["patients"][0] = "0" * 16
    for row in content["answers"]:
        row["patient"] = "0" * 16 if row["patient"] == own else row["patient"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (edit("page", "store_sha", "0" * 64), "must be of a page of this sweep"),
        (edit("page", "split_sha", "0" * 64), "must be of a page of this sweep"),
        (edit("page", "part", "train"), "must be oof or test, got 'train'"),
        (edit("page", "part", "test"), "the test set must be opened"),
        (edit("page", "format", 2), "format of answers must be 1, got 2"),
        (edit("page", "more", 2), "must be the JSON that a page of ceus reader wrote"),
        (edit("page", []), "must be the JSON that a page of ceus reader wrote"),
        (edit("page", "patients", 3), "must list the 3 patients of their page"),
        (edit("reader", " "), "reader must have a code"),
        (edit("answers", []), "must hold some, got none"),
        (edit("answers", 3), "must be the JSON that a page of ceus reader wrote"),
        (edit("answers", 0, "patient", "P0001"), "patients of their page, got 'P0001'"),
        (edit("answers", 0, "pass", "third"), "pass must be without or with, got 'third'"),
        (edit("answers", 0, "confidence", 101), "0 to 100, got 101"),
        (edit("answers", 0, "confidence", 50.5), "0 to 100, got 50.5"),
        (edit("answers", 0, "confidence", True), "0 to 100, got True"),
        (edit("answers", 0, "confidence", None), "0 to 100, got None"),
        (edit("answers", 0, "seconds", -1), "seconds must be a number from 0, got -1"),
        (edit("answers", 0, "seconds", float("nan")), "seconds must be a number from 0, got nan"),
        (lambda content: content["answers"].append(content["answers"][0]), "once a pass"),
        (lambda content: content.pop("patients"), "KeyError: 'patients'"),
        (stranger, "that are not, as 0000000000000000"),
    ],
)
def test_answers_that_are_not_of_the_page_are_one_error(
    sweep: Path, answers: Callable[..., Path], change: Callable[[Any], Any], complaint: str
) -> None:
    result = ceus("readers", sweep, answers("A", change))
    assert result.returncode == 2
    assert complaint in " ".join(result.stderr.split())
    assert result.stderr.count("error:") == 1


@pytest.mark.parametrize("content", [b"", b"[1, 2", b"\xff\xfe", b"[]", b"null", b"{}"])
def test_files_that_hold_no_answers_are_one_error(
    sweep: Path, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    for named in (path, tmp_path / "nothing.json", tmp_path):
        result = ceus("readers", sweep, named)
        assert result.returncode == 2
        assert "answers must be" in result.stderr
        assert str(named) in " ".join(result.stderr.split())


def test_a_reader_twice_and_two_pages_are_one_error(
    sweep: Path, answers: Callable[..., Path]
) -> None:
    for second, complaint in (
        (answers("a", name="again"), "each reader must be there once, got 'a' twice"),
        (answers("B", edit("page", "seed", 7)), "of one page, got those of two"),
    ):
        result = ceus("readers", sweep, answers("A"), second)
        assert result.returncode == 2
        assert complaint in " ".join(result.stderr.split())
