"""Which features a run has learned from, features.json: by what network they are, and of which films."""

import json
from collections.abc import Iterable
from typing import Any

from captioning.dataset import CaptionDataset
from recognition.common.command_line import InputError
from recognition.common.files import is_there, written_whole
from recognition.features.feature_file import FeatureHeader
from recognition.training.runs import Run

FILE = "features.json"
EYE = ("backbone", "weights", "weights_sha256", "dtype")  # of a feature file's header


def keep_features(run: Run, sets: Iterable[CaptionDataset]) -> None:
    """Write down which features a run learns from. Raises InputError if it has begun with others."""
    headers = {header.video_id: header for part in sets for header in part.headers}
    films = {film: header.digest for film, header in headers.items()}
    if is_there(run.config_file) and is_there(run.path / FILE):
        before = read_features(run)
        check_features(run, headers.values())
        for film, digest in films.items():
            if digest != before["films"].get(film):
                raise InputError(
                    f"the features of {film} have changed since {run.path} was trained on them; restore them, or start "
                    f"another run with name=..."
                )
    eye = next(iter(headers.values()))
    told = {name: getattr(eye, name) for name in EYE} | {"films": films}
    run.path.mkdir(parents=True, exist_ok=True)
    with written_whole(run.path / FILE) as part:
        part.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def read_features(run: Run) -> dict[str, Any]:
    """What `keep_features` wrote: backbone, weights, weights_sha256, dtype, and films {name: digest}. Raises
    InputError."""
    file = run.path / FILE
    if not is_there(file):
        raise InputError(f"{file}: no such file; python -m captioning.train writes it")
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        if not (told.keys() >= {*EYE, "films"} and isinstance(told["films"], dict)):
            raise ValueError("something is missing")
    except (ValueError, AttributeError) as error:
        raise InputError(f"{file}: is not as it was written ({error})") from None
    return told


def check_features(run: Run, headers: Iterable[FeatureHeader]) -> None:
    """Raise InputError if features are by another network than those that a run has learned from."""
    own = read_features(run)
    for header in headers:
        if (header.backbone, header.weights_sha256) != (own["backbone"], own["weights_sha256"]):
            raise InputError(
                f"{header.video_id}: its features are by {header.backbone} ({header.weights}), those of {run.path} by "
                f"{own['backbone']} ({own['weights']}); make them alike"
            )
