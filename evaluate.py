"""Step 5: score trained runs as recognition memory is scored in people, beside controls on the same episodes.

  python evaluate.py runs/transformer                      one run
  python evaluate.py runs/*                                several, and a comparison of them
  python evaluate.py runs/* --audit --figures              also look for leaks, and write the figures as PDF
  python evaluate.py runs/transformer --episodes video-features/test_indices_lures.h5
  python evaluate.py runs/transformer dataset.video_path=elsewhere       where features have been moved
  python evaluate.py runs/transformer runs/people          models beside people, whose answers
                                                           `python -m recognition.participants read` has read

Writes into each run's folder evaluation.json (all scores), answers.npz (the graded answers) and report.html, one page
with every figure: ROC, retention, capacity, kinds of probes, memory per byte, and a gallery of answers with pictures
from the films where they are in --videos. With --figures, every figure is written as PDF too, for papers.

The weights are also tried on further test episodes: on files that generate_dataset.py wrote beside the run's test file
for other numbers of clips (test_indices_40clips.h5), found by their names, and on those given with --episodes.

With --try_settings, layers that can change without being trained anew are also tried with other settings: a kNN memory
with other numbers of neighbours, and with less room, so that it forgets the earliest frames.

Where recognition.memorability has left scores beside the features, the report also tells whether it remembers what
people remember.

Runs know their episodes and features by content: where these are by now, and what is to compute, can be told by the
settings of train.py. Of several runs, those that are not trained yet or cannot be scored are named and left out.

Several runs are compared in comparison.html, .csv and .tex: those that differ in training.seed alone are one row, with
the mean over seeds. People are a row, too, with the mean over persons.
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
    from recognition.evaluation.findings import Findings
    from recognition.training.config import RunConfig
    from recognition.training.runs import Run


def main() -> None:
    args = parse_arguments()
    check_paths(args)
    from recognition.evaluation.comparison import compare
    from recognition.evaluation.one_run import open_run
    from recognition.evaluation.report import write_comparison
    from recognition.people.crowd import is_crowd

    is_one = len(args.runs) == 1
    trained, scored, compared, crowds = [], [], [], []
    for path in args.runs:
        with leaving_out(path, is_one):
            if is_crowd(path):
                crowds.append(evaluate_people(path))
                scored.append(path)
            else:
                trained.append(open_run(path, args.settings))
    findings: dict[str, Findings] = {}  # by data set
    for tested, config in trained:
        with leaving_out(tested.path, is_one):
            compared.append((config, evaluate(tested, config, args, findings)))
            scored.append(tested.path)
    if not scored:
        raise InputError(f"none of the {len(args.runs)} can be scored, for the reasons above")
    if len(scored) > 1:
        folder = args.output or Path(commonpath([path.resolve().parent for path in scored]))
        write_comparison(compare(compared, crowds), folder, as_pdf=args.figures)
        print(f"comparison of {len(scored)} runs: {folder / 'comparison.html'}")


def evaluate_people(path: Path) -> tuple[str, dict]:
    """The name of a crowd and what is told of it, which is kept, with its page, if it is not there yet."""
    from recognition.people.crowd import read_crowd
    from recognition.people.crowd_scores import describe_crowd, read_evaluation, write_evaluation
    from recognition.people.people_page import REPORT_FILE, write_page

    crowd, evaluation = read_crowd(path), read_evaluation(path)
    if evaluation is None:
        evaluation = describe_crowd(crowd)
        write_evaluation(path, evaluation)
    if not (report := path / REPORT_FILE).is_file():
        write_page(path, crowd, evaluation)
    persons = "1 person" if evaluation["num_persons"] == 1 else f"{evaluation['num_persons']} persons"
    print(
        f"{crowd.name}: {persons}, accuracy {evaluation['accuracy']:.4f}, "
        f"d' {evaluation['d_prime']:.3f} on average; report: {report}"
    )
    return crowd.name, evaluation


def evaluate(run: "Run", config: "RunConfig", args: Namespace, findings: "dict[str, Findings]") -> dict:
    """Score one run and write its files; returns the content of evaluation.json."""
    from recognition.evaluation.answers import subject_of
    from recognition.evaluation.findings import Findings
    from recognition.evaluation.gallery import exhibits
    from recognition.evaluation.one_run import Options, evaluate_run, open_test_set, open_training_films
    from recognition.evaluation.report import write_report

    subject = subject_of(run, config)
    test_set = open_test_set(run, config, reads_train=args.audit or names_train(args.settings))
    if (key := config.dataset.model_dump_json()) not in findings:
        findings[key] = Findings(
            config.dataset, test_set, subject.fabric.device, open_training_films(run, config), args.audit
        )
        if found := findings[key].audit:
            print("\n".join(["Audit:", *(f"  {line}" for line in found["lines"])]))
    options = Options(args.try_settings, args.episodes, args.memorability)
    evaluation, answer, num_tried = evaluate_run(run, subject, test_set, findings[key], options)
    if args.try_settings and not num_tried:
        print(f"{config.name}: no layer has other settings to try")
    pictures = exhibits(test_set, answer, Path(config.dataset.video_path), args.videos)
    write_report(run, config, evaluation, pictures, as_pdf=args.figures)
    calibrated = evaluation["calibrated"]
    accuracy = f"calibrated accuracy {calibrated['accuracy']:.4f}, " if calibrated else ""
    print(
        f"{config.name}: test accuracy {evaluation['accuracy']:.4f}, d' {evaluation['d_prime']:.3f}, "
        f"{accuracy}nearest-frame control {evaluation['controls']['nearest_frame']['accuracy']:.4f}; "
        f"report: {run.report_file}"
    )
    return evaluation


def names_train(settings: list[str]) -> bool:
    """Whether some settings say where the training episodes are by now."""
    return any(word.startswith("dataset.train_indices_file=") for word in settings)


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
        *("--try_settings", "--knn"),
        action="store_true",
        help="try kNN memories with more and fewer neighbours, and with smaller memories",
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
    from recognition.evaluation.report import COMPARISON_FIGURES, COMPARISON_FILES  # takes seconds, for torch
    from recognition.training.runs import part_settings

    words, args.settings = part_settings(args.runs)
    ours = (*COMPARISON_FILES, COMPARISON_FIGURES)  # runs/* also names what an earlier comparison left there
    args.runs = list(dict.fromkeys(path for path in map(Path, map(expanded, words)) if path.name not in ours))
    if not args.runs:
        parser.error("argument RUN: no run among these files")
    return args


def check_paths(args: Namespace) -> None:
    """Raise InputError if a file or a folder that is named is not there."""
    for option, path, is_there in (
        *(("--episodes", path, path.is_file()) for path in args.episodes),
        ("--videos", args.videos, args.videos is None or args.videos.is_dir()),
        ("--memorability", args.memorability, args.memorability is None or args.memorability.is_dir()),
    ):
        if not is_there:
            raise InputError(f"{option} {path}: no such {'file' if option == '--episodes' else 'folder'}")


@contextmanager
def leaving_out(path: Path, is_one: bool) -> Iterator[None]:
    """Name a run that cannot be scored and go on without it, unless it is the only one."""
    try:
        yield
    except InputError as error:
        if is_one:
            raise
        print(f"evaluate.py: {path} is left out: {one_line(str(error))}", file=sys.stderr)


if __name__ == "__main__":
    run(main)
