"""Step 4: train one model on the episodes and score it on films it has never seen.

  python train.py -f config-files/transformer.yaml
  python train.py -f config-files/mlstm.yaml training.learning_rate=3e-4 model.args.n_layers=2 name=mlstm-deep
  python train.py -f config-files/transformer.yaml --resume        go on where an interrupted run stopped

Writes runs/<name>/ with config.yaml (all settings, loads back to the same run), metrics.jsonl (a line an epoch),
checkpoints/last.pt (for --resume), checkpoints/best.safetensors (the weights that did best on validation),
environment.json and, at the end, test.json: the test episodes are read once, with the best weights.

SIGTERM and SIGUSR1 end it after the step under way, with a checkpoint and exit status 75, on which a scheduler may
requeue it: the same command with --resume, or with resume: auto in the YAML file, goes on from that very step. Status 2
means wrong input and 1 that the work failed. On several GPUs use training.num_devices=N; on several machines, torchrun.
"""

import os
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recognition.common.command_line import ArgumentParser, InputError, as_folder, folder_path, own_file, run
from recognition.common.stopping import Stopped

FRESH = 3  # keeps the seeds of fresh episodes apart from those that drew the splits 0, 1 and 2


def main() -> None:
    args = parse_arguments()
    from recognition.training.companions import loss_told

    with loss_told():
        train_and_test(args)


def train_and_test(args: Namespace) -> None:
    config = args.config
    import torch

    from models import CONFIGS, build_model
    from recognition.common.files import is_there
    from recognition.training.dataset import open_split, validation_note
    from recognition.training.loop import Progress, launch, restore
    from recognition.training.runs import Run, describe_environment, describe_inputs, input_files

    run = Run(as_folder(args.runs_dir / config.name))
    for file in (config.logging.logfile, config.model.save and config.model.save_path):
        if file:
            as_folder(Path(file).parent)
    resume = args.resume or config.resume == "auto"
    check_folder(run, config, resume)
    if is_there(run.test_file):
        run.keep_places(config)
        print(f"{run.path} is finished; its test scores: {run.test_file.read_text()}")
        return
    fabric = launch(config.training)
    num_here = int(os.environ.get("LOCAL_WORLD_SIZE", fabric.world_size))
    train_set, validation_set, test_set = (
        open_split(config.dataset, split, fabric.device, num_here) for split in ("train", "validation", "test")
    )
    sets = [train_set, validation_set, test_set]
    inputs = describe_inputs(input_files(config))
    run.check_inputs(inputs)
    if min(len(train_set), config.training.batch_size) % fabric.world_size:
        raise InputError("training.batch_size: must be a multiple of the processes, and not exceed the episodes")

    torch.manual_seed(config.training.seed)
    name = config.model.model
    model_args = CONFIGS[name](**config.model.args)
    if not run.config_file.exists():
        check_clips(name, model_args, sets)
    num_features, repeat_test = train_set.bank.num_features, config.dataset.repeat_test
    model = build_model(name, model_args, num_features, train_set.num_probes, repeat_test, train_set.clip_frames)
    if config.dataset.standardise:
        model.standardise(*train_set.bank.statistics())
    if config.model.load:
        load_weights(model, Path(config.model.load_path))
    # Losses scaled for float16 must be unscaled before clipping, which a fused step does too late.
    fused = fabric.strategy.precision.precision != "16-mixed"
    rate, decay = config.training.learning_rate, config.training.weight_decay
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay, fused=fused)
    num_study = train_set.num_study_frames
    if fabric.is_global_zero:  # fabric.print would tell it once a node
        print(
            f"{name}: {sum(p.numel() for p in model.parameters()):,} parameters, carries "
            f"{model.state_size(num_study):,} floats from {num_study:,} study frames to the probes\n"
            f"{len(train_set):,} training, {len(validation_set):,} validation, {len(test_set):,} test episodes, "
            f"{train_set.bank}; {fabric.world_size} x {fabric.device}, "
            f"precision {fabric.strategy.precision.precision}"
        )
        if note := validation_note(config.dataset):
            print(note)
    wandb_run = start_wandb(config, run) if config.logging.wandb and fabric.is_global_zero else None
    model, optimizer = fabric.setup(model, optimizer)
    progress = restore(run, fabric, model, optimizer) if resume else Progress()
    if fabric.is_global_zero:
        environment = {**describe_environment(str(fabric.device)), "inputs": inputs}
        run.start(config, environment, wandb_run.id if wandb_run else None)
        run.forget_metrics_after(progress.epoch)
    try:
        fit(run, config, fabric, model, optimizer, train_set, validation_set, progress, wandb_run)
        test(run, config, fabric, model, test_set, wandb_run)
    except Stopped:
        if wandb_run:
            wandb_run.mark_preempting()
        if fabric.is_global_zero:  # the first process alone tells the scheduler
            raise


