"""Step 5: score trained runs as recognition memory is scored in people, beside controls on the same episodes.

  python evaluate.py runs/transformer                      one run
  python evaluate.py runs/*                                several, and a comparison of them
  python evaluate.py runs/* --audit --figures              also look for leaks, and write the figures as PDF
  python evaluate.py runs/transformer --episodes video-features/test_indices_lures.h5
  python evaluate.py runs/transformer dataset.video_path=elsewhere       where features have been moved

Writes into each run's folder evaluation.json (all scores), answers.npz (the graded answers) and report.html, one page
with every figure: ROC, retention, capacity, kinds of probes, memory per byte, and a gallery of answers with pictures
from the films where they are in --videos. With --figures, every figure is written as PDF too, for papers.

The weights are also tried on further test episodes: on files that generate_dataset.py wrote beside the run's test file
for other numbers of clips (test_indices_40clips.h5), found by their names, and on those given with --episodes.

With --knn, a model with a kNN memory is also tried with other numbers of neighbours and with smaller memories, which
forget the earliest frames.

Where recognition.memorability has left scores beside the features, the report also tells whether it remembers what
people remember.

Runs know their episodes and features by content: where these are by now, and what is to compute, can be told by the
settings of train.py. Of several runs, those that are not trained yet or cannot be scored are named and left out.

Several runs are compared in comparison.html, .csv and .tex: those that differ in training.seed alone are one row, with
the mean over seeds.
"""

import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from os.path import commonpath
from pathlib import Path
from typing import TYPE_CHECKING

from recognition.common.command_line import ArgumentParser, InputError, expanded, folder_path, one_line, run

if TYPE_CHECKING:
    from recognition.training.config import RunConfig
    from recognition.training.runs import Run

COMPARISON_FILES = "comparison.html", "comparison.csv", "comparison.tex"
COMPARISON_FIGURES = "comparison-figures"


def main() -> None:
    args = parse_arguments()
    for option, path, is_there in (
        *(("--episodes", path, path.is_file()) for path in args.episodes),
        ("--videos", args.videos, args.videos is None or args.videos.is_dir()),
        ("--memorability", args.memorability, args.memorability is None or args.memorability.is_dir()),
    ):
        if not is_there:
            raise InputError(f"{option} {path}: no such {'file' if option == '--episodes' else 'folder'}")
    from recognition.common.files import written_whole
    from recognition.evaluation.comparison import compare
    from recognition.evaluation.figures import write_figures
    from recognition.evaluation.report import comparison_figures, render_comparison, render_report, report_figures
    from recognition.training.runs import Run

    shared: dict[str, dict] = {}  # by dataset: what does not depend on the model
    is_one = len(args.runs) == 1
    trained: list[tuple[Run, RunConfig]] = []
    for path in args.runs:
        with leaving_out(path, is_one):
            run = Run(path)
            trained.append((run, read_config(run, args.settings)))
    scored, compared = [], []
    for run, config in trained:
        with leaving_out(run.path, is_one):
            evaluation, exhibits = evaluate(run, config, args, shared)
            metrics = run.read_metrics()
            figures = report_figures(evaluation, metrics)
            with written_whole(run.report_file) as part:
                part.write_text(render_report(config, evaluation, metrics, figures, exhibits), encoding="utf-8")
            if args.figures:
                write_figures(figures, run.figures_folder)
            scored.append(run.path)
            compared.append((config, evaluation))
            print(
                f"{config.name}: test accuracy {evaluation['accuracy']:.4f}, d' {evaluation['d_prime']:.3f}, "
                f"nearest-frame control {evaluation['controls']['nearest_frame']['accuracy']:.4f}; "
                f"report: {run.report_file}"
            )
    if not scored:
        raise InputError(f"none of the {len(args.runs)} can be scored, for the reasons above")
    if len(compared) > 1:
        folder = args.output or Path(commonpath([path.resolve().parent for path in scored]))
        folder.mkdir(parents=True, exist_ok=True)
        comparison = compare(compared)
        figures = comparison_figures(comparison)
        pages = render_comparison(comparison, figures), comparison.csv, comparison.latex
        for name, text in zip(COMPARISON_FILES, pages, strict=True):
            with written_whole(folder / name) as part:
                part.write_text(text, encoding="utf-8")
        if args.figures:
            write_figures(figures, folder / COMPARISON_FIGURES)
        print(f"comparison of {len(compared)} runs: {folder / 'comparison.html'}")


