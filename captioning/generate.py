"""Write captions of the films of a split, as a trained captioner has them.

  python -m captioning.generate runs/memory                                       its test films again
  python -m captioning.generate runs/memory --split validation --output validation.json
  python -m captioning.generate runs/memory generation.num_beams=1                greedy
  python -m captioning.generate runs/memory generation.top_p=0.9 generation.seed=1        drawn at random
  python -m captioning.generate runs/memory --memory_of_another_film --output other.json  a control

Writes captions.json into the run's folder, or --output: of each film a list of its clips with start_s, end_s, caption,
references, and retrieved, the earlier clips that memory read most. python -m captioning.score reads it.
"""

from argparse import Namespace
from collections.abc import Sequence

from captioning.config import CaptionSettings
from recognition.common.command_line import ArgumentParser, InputError, path, run


def main() -> None:
    import itertools
    from pathlib import Path

    from captioning.captioning_task import write_captions
    from captioning.captions import read_captions
    from captioning.said import write_said
    from captioning.saying import captions_of_other_memory, retrieved_clips, said_of
    from captioning.session import open_split, trained_captioner
    from recognition.training.devices import launch
    from recognition.training.runs import Run

    args = parse_arguments()
    config = settings_of(args)
    fabric = launch(config.training)
    dataset = open_split(config, read_captions(Path(config.data.captions)), args.split)
    model, _ = trained_captioner(Run(args.run), fabric, dataset.num_features)
    if args.memory_of_another_film:
        captions = captions_of_other_memory(fabric, model, dataset, config)
    else:
        captions = write_captions(fabric, model, dataset, config)
    said = said_of(dataset, captions, retrieved_clips(fabric, model, dataset, config))
    output = args.output or args.run / "captions.json"
    if fabric.is_global_zero:
        write_said(output, itertools.chain(*said))
        print(f"{len(said)} films, {sum(map(len, said)):,} clips: {output.resolve()}")


def parse_arguments(words: Sequence[str] | None = None) -> Namespace:
    parser = ArgumentParser(description=__doc__, usage="%(prog)s RUN [--split SPLIT] [--output FILE] [key=value ...]")
    parser.add_argument("run", type=path, help="folder of the run")
    parser.add_argument("--split", choices=["train", "validation", "test"], default="test", help="which films")
    parser.add_argument("--output", type=path, help="file to write; the run's captions.json if not given")
    parser.add_argument(
        "--memory_of_another_film", action="store_true", help="give each film the memory of the next one, as a control"
    )
    args, settings = parser.parse_known_args(words)
    if options := [word for word in settings if word.startswith("-") and "=" not in word]:
        parser.error(f"unrecognized arguments: {' '.join(options)}")
    args.settings = settings
    return args


def settings_of(args: Namespace) -> CaptionSettings:
    """The run's settings, of which those of generation, places and devices may be others now. Raises InputError."""
    from recognition.common.files import is_there
    from recognition.training.config import load_settings

    file = args.run / "config.yaml"
    if not is_there(file):
        raise InputError(f"{args.run}: is not the folder of a run; python -m captioning.train makes one")
    free = ("generation.", "data.captions", "data.video_path", "training.device", "training.batch_size")
    for word in args.settings:
        if not word.lstrip("-").startswith(free):
            raise InputError(f"{word}: cannot be changed in a trained run; {', '.join(free)} can")
    return load_settings(CaptionSettings, file, args.settings)


if __name__ == "__main__":
    run(main)