def fit(run, config, fabric, model, optimizer, train_set, validation_set, progress, wandb_run) -> None:
    """Train and validate for all epochs that are left."""
    from recognition.training.loop import Progress, checkpoint, score, train_epoch

    def keep() -> None:
        if fabric.is_global_zero:
            run.save_last(checkpoint(fabric, model, optimizer, progress))

    while progress.epoch < config.training.n_epochs:
        if config.dataset.fresh_episodes and progress.epoch > 0:
            train_set.draw_fresh((config.training.seed, FRESH, progress.epoch))
        metrics = train_epoch(fabric, model, optimizer, train_set, config.training, progress, keep, config.show_timing)
        started = time.perf_counter()
        loss, accuracy = score(fabric, model, validation_set, config.training)
        seconds = progress.seconds + time.perf_counter() - started
        metrics |= {"validation_loss": loss, "validation_accuracy": accuracy, "seconds": seconds}
        is_best = progress.best is None or [accuracy, -loss] > progress.best
        progress = Progress(progress.epoch + 1, best=[accuracy, -loss] if is_best else progress.best)
        # In this order a kill at any moment leaves a checkpoint and, before it, everything that it stands for.
        if fabric.is_global_zero:
            if is_best:
                run.save_best(model.module.state_dict())
            report(run, config, metrics, wandb_run, model.module)
        keep()


def test(run, config, fabric, model, test_set, wandb_run) -> None:
    """Score the best weights on the test episodes."""
    from recognition.training.loop import score

    fabric.barrier()  # until the best weights are written
    model.module.load_state_dict(run.load_best())
    loss, accuracy = score(fabric, model.module, test_set, config.training)
    if fabric.is_global_zero:
        run.write_test({"test_loss": loss, "test_accuracy": accuracy})
        if wandb_run:
            wandb_run.summary.update({"test loss": loss, "test accuracy": accuracy})
            wandb_run.finish()
        print(f"test accuracy {accuracy:.4f}, loss {loss:.4f}; all about the run is in {run.path}")


def parse_arguments(words: Sequence[str] | None = None) -> Namespace:
    from recognition.training.config import check_model, describe_keys, load_config

    parser = ArgumentParser(
        description=__doc__,
        usage="%(prog)s -f CONFIG [--resume] [--runs_dir RUNS] [key=value ...]",
        epilog="keys of the YAML file, with their defaults:\n" + describe_keys(),
    )
    parser.add_argument(
        "-f", "--config-file", required=True, type=own_file, help="YAML file with the settings of the run"
    )
    parser.add_argument("--resume", action="store_true", help="go on with the run of this name, if it was started")
    parser.add_argument("--runs_dir", type=folder_path, default=Path("runs"), help="folder of the runs' folders")
    args, words = parser.parse_known_args(words)
    if options := [word for word in words if word.startswith("-") and "=" not in word]:
        parser.error(f"unrecognized arguments: {' '.join(options)}")
    config = load_config(args.config_file, words)
    from models import CONFIGS, PUBLISHED_NAMES  # takes a second, for torch

    args.config = check_model(config, CONFIGS, PUBLISHED_NAMES, args.config_file)
    return args