def parse_arguments() -> Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="folder of a run, such as runs/transformer, or key=value, such as dataset.video_path=elsewhere",
    )
    parser.add_argument("--audit", action="store_true", help="look for leaks between the splits")
    parser.add_argument(
        "--figures", action="store_true", help="also write every figure as PDF, into figures/ and comparison-figures/"
    )
    parser.add_argument(
        "--knn", action="store_true", help="try kNN memories with more and fewer neighbours, and with smaller memories"
    )
    parser.add_argument(
        "--episodes", nargs="+", type=Path, default=[], metavar="INDEX", help="further test index files, told apart"
    )
    parser.add_argument(
        "--videos", type=folder_path, help="folder with the films, for the gallery; videos if it is there"
    )
    parser.add_argument(
        "--memorability",
        type=folder_path,
        help="folder with scores of recognition.memorability; memorability beside the features if it is there",
    )
    parser.add_argument(
        "--output",
        type=folder_path,
        help="folder for the comparison of several runs; the folder of the runs if not given",
    )
    args = parser.parse_args()
    from recognition.training.runs import part_settings  # takes a second, for torch

    words, args.settings = part_settings(args.runs)
    ours = (*COMPARISON_FILES, COMPARISON_FIGURES)  # runs/* also names what an earlier comparison left there
    args.runs = list(dict.fromkeys(path for path in map(Path, map(expanded, words)) if path.name not in ours))
    if not args.runs:
        parser.error("argument RUN: no run among these files")
    return args


@contextmanager
def leaving_out(path: Path, is_one: bool) -> Iterator[None]:
    """Name a run that cannot be scored and go on without it, unless it is the only one."""
    try:
        yield
    except InputError as error:
        if is_one:
            raise
        print(f"evaluate.py: {path} is left out: {one_line(str(error))}", file=sys.stderr)


def read_config(run: "Run", settings: list[str]) -> "RunConfig":
    """A run's configuration with some settings given anew. Raises InputError if it is none, or not trained yet."""
    from models import CONFIGS, PUBLISHED_NAMES
    from recognition.training.config import check_model, load_config

    if not run.config_file.is_file():
        raise InputError(f"{run.path}: not a run (no config.yaml there); train one with train.py")
    config = check_model(load_config(run.config_file, settings), CONFIGS, PUBLISHED_NAMES, run.config_file)
    if not run.best_file.is_file():
        raise InputError(f"{run.best_file}: no such file; train the run first")
    return config


