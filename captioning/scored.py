"""The captions of a run or a file, read to be scored, and what they are worth."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from captioning.json_file import read_json
from captioning.metrics import ClipScores, clip_scores
from captioning.said import Said, is_numbered, read_numbered, read_said, with_references
from recognition.common.command_line import InputError, shown
from recognition.common.files import is_there


@dataclass(frozen=True)
class Scored:
    """The captions of one file, and what they are worth."""

    name: str
    target: Path  # its scores.json
    said: list[Said]
    scores: ClipScores

    @property
    def films(self) -> list[str]:
        return [clip.film for clip in self.said]

    @classmethod
    def of(cls, name: str, target: Path, said: list[Said], with_meteor: bool = True) -> "Scored":
        captions, references = [clip.caption for clip in said], [clip.references for clip in said]
        return cls(name, target, said, clip_scores(captions, references, with_meteor))

    def saying(self, name: str, captions: Sequence[str]) -> "Scored":
        """The same clips with other captions."""
        said = [replace(clip, caption=text) for clip, text in zip(self.said, captions, strict=True)]
        return Scored.of(name, self.target, said, not isinstance(self.scores.meteor, str))


def read_file(path: Path, reference_files: Sequence[Path]) -> tuple[str, Path, list[Said]]:
    """The name of a run's folder, of a file in one or of any file, where its scores are to be, and its captions."""
    name, file = str(path), path
    if is_there(path.parent / "config.yaml"):
        name = f"{path.parent.resolve().name}/{path.stem}"
    if path.is_dir():
        name, file = path.resolve().name, path / "captions.json"
        if not is_there(file):
            raise InputError(f"{path}: has no captions.json; python -m captioning.generate makes one")
    if is_numbered(read_json(file)):
        said = read_numbered(file, reference_files)
    else:
        said = read_said(file)
        said = with_references(said, reference_files) if reference_files else said
        if bare := [clip for clip in said if not clip.references]:
            raise InputError(
                f"{file}: clip {bare[0].clip} of {shown(bare[0].film)} has no references; give --reference_file"
            )
    return name, file.with_name("scores.json" if file.name == "captions.json" else f"{file.stem}-scores.json"), said


def in_order_of(first: Sequence[Said], name: str, said: Sequence[Said]) -> list[Said]:
    """Captions in the order of the first file's. Raises InputError if clips or references are not the same."""
    by_clip = {(clip.film, clip.clip): clip for clip in said}
    keys = [(clip.film, clip.clip) for clip in first]
    if wrong := sorted(set(keys) ^ by_clip.keys()):
        film, number = wrong[0]
        raise InputError(f"{name}: clip {number} of {shown(film)} is not in both this and the first; compare equals")
    ordered = [by_clip[key] for key in keys]
    for clip, other in zip(first, ordered, strict=True):
        if clip.references != other.references:
            raise InputError(f"{name}: clip {clip.clip} of {shown(clip.film)} has other references than in the first")
    return ordered
