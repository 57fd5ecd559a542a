"""Write captions of the films of a split, as a trained captioner has them.

  python -m captioning.generate runs/memory                                       its test films again
  python -m captioning.generate runs/memory --split validation --output validation.json
  python -m captioning.generate runs/memory generation.num_beams=1                greedy
  python -m captioning.generate runs/memory generation.top_p=0.9 generation.seed=1        drawn at random
  python -m captioning.generate runs/memory --memory_of_another_film --output other.json  a control

Writes captions.json into the run's folder, or --output: of each film a list of its clips with start_s, end_s, caption,
references, and retrieved, the earlier clips that memory read most. python -m captioning.score reads it. Settings of
generation may be others than in training; so may the places of inputs, which are known again by what they hold.
"""

from argparse import Namespace
from collections.abc import Sequence

from recognition.common.command_line import ArgumentParser, path, run


def main() -> None:
    import itertools
    from pathlib import Path

    from captioning.captioning_task import write_captions
    from captioning.captions import read_captions
    from captioning.eyes import check_features
    from captioning.said import write_said
    from captioning.saying import retrieved_clips, said_of
    from captioning.session import open_split, settings_of_run, trained_captioner
    from recognition.training.devices import launch
    from recognition.training.runs import Run

    args = parse_arguments()
    trained, other = Run(args.run), args.memory_of_another_film
    config = settings_of_run(trained, args.settings)
    fabric = launch(config.training)
    dataset = open_split(config, read_captions(Path(config.data.captions)), args.split)
    check_features(trained, dataset.headers)
    model = trained_captioner(trained, config, fabric, dataset.num_features)
    captions = write_captions(fabric, model, dataset, config, of_other_memory=other)
    if fabric.is_global_zero:
        read = [[[]] * len(film) for film in captions] if other else retrieved_clips(fabric, model, dataset, config)
        write_said(args.output, itertools.chain(*said_of(dataset, captions, read)))
        print(f"{len(captions)} films, {sum(map(len, captions)):,} clips: {args.output.resolve()}")


def parse_arguments(words: Sequence[str] | None = None) -> Namespace:
    parser = ArgumentParser(description=__doc__, usage="%(prog)s RUN [--split SPLIT] [--output FILE] [key=value ...]")
    parser.add_argument("run", type=path, help="folder of the run")
    parser.add_argument("--split", choices=["train", "validation", "test"], default="test", help="which films")
    parser.add_argument("--output", type=path, help="file to write; of test films the run has captions.json")
    parser.add_argument(
        "--memory_of_another_film", action="store_true", help="give each film the memory of the next one, as a control"
    )
    args, settings = parser.parse_known_args(words)
    if options := [word for word in settings if word.startswith("-") and "=" not in word]:
        parser.error(f"unrecognized arguments: {' '.join(options)}")
    if args.output is None and (args.memory_of_another_film or args.split != "test"):
        parser.error("--output: is needed, for captions.json of a run has what it says of its test films")
    args.settings = settings
    args.output = args.output or args.run / "captions.json"
    return args


if __name__ == "__main__":
    run(main)
