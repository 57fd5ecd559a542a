"""The reports in a real browser, on a phone and on a desk: nothing missing, cut off or loaded from outside.

Needs Chromium and its driver from the system's packages and selenium from the extra `dev`; skips where they are not.
"""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from chromium import requested

import evaluate
import generate_dataset
from models import CONFIGS, build_model
from models.recogniser import Layout
from recognition.evaluation.memorability_file import Scores, write_scores
from recognition.features.feature_file import FeatureHeader, FeatureSpool
from recognition.films.synthetic import write_films
from recognition.training.config import load_config
from recognition.training.runs import Run

HOSTILE = "<img src=http:x onerror=alert(1)>"  # the name of a film
NUM_FILMS, NUM_FRAMES, FPS = 12, 60, 20
REPORT_FIGURES = {
    *("loss", "accuracy", "roc", "zroc", "retention_hit_rate", "retention_d_prime", "serial_position", "probe_order"),
    *("capacity", "kinds", "kinds_1", "kinds_2", "clip_kinds_2", "memory_per_byte"),
    *("lookup_accuracy", "lookup_retention"),
    *("memorability", "memorability_histogram"),
}
COMPARISON_FIGURES = {
    *("accuracy", "d_prime", "memory_per_byte", "retention_hit_rate", "retention_d_prime", "capacity"),
}
CUTS = ("--n_clips=3", "--study_clips=cut,other_film", "--suffix=_cuts")
LONG_NAME = "_with_a_long_name_of_a_run=1.0e-3"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs of two models, evaluated with all that a report can hold. Their weights are random."""
    folder = tmp_path_factory.mktemp("pages")
    write_bank(folder)
    words = ("--input_dir=bank", "--output_dir=bank", "--clip_length=8", "--clip_margin=4", "--n_tests=4")
    sizes = ("--n_samples_train=8", "--n_samples_validation=8", "--n_samples_test=24")
    for more in (("--n_clips", 3, 1, 6), ("--n_clips=3", "--new_probes=far,other_film", "--suffix=_lures"), CUTS):
        more = (*more, "--subsample=2", "--validation_set_fraction=0.25")
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            patch.setattr(sys, "argv", ["generate_dataset.py", *words, *sizes, *map(str, more)])
            generate_dataset.main()
    write_run(folder, "knn", "knn_memory")
    write_run(folder, LONG_NAME, "transformer")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        runs = sorted(str(path) for path in (folder / "runs").iterdir())
        options = [
            "--audit",
            "--knn",
            "--videos=videos",
            "--episodes",
            "bank/test_indices_lures.h5",
            "bank/test_indices_cuts.h5",
        ]
        patch.setattr(sys, "argv", ["evaluate.py", *runs, *options])
        evaluate.main()
    return folder


def write_bank(folder: Path) -> None:
    """Films as videos, one with a hostile name, and made-up features of as many frames."""
    (folder / "bank").mkdir()
    for k, path in enumerate(write_films(folder / "videos", NUM_FILMS, NUM_FRAMES / FPS, FPS)):
        name = HOSTILE if k == 3 else f"a film with a name that takes more than one line on a phone {k}"
        path.rename(path.with_stem(name))
        header = FeatureHeader(
            name, f"{k:064d}", NUM_FRAMES, FPS, 320, 180, "resnet18", "random:0", "0" * 64, "pyav", "float16", "float32"
        )
        with FeatureSpool(folder / "bank" / f"{name}.h5", np.dtype("float16")) as spool:
            features = np.random.default_rng(k).normal(size=(NUM_FRAMES, 16)).cumsum(0)  # neighbours are alike
            spool.append(features, np.arange(NUM_FRAMES) / FPS)
            spool.finish(header, shots=np.arange(0, NUM_FRAMES, 5))
        (folder / "bank/memorability").mkdir(exist_ok=True)
        score = np.random.default_rng(k).beta(8, 3, NUM_FRAMES).astype(np.float32)
        scores = Scores(np.arange(NUM_FRAMES), np.zeros(NUM_FRAMES, np.uint8), score, np.empty((NUM_FRAMES, 0)))
        settings = {"weights": "random:0", "weights_sha256": "0", "fit": "letterbox", "pictures": "", "layer": ""}
        write_scores(folder / f"bank/memorability/{name}.h5", name, scores, settings)


def write_run(folder: Path, name: str, model: str) -> None:
    """A run as train.py leaves it, but with the weights it starts from and made-up metrics."""
    (folder / "run.yaml").write_text(f"""
