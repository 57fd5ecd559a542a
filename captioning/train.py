"""Train a captioner on films with captions, and score what it says of films it has never seen.

  python -m captioning.train -f config-files/captioning/demo.yaml
  python -m captioning.train -f config-files/captioning/published.yaml language_model.path=gpt2 memory.scope=clip
  python -m captioning.train -f config-files/captioning/demo.yaml memory.model=none name=no-memory
  python -m captioning.train -f config-files/captioning/demo.yaml --resume

Frames are features of step 2 (preprocess_videos.py, also of CLIP), captions a table (python -m captioning.prepare). Any
memory of models/ may stand between frames and caption: memory.model. It is empty at the start of a film and kept from
clip to clip; memory.scope=clip forgets after each clip, memory.model=none has none.

Writes runs/<name>/ as train.py does, and at the end captions.json (what is said of the test films, and which earlier
clips the memory read), test.json and captions.html, a page with frames if the films are at hand (--videos).
python -m captioning.score tells intervals and floors.

SIGTERM and SIGUSR1 end it after the step under way with status 75; --resume goes on from that very step.
"""

from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from captioning.config import CaptionSettings
from captioning.extra import check_packages
from recognition.common.command_line import ArgumentParser, folder_path, parse_training, run


def main() -> None:
    args = parse_arguments()
    check_packages()
    from recognition.training.companions import loss_told

    with loss_told():
        train(args)


def train(args: Namespace) -> None:
    from captioning.captioning_task import CaptioningTask
    from captioning.eyes import keep_features
    from captioning.saying import say
    from captioning.session import first_captioner, input_files, open_language, open_sets
    from recognition.training.devices import launch
    from recognition.training.session import fit, open_session

    config = args.config
    session = open_session(config, args, input_files)
    if session.is_finished:
        return
    fabric = launch(config.training)
    sets = open_sets(config)
    if fabric.is_global_zero:
        keep_features(session.run, sets)
        open_language(config, session.run, sets.train)
    fabric.barrier()  # until the language model is there
    model = first_captioner(config, sets.train, open_language(config, session.run))
    fabric.to_device(model)
    if fabric.is_global_zero:
        describe(config, model, sets, fabric)
    task = CaptioningTask(model, sets.train, sets.validation, fabric, config)
    reporter = fit(session, task, fabric, config, config.training, lambda metrics: None)
    model.load_state_dict(session.run.load_best())
    scores = say(fabric, model, sets.test, config, session.run, args.videos)
    if reporter:
        reporter.finish(scores)


def describe(config: CaptionSettings, model: Any, sets: Any, fabric: Any) -> None:
    """Print what is about to be trained on what, and where."""
    learned = sum(p.numel() for p in model.parameters() if p.requires_grad)
    fixed = sum(p.numel() for p in model.language.model.parameters() if not p.requires_grad)
    parts = zip(("training", "validation", "test"), sets, strict=True)
    films = ", ".join(f"{len(part):,} {name}" for name, part in parts)
    clips = sum(len(film) for film in sets.train.clips)
    memory = "" if config.memory.model == "none" else f", memory {config.memory.model} of a {config.memory.scope}"
    print(
        f"{config.mapper.kind} mapper{memory}: {learned:,} parameters "
        f"learn, {fixed:,} of the language model stay\nfilms: {films}; {clips:,} clips to train on; "
        f"{fabric.world_size} x {fabric.device}, precision {fabric.strategy.precision.precision}"
    )


def parse_arguments(words: Sequence[str] | None = None) -> Namespace:
    from recognition.training.config import describe_keys, load_settings

    parser = ArgumentParser(
        description=__doc__,
        usage="%(prog)s -f CONFIG [--resume] [--runs_dir RUNS] [--videos FOLDER] [key=value ...]",
        epilog="keys of the YAML file, with their defaults:\n" + describe_keys(CaptionSettings),
    )
    parser.add_argument("--videos", type=folder_path, help="folder with the films, for frames on the page")
    args, settings = parse_training(parser, words)
    args.config = load_settings(CaptionSettings, args.config_file, settings)
    return args


if __name__ == "__main__":
    run(main)