def evaluate(run: "Run", config: "RunConfig", args: Namespace, shared: dict[str, dict]):
    """Score one run with its best weights and keep evaluation.json and the answers.

    Returns the content of evaluation.json, and the gallery or a line that says why there is none.
    """
    from recognition.common.files import sha256
    from recognition.episodes.audit import audit, audit_lines
    from recognition.evaluation import controls
    from recognition.evaluation.scores import (
        capacity,
        capacity_files,
        describe_features,
        is_other_length,
        seconds_per_episode,
        without_nan,
    )
    from recognition.training.dataset import open_split
    from recognition.training.devices import launch
    from recognition.training.runs import INPUT_KEYS, describe_inputs, input_files

    weights = run.load_best()
    fabric = launch(config.training.model_copy(update={"num_devices": 1}))
    test_set, features = open_split(config.dataset, "test"), Path(config.dataset.video_path)
    files = input_files(config)
    given = {word.partition("=")[0] for word in args.settings}
    is_read = {"test": True, "validation": True, "train": args.audit or INPUT_KEYS["train"] in given}
    run.check_inputs(describe_inputs({name: files[name] for name in is_read if is_read[name]}))
    run.keep_places(config)
    found = shared.setdefault(config.dataset.model_dump_json(), {"nearest_frames": {}})
    if "controls" not in found:
        validation_set = open_split(config.dataset, "validation")
        found["controls"] = controls.all_controls(validation_set, test_set, fabric.device)
        if args.audit:
            result = audit(open_split(config.dataset, "train"), validation_set, test_set, features, fabric.device)
            found["audit"] = {**result, "lines": audit_lines(result)}
            print("\n".join(["Audit:", *(f"  {line}" for line in found["audit"]["lines"])]))

    answer, scores = score_episodes(config, weights, fabric, test_set)
    if args.knn and scores["retrieval"]:
        scores["retrieval"]["other_settings"] = try_lookups(config, weights, fabric, test_set, scores["retrieval"]["k"])
    elif args.knn:
        print(f"{config.name}: no kNN memory, so --knn adds nothing")
    evaluation = {
        "sha256": {"test": sha256(test_set.index.path), "weights": sha256(run.best_file)},
        "trained_on": {name: read["sha256"] for name, read in run.read_inputs().items()},
        "model": config.model.model,
        "features": describe_features(features, test_set.index.video_ids[0]),
        "seconds_per_episode": seconds_per_episode(run.read_metrics(), config.training.batch_size),
        **scores,
        "controls": found["controls"],
        "memorability": memorability(test_set, answer, features, args.memorability, found, fabric.device),
        "other_episodes": [],
        "audit": found.get("audit"),
    }
    for path in dict.fromkeys([*capacity_files(Path(config.dataset.test_indices_file)), *args.episodes]):
        dataset = open_split(config.dataset.model_copy(update={"test_indices_file": str(path)}), "test")
        _, scores = score_episodes(config, weights, fabric, dataset)
        if path not in found["nearest_frames"]:
            threshold = found["controls"]["nearest_frame"]["threshold"]
            found["nearest_frames"][path] = controls.nearest_frame_at(threshold, dataset, fabric.device)
        evaluation["other_episodes"].append(
            {
                "file": str(path),
                "is_other_length": is_other_length(dataset, test_set),
                **scores,
                "controls": {"nearest_frame": found["nearest_frames"][path]},
            }
        )
    evaluation["capacity"] = capacity(evaluation)
    evaluation = without_nan(evaluation)
    run.save_answers(answer)
    run.write_evaluation(evaluation)
    return evaluation, exhibits(test_set, answer, features, args.videos)