def check_folder(run, config, resume: bool) -> None:
    """Raise InputError if the run's folder is taken by another run, or by this one and --resume was not given."""
    from models import CONFIGS, PUBLISHED_NAMES
    from recognition.common.files import is_there
    from recognition.training.config import check_model, load_config
    from recognition.training.runs import describe_inputs, input_files

    if not is_there(run.config_file):
        return
    if not resume:
        raise InputError(f"{run.path} exists: go on with it by --resume, choose another name=..., or remove it")
    # Checked like a new one: a run from before a setting existed has its default.
    stored = check_model(load_config(run.config_file), CONFIGS, PUBLISHED_NAMES, run.config_file)
    run.check_same(config, stored)
    before = input_files(stored)
    run.check_inputs(describe_inputs({k: file for k, file in input_files(config).items() if file != before.get(k)}))


def check_clips(name: str, model_args, sets: list) -> None:
    """Raise InputError if a layer looks at clips of other lengths than the episodes have."""
    for family, settings in model_args.layers_of(name):
        if not hasattr(settings, "clip_frames"):
            continue
        key = f"model.args.{f'{family}.' if name == 'mixed' else ''}clip_frames"
        for dataset in sets:
            if (given := settings.clip_frames or sets[0].clip_frames) != dataset.clip_frames:
                what = "leave it out, to take that of the episodes" if settings.clip_frames else "draw all alike"
                raise InputError(
                    f"{key}: {given}, but clips of {dataset.index.path} show {dataset.clip_frames} frames; {what}"
                )


def load_weights(model, path: Path) -> None:
    """Start from the weights in a file, .pt or .safetensors."""
    import torch
    from safetensors.torch import load_file

    from recognition.common.files import is_of_system

    try:
        is_safe = path.suffix == ".safetensors"
        model.load_state_dict(load_file(path) if is_safe else torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # every kind of file raises kinds of its own
        if is_of_system(error):
            raise
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"model.load_path: {str(path)!r}: does not fit this model: {reason}") from None


def start_wandb(config, run):
    """Start a Weights & Biases run, or go on with the one that this run has had, or say how to do without."""
    import wandb

    from recognition.common.files import is_there

    settings = config.model_dump(mode="json")
    earlier = {"id": run.wandb_file.read_text().strip(), "resume": "allow"} if is_there(run.wandb_file) else {}
    try:
        return wandb.init(project=config.logging.wandb_project, name=config.name, config=settings, **earlier)
    except wandb.Error as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"logging.wandb: Weights & Biases did not start ({reason}); log in with `wandb login`, set the variable "
            f"WANDB_MODE=offline to keep its files here, or set logging.wandb=false"
        ) from None


def report(run, config, metrics: dict[str, Any], wandb_run, model) -> None:
    """Write one epoch's metrics wherever the configuration wants them."""
    import torch

    from recognition.common.files import written_whole

    run.append_metrics(metrics)
    print(
        f"epoch {metrics['epoch']}/{config.training.n_epochs}: training loss {metrics['train_loss']:.4f}, accuracy "
        f"{metrics['train_accuracy']:.4f}; validation loss {metrics['validation_loss']:.4f}, accuracy "
        f"{metrics['validation_accuracy']:.4f}; {metrics['seconds']:.1f} s"
    )
    if wandb_run:
        wandb_run.log(metrics, step=metrics["step"])
    if config.logging.logfile:
        path = Path(config.logging.logfile)
        path.parent.mkdir(parents=True, exist_ok=True)
        columns = ["epoch", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy"]
        with written_whole(path) as part:
            rows = [" ".join(columns), *(" ".join(str(m[c]) for c in columns) for m in run.read_metrics())]
            part.write_text("\n".join(rows) + "\n", encoding="utf-8")
    if config.model.save:
        path = Path(config.model.save_path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as part:
            torch.save(model.state_dict(), part)


if __name__ == "__main__":
    run(main)