dataset: {{train_indices_file: bank/train_indices.h5, test_indices_file: bank/test_indices.h5, video_path: bank}}
logging: {{wandb_project: "<script>alert('no')</script>"}}
model: {{model: {model}, args: {{d_embed: 8}}}}
training: {{num_workers: 0, device: cpu}}
""")
    config, run = load_config(folder / "run.yaml", [f"name={name}"]), Run(folder / "runs" / name)
    torch.manual_seed(0)
    run.start(config, {})
    built = build_model(model, CONFIGS[model](**config.model.args), Layout(16, 8))
    built.threshold = torch.tensor(0.1)
    run.save_best(built.state_dict())
    for epoch in range(1, 6):
        scores = {f"{split}_{x}": 0.5 + 0.01 * epoch for split in ("train", "validation") for x in ("loss", "accuracy")}
        run.append_metrics({"epoch": epoch, "step": epoch, "seconds": 1.5, **scores})


@pytest.fixture(scope="module", params=["report", "comparison"])
def page(request: pytest.FixtureRequest, pages: Path) -> Path:
    runs = pages / "runs"
    return runs / ("knn/report.html" if request.param == "report" else "comparison.html")


def test_nothing_goes_wrong_and_nothing_is_loaded(opened):
    assert opened.get_log("browser") == []
    asked = requested(opened)
    assert [url for url in asked if not url.startswith("data:")] == [opened.current_url]


def test_all_figures_and_pictures_are_there(opened, page: Path):
    found = opened.execute_script("""
        const seen = x => x.getBoundingClientRect().width > 100 && x.getBoundingClientRect().height > 50;
        return {
          figures: [...document.querySelectorAll("figure")].filter(f => seen(f.querySelector("svg"))).map(f => f.id),
          marks: [...document.querySelectorAll("figure svg")].map(s => s.querySelectorAll("path, use").length),
          pictures: [...document.images].map(i => i.complete && i.naturalWidth > 0 && seen(i)),
        }""")
    expected = REPORT_FIGURES if page.stem == "report" else COMPARISON_FIGURES
    assert sorted(found["figures"]) == sorted(f"figure-{name}" for name in expected)
    assert min(found["marks"]) > 20
    assert all(found["pictures"])
    assert len(found["pictures"]) >= (4 if page.stem == "report" else 0)


def test_nothing_is_wider_than_the_screen(opened):
    assert opened.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    wide = opened.execute_script("""
        const scrolls = x => x && (/auto|scroll/.test(getComputedStyle(x).overflowX) || scrolls(x.parentElement));
        return [...document.body.querySelectorAll("*")]
          .filter(x => x.getBoundingClientRect().right > window.innerWidth + 0.5 && !scrolls(x.parentElement))
          .map(x => x.outerHTML.slice(0, 200))""")
    assert wide == []


def test_letters_of_figures_are_large_enough_inside_their_figure_and_apart_from_each_other(opened):
    figures = opened.execute_script("""
        return [...document.querySelectorAll("figure svg")].map(svg => {
          const box = x => { const r = x.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom] };
          const words = [...svg.querySelectorAll("g[id*=text_]")].filter(g => g.getBoundingClientRect().width > 0);
          return {
            name: svg.parentElement.id, figure: box(svg), words: words.map(box),
            scale: svg.getBoundingClientRect().width / svg.viewBox.baseVal.width,
          }})""")
    for figure in figures:
        left, top, right, bottom = figure["figure"]
        assert len(figure["words"]) >= 5, figure["name"]
        assert 10 * figure["scale"] >= 10, figure["name"]  # pixels, of the smallest letters of 10 points
        words = np.array(figure["words"])
        inside = (words[:, :2] >= [left - 0.5, top - 0.5]).all() and (words[:, 2:] <= [right + 0.5, bottom + 0.5]).all()
        assert inside, figure["name"]
        overlap = np.minimum(words[:, None, 2:], words[None, :, 2:]) - np.maximum(
            words[:, None, :2], words[None, :, :2]
        )
        assert not ((overlap > 1).all(2) & ~np.eye(len(words), dtype=bool)).any(), figure["name"]


def test_names_from_outside_stay_text(opened, page: Path):
    assert opened.execute_script("return document.scripts.length") == 0
    if page.stem == "report":
        assert "<script>alert('no')</script>" in opened.execute_script("return document.body.innerText")