def score_episodes(config, weights: dict, fabric, dataset, lookup: dict[str, int] | None = None):
    """Ask a model about all episodes of a set: its answers (N, P), and what evaluation.json tells of them.

    `lookup` has the k and the capacity of its kNN memories, those of the run if None.
    """
    import torch

    from models import CONFIGS, build_model
    from models.temporal_gates import TemporalGate
    from recognition.evaluation.retrieval import describe_retrieval
    from recognition.evaluation.scores import BYTES_A_FLOAT, describe_answers, describe_openness
    from recognition.training.episode_task import answers

    name, num_features = config.model.model, dataset.bank.num_features
    settings, repeat_test = CONFIGS[name](**config.model.args), config.dataset.repeat_test
    model = build_model(name, settings, num_features, dataset.num_probes, repeat_test, dataset.clip_frames)
    if config.dataset.standardise:
        model.standardise(weights["feature_mean"], weights["feature_deviation"])
    model.load_state_dict(weights)
    model.to(fabric.device)
    lookups = [layer for layer in model.modules() if hasattr(layer, "retrieved")]  # the last of them is told of
    for layer in lookups:
        layer.config = layer.config.model_copy(update=lookup)
    gated = [layer for layer in model.modules() if isinstance(layer, TemporalGate) and layer.recursion.gate]
    logits, retrieved, openness = [], [], []
    for batch, _ in answers(fabric, model, dataset, config.training):
        logits.append(batch.cpu())
        if lookups:
            retrieved.append(
                lookups[-1].retrieved[:, config.dataset.repeat_test - 1 :: config.dataset.repeat_test].cpu()
            )
        if gated := [layer for layer in gated if layer.openness is not None]:  # a stack's last reads the probes alone
            openness.append(torch.stack([layer.openness for layer in gated]).cpu())
    answer, retrieval, gates_of_clips = torch.cat(logits).numpy(), None, []
    if gated:
        openness = torch.cat(openness, 1).float().numpy()  # (L, N, C)
        gates_of_clips = describe_openness(dataset, answer, openness, gated[0].clip_frames)
    if lookups:
        gates = lookups[-1].gates
        gates = None if gates is None else gates.tolist()
        settings = {"k": lookups[-1].config.k, "capacity": lookups[-1].config.capacity, "other_settings": []}
        retrieval = {**settings, **describe_retrieval(dataset, torch.cat(retrieved).numpy(), gates)}
    state_size = model.state_size(dataset.num_study_frames)
    sizes = {"state_size": state_size, "state_bytes": BYTES_A_FLOAT * state_size}
    scores = describe_answers(dataset, answer, Path(config.dataset.video_path))
    return answer, {**sizes, **scores, "retrieval": retrieval, "temporal_gates": gates_of_clips}


def try_lookups(config, weights: dict, fabric, dataset, k: int) -> list[dict]:
    """Scores of the same weights with other settings of their kNN memories, a row each; `k` is the run's own."""
    from recognition.evaluation.retrieval import lookup_settings

    rows = []
    for lookup in lookup_settings(k, dataset.num_study_frames):
        _, scores = score_episodes(config, weights, fabric, dataset, lookup)
        names = [f"{name}{end}" for name in ("accuracy", "d_prime") for end in ("", "_interval")]
        told = {name: scores[name] for name in ("state_bytes", "hit_rate", "false_alarm_rate", *names)}
        recall = scores["retrieval"]["recall"][-1]["recall"]  # among all that is retrieved
        rows.append({**lookup, **told, "recall": recall, "by_lag": scores["retention"]["by_lag"]})
    return rows


def memorability(test_set, answer, features: Path, folder: Path | None, found: dict, device) -> dict | None:
    """What evaluation.json tells of the probes' memorability; None where they have no scores."""
    from recognition.evaluation.controls import nearest_frame_similarity
    from recognition.evaluation.memorability_analysis import describe_memorability
    from recognition.evaluation.memorability_file import read_probe_scores

    episodes = test_set.episodes
    scores = read_probe_scores(folder or features / "memorability", episodes, test_set.index.video_ids)
    if scores is None:
        if folder:
            raise InputError(f"--memorability {folder}: holds no score of the probes of {test_set.index.path}")
        return None
    if "similarity" not in found:
        found["similarity"] = nearest_frame_similarity(test_set, device)
    return describe_memorability(episodes.probes, episodes.is_old, answer, scores, found["similarity"])


def exhibits(test_set, answer, features: Path, videos: Path | None):
    """The gallery of answers, or a line that says why there is none."""
    folder = videos or Path("videos")
    if not folder.is_dir():
        return f"The films are not at hand (no folder {folder}); name theirs with --videos to see pictures here."
    from recognition.episodes.rendering import Films
    from recognition.evaluation.gallery import gallery

    try:
        found = gallery(test_set, answer, Films(test_set.index.video_ids, features, folder), num_each=4)
    except InputError as error:  # pictures are an extra: without them the report is still whole
        return f"There are no pictures: {error}."
    return found if any(found.values()) else f"None of the test films is in {folder}; name their folder with --videos."


if __name__ == "__main__":
    run(main)
