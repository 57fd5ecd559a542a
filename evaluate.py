"""Step 5: score trained runs as recognition memory is scored in people, beside controls on the same episodes.

  python evaluate.py runs/transformer
  python evaluate.py runs/*

Writes evaluation.json (accuracy, hit rate, false-alarm rate, d', criterion, AUC, controls) and report.html, one page
with the scores, the training curve and the settings, into each run's folder.
"""

import json
from argparse import Namespace
from pathlib import Path

from recognition.command_line import ArgumentParser, InputError, run


def main() -> None:
    args = parse_arguments()
    for path in args.runs:
        if not (path / "config.yaml").is_file():
            raise InputError(f"{path}: not a run (no config.yaml there); train one with train.py")
    from recognition.config import dump_config
    from recognition.files import written_whole
    from recognition.report import render_report
    from recognition.runs import Run

    nearest_frames: dict[str, dict] = {}  # runs on the same episodes share this control
    for path in args.runs:
        run = Run(path)
        config, evaluation = evaluate(run, nearest_frames)
        with written_whole(run.evaluation_file) as part:
            part.write_text(json.dumps(evaluation, indent=2) + "\n", encoding="utf-8")
        with written_whole(run.report_file) as part:
            page = render_report(config.name, evaluation, run.read_metrics(), dump_config(config))
            part.write_text(page, encoding="utf-8")
        print(
            f"{config.name}: test accuracy {evaluation['accuracy']:.4f}, d' {evaluation['d_prime']:.3f}, nearest-frame "
            f"control {evaluation['controls']['nearest_frame']['accuracy']:.4f}; report: {run.report_file}"
        )


def parse_arguments() -> Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run, such as runs/transformer")
    return parser.parse_args()


def evaluate(run, nearest_frames: dict[str, dict]):
    """Score one run with its best weights; returns its configuration and the content of evaluation.json."""
    import torch

    from models import CONFIGS, build_model
    from recognition import controls
    from recognition.config import load_config
    from recognition.dataset import open_split
    from recognition.episodes import was_shown
    from recognition.signal_detection import accuracy, summarise
    from recognition.training import answers, launch

    config = load_config(run.config_file)
    weights = run.load_best()
    fabric = launch(config.training.model_copy(update={"num_devices": 1}))
    test_set = open_split(config.dataset, "test")
    name, num_features = config.model.model, test_set.bank.num_features
    model = build_model(
        name, CONFIGS[name](**config.model.args), num_features, test_set.num_probes, config.dataset.repeat_test
    )
    if config.dataset.standardise:
        model.standardise(weights["feature_mean"], weights["feature_deviation"])
    model.load_state_dict(weights)
    model.to(fabric.device)
    given = list(answers(fabric, model, test_set, config.training))
    logits, is_old = (torch.cat(parts).cpu().numpy() for parts in zip(*given, strict=True))

    episodes = test_set.episodes
    shown = was_shown(episodes.study, episodes.probes, test_set.subsample) & (is_old == 1)
    between = ~shown & (is_old == 1)
    key = config.dataset.model_dump_json()
    if key not in nearest_frames:
        nearest_frames[key] = controls.nearest_frame(open_split(config.dataset, "validation"), test_set, fabric.device)
    return config, {
        "model": name,
        "features": describe_features(Path(config.dataset.video_path) / f"{test_set.index.video_ids[0]}.h5"),
        "num_episodes": len(test_set),
        "num_study_frames": test_set.num_study_frames,
        "state_size": model.state_size(test_set.num_study_frames),
        **summarise(logits, is_old),
        "accuracy_shown": accuracy(logits[shown] > 0, is_old[shown]) if shown.any() else None,
        "accuracy_between": accuracy(logits[between] > 0, is_old[between]) if between.any() else None,
        "n_shown": int(shown.sum()),
        "n_between": int(between.sum()),
        "controls": {"nearest_frame": nearest_frames[key], "chance": controls.chance(is_old)},
    }


def describe_features(path: Path) -> str | None:
    """What a feature file says of the network behind it; None for the published data set, whose files say nothing."""
    from recognition.feature_file import read_header

    if not path.exists():
        return None
    header = read_header(path)
    return f"{header.backbone} with weights {header.weights}"


if __name__ == "__main__":
    run(main)
