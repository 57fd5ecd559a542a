"""The leakage audit: whether test films were seen in training, and whether episodes keep what they promise.

`audit_films` compares the films of the splits, `audit_episodes` looks at the episodes of one. Neither changes anything:
they count, and name what they find.

How films are compared. F = `frames_per_film` frames of every film, at even distances, are looked for among G = 5 F of
every film of a later split, so that a film that was cut or begins later is found too. Their features, of unit length,
are z-scored with mean and deviation over those of the first split, as all features of a network lie in a narrow cone,
and compared by cosine.

The threshold was set on features of an untrained ResNet18. Of 14 synthetic films of 84 s unrelated ones reach 0.965
(nine real ones 0.93). Copies of six of them, coarsely coded at half the size, without their first 2.5 s, or both
without the first 5 s, reach 0.99 or more and have 3 to 24 of 32 frames above 0.98. Pairs with an eighth of the frames
or more are called copies: 17 of those 18. Features of a trained network were not at hand.

A picture alike to frames of 5 films or more of the other split, such as black or a maker's title card, is no sign of a
copy and is told apart; it is still something that training may have learnt.

A borrowed stretch shorter than the distance between the F frames can be missed. Time grows with the number of pairs of
films of different splits, memory with that of films: 1,072 films of 512 features, split 65 : 10 : 25, took 21 s of one
CPU core and 0.8 GB.

Shapes: A and B films, F frames of each of the former and G of the latter, D features, N episodes, R rows of clips,
P probes.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from recognition.common.command_line import InputError
from recognition.episodes.dataset import EpisodeDataset
from recognition.episodes.drawing import was_shown
from recognition.episodes.episode_spec import ALTERATIONS, PROBE_KINDS
from recognition.episodes.nearest import nearest_study_frame
from recognition.features.feature_bank import FeatureBank, find_header
from recognition.features.feature_file import FeatureHeader

DENSER = 5  # times as many frames of a film are looked through as are looked for; odd, so that they include those
COMMON_FILMS = 5  # a picture in so many films of another split is no sign of a copy
COPY_SHARE = 1 / 8  # of a film's frames
MAX_LISTED = 100  # findings of one sort that are listed; all are counted
MAX_PRINTED = 3
FILMS_A_BLOCK = 32  # films compared at once with as many: 21 MB of cosines
EPISODES_A_BLOCK = 256
Counted = tuple[int, dict[str, Any]]  # a number of frames, and the finding

FAULTS = {
    "num_overlapping_clips": "study clips that overlap another",
    "num_old_outside": "old probes in no studied clip",
    "num_altered_outside": "altered probes in no studied clip",
    "num_new_inside": "new probes in a studied clip",
}


def audit(
    train_set: EpisodeDataset,
    validation_set: EpisodeDataset,
    test_set: EpisodeDataset,
    folder: str | Path,
    device: torch.device = torch.device("cpu"),
) -> dict[str, Any]:
    """Everything: {"films": of `audit_films`, "episodes": {split: of `audit_episodes`}}, ready for JSON.

    `folder` holds the feature files. The nearest frames are looked up for test alone.
    """
    sets = {"train": train_set, "validation": validation_set, "test": test_set}
    films = {split: films_of(dataset) for split, dataset in sets.items()}
    return {
        "films": audit_films(folder, films),
        "episodes": {
            split: audit_episodes(dataset, device, 256 if split == "test" else 0) for split, dataset in sets.items()
        },
    }


def audit_films(
    folder: str | Path, films: Mapping[str, Sequence[str]], frames_per_film: int = 32, threshold: float = 0.98
) -> dict[str, Any]:
    """Films that two splits share: by name, by the video file's hash, and by frames that look alike, see above.

    Args:
        folder: where the feature files are. Published ones (.pt) carry no hash and are compared without.
        films: names of the films of each split; the statistics come from the first of them.

    Returns num_films by split, frames_per_film, threshold, highest_cosine (of two films not already known to be the
    same; None if there are none), and five findings, each with its `count` and up to 100 `entries` with films, splits
    and reason: shared_films, shared_files (with num_without_hash), near_duplicates (pairs of films, most frames first,
    with num_copies), common_frames (films with pictures that 5 or more of another split have) and seen_films (from
    which the backbone has learned, of all splits but the first).

    Raises:
        InputError: a film is missing, damaged or has another number of features than the others.
    """
    folder, of_split = Path(folder), {split: list(dict.fromkeys(names)) for split, names in films.items()}
    sampled = _standard_frames(folder, of_split, frames_per_film)
    headers = {split: [find_header(folder, name) for name in names] for split, names in of_split.items()}
    # Published features have no header, and so no hash.
    hashes = {split: np.array([h.video_sha256 if h else "" for h in found]) for split, found in headers.items()}
    shared_films, shared_files, alike, common, highest = [], [], [], [], [-1.0]
    for splits in itertools.combinations(of_split, 2):
        names, others = (np.array(of_split[split]) for split in splits)
        is_film = names[:, None] == others  # (A, B)
        is_file = (hashes[splits[0]][:, None] == hashes[splits[1]]) & (hashes[splits[0]] != "")[:, None] & ~is_film
        shared_films += [_finding([names[a]], splits, "one film in both") for a, _ in np.argwhere(is_film)]
        shared_files += [
            _finding([names[a], others[b]], splits, "one video file, two names") for a, b in np.argwhere(is_file)
        ]
        cosine = _pair_cosines(sampled[splits[0]], sampled[splits[1]], frames_per_film)
        cosine.transpose(0, 2, 1)[is_film | is_file] = -1  # told already
        highest.append(float(cosine.max()))
        pairs, frames = _with_frames_alike(cosine, names, others, splits, threshold)
        alike += pairs
        common += frames
    copies = [number for number, _ in alike if number >= COPY_SHARE * frames_per_film]
    num_without_hash = int(sum((values == "").sum() for values in hashes.values()))
    return {
        "num_films": {split: len(names) for split, names in of_split.items()},
        "frames_per_film": frames_per_film,
        "threshold": threshold,
        "highest_cosine": round(max(highest), 4) if max(highest) > -1 else None,
        "shared_films": _listed(shared_films),
        "shared_files": {**_listed(shared_files), "num_without_hash": num_without_hash},
        "near_duplicates": {**_listed(_most_first(alike)), "num_copies": len(copies)},
        "common_frames": _listed(_most_first(common)),
        "seen_films": _listed(_seen(headers)),
    }


def audit_episodes(
    dataset: EpisodeDataset, device: torch.device = torch.device("cpu"), num_nearest: int = 256
) -> dict[str, Any]:
    """Episodes that break their promise, and how near their new probes come to what was studied.

    Old and altered probes must lie in a studied clip, other new ones outside, and the clips of an episode must not
    overlap. Over the first `num_nearest` episodes (0: none) the nearest studied frame of every old and every unaltered
    new probe is found by cosine: a new probe nearer than half of the old ones is no fault, but it cannot be told from
    them by its look alone.

    Returns num_episodes, num_probes, the number of each fault in `FAULTS`, findings (`count` and up to 100 `entries` of
    each fault, with episode, films and reason) and nearest: None, or num_episodes, num_new, num_above_median and
    num_above_lowest (new probes more similar than the median, or the least similar, old probe of their episode), their
    shares share_above_median and share_above_lowest (None without new probes), and films: up to 100 with probes above
    the median, those with most first, as film and num_above_median.
    """
    study, probes, is_old, kind = dataset.episodes
    is_old, is_altered = is_old == 1, np.isin(kind, [PROBE_KINDS.index(name) for name in ALTERATIONS])
    is_new = ~is_old & ~is_altered
    counts, entries = dict.fromkeys(FAULTS, 0), []
    for first in range(0, len(dataset), EPISODES_A_BLOCK):
        block = slice(first, first + EPISODES_A_BLOCK)
        is_inside, video = was_shown(study[block], probes[block], 1), probes[block][..., 0]
        faults = (
            _overlapping(study[block]),
            (video, is_old[block] & ~is_inside),
            (video, is_altered[block] & ~is_inside),
            (video, is_new[block] & is_inside),
        )
        for (name, reason), (film, is_wrong) in zip(FAULTS.items(), faults, strict=True):
            for n, place in np.argwhere(is_wrong)[: max(0, MAX_LISTED - counts[name])]:
                video_id = dataset.index.video_ids[film[n, place]]
                entries.append({"episode": first + int(n), "films": [video_id], "reason": reason})
            counts[name] += int(is_wrong.sum())
    return {
        "num_episodes": len(dataset),
        "num_probes": int(is_old.size),
        **counts,
        "findings": {"count": sum(counts.values()), "entries": entries},
        "nearest": _nearest(dataset, is_old, is_new, device, num_nearest) if num_nearest else None,
    }


def audit_lines(result: Mapping[str, Any]) -> list[str]:
    """What `audit` found, a line a finding. Either part may be missing: {"films": ...} or {"episodes": ...}."""
    lines = _film_lines(result["films"]) if "films" in result else []
    for split, episodes in result.get("episodes", {}).items():
        lines += [f"{split}: {line}" for line in _episode_lines(episodes)]
    return lines


def films_of(dataset: EpisodeDataset) -> list[str]:
    """The films of a split: all that episodes can be drawn from, or those used where that is not known."""
    if dataset.index.spec is not None:
        return list(dataset.index.video_ids)
    used = np.union1d(dataset.episodes.study[..., 0], dataset.episodes.probes[..., 0])
    return [dataset.index.video_ids[k] for k in used]


def _seen(headers: Mapping[str, list[FeatureHeader | None]]) -> list[dict[str, Any]]:
    """Films from which the backbone has learned, but for those of the first split, which is for training."""
    return [
        _finding([header.video_id], [split], "the backbone has learned from it")
        for split in list(headers)[1:]
        for header in headers[split]
        if header and header.seen_by_backbone
    ]


def _pair_cosines(frames: Tensor, others: Tensor, frames_per_film: int) -> np.ndarray:
    """Of F frames of the films of a split the highest cosine with any frame of films of a later one: (A, F, B).

    Where the films (A, ., D) come with more frames, every fifth is looked for.
    """
    step = frames.shape[1] // frames_per_film
    return _highest_cosines(frames[:, step // 2 :: step], others)


def _with_frames_alike(
    cosine: np.ndarray, names: np.ndarray, others: np.ndarray, splits: Sequence[str], threshold: float
) -> tuple[list[Counted], list[Counted]]:
    """Pairs of films with frames alike by cosine (A, F, B), and films with frames that many of the other split have."""
    num_frames, is_alike = cosine.shape[1], cosine >= threshold
    is_common = is_alike.sum(2) >= COMMON_FILMS  # (A, F)
    num_alike = (is_alike & ~is_common[..., None]).sum(1)  # (A, B)
    pairs, common = [], []
    for a, b in np.argwhere(num_alike):
        nearest = cosine[a, ~is_common[a], b].max()
        reason = f"{num_alike[a, b]} of {num_frames} frames alike, cosine up to {nearest:.3f}"
        pairs.append((int(num_alike[a, b]), _finding([names[a], others[b]], splits, reason)))
    for a in np.flatnonzero(is_common.any(1)):
        number = int(is_common[a].sum())
        reason = f"{number} of {num_frames} frames are in {COMMON_FILMS} or more {splits[1]} films too"
        common.append((number, _finding([names[a]], splits, reason)))
    return pairs, common


def _highest_cosines(frames: Tensor, others: Tensor) -> np.ndarray:
    """Of every frame of films (A, F, D) the highest cosine with any of a film's (B, G, D): (A, F, B)."""
    highest = np.empty((*frames.shape[:2], len(others)), np.float32)
    blocks = itertools.product(range(0, len(frames), FILMS_A_BLOCK), range(0, len(others), FILMS_A_BLOCK))
    for row, column in blocks:
        some, some_others = frames[row : row + FILMS_A_BLOCK], others[column : column + FILMS_A_BLOCK]
        cosine = some.flatten(0, 1) @ some_others.flatten(0, 1).T
        nearest = cosine.unflatten(1, some_others.shape[:2]).amax(2)  # (a F, b)
        highest[row : row + len(some), :, column : column + len(some_others)] = nearest.unflatten(0, some.shape[:2])
    return highest


def _standard_frames(folder: Path, films: Mapping[str, list[str]], frames_per_film: int) -> dict[str, Tensor]:
    """Frames of the films of each split, z-scored over those of the first and of unit length: (A, F, D) of the first
    split, (B, G, D) of the others, whose frames 2, 7, 12, ... lie where F frames would."""
    sampled = {
        split: _sample(folder, names, frames_per_film * (DENSER if number else 1))
        for number, (split, names) in enumerate(films.items())
    }
    reference = next(iter(sampled.values())).flatten(0, 1)
    mean, deviation = reference.mean(0), reference.std(0, correction=0)
    deviation[deviation < 1e-6] = torch.inf  # a feature that never changes in training says nothing
    if any(frames.shape[2] != len(mean) for frames in sampled.values()):
        raise InputError(f"{folder}: the films' features differ in number; preprocess all of them alike")
    return {split: F.normalize((frames - mean) / deviation, dim=2) for split, frames in sampled.items()}


def _sample(folder: Path, names: Sequence[str], num: int) -> Tensor:
    """Unit-length features of `num` frames of each film, (V, num, D), in the middle of equal parts of it."""
    frames = []
    for name in names:
        bank = FeatureBank(folder, [name], place="mapped")
        frame = ((np.arange(num) + 0.5) / num * bank.num_frames[0]).astype(np.int64)
        frames.append(F.normalize(bank.gather(np.zeros_like(frame), frame).float(), dim=1))
        if frames[-1].shape != frames[0].shape:
            raise InputError(f"{folder}: the films' features differ in number; preprocess all of them alike")
    return torch.stack(frames)


def _overlapping(study: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows (N, R, 3) by film and place: their films, and which begin before the one before them ends, (N, R) each."""
    order = np.lexsort((study[..., 1], study[..., 0]))
    video, start, end = np.moveaxis(np.take_along_axis(study, order[..., None], 1), -1, 0)
    overlaps = (video[:, 1:] == video[:, :-1]) & (start[:, 1:] < end[:, :-1])
    return video, np.pad(overlaps, ((0, 0), (1, 0)))


def _nearest(
    dataset: EpisodeDataset, is_old: np.ndarray, is_new: np.ndarray, device: torch.device, num_nearest: int
) -> dict[str, Any]:
    numbers = np.arange(min(num_nearest, len(dataset)))
    similarity, _ = nearest_study_frame(dataset, numbers, device)
    num_new = num_above_median = num_above_lowest = 0
    by_film: Counter[str] = Counter()
    for n in numbers:
        old, new = similarity[n, is_old[n]], similarity[n, is_new[n]]
        if len(old) == 0:
            continue
        is_above = new > np.median(old)
        num_new += len(new)
        num_above_median += int(is_above.sum())
        num_above_lowest += int((new > old.min()).sum())
        by_film.update(dataset.index.video_ids[video] for video in dataset.episodes.probes[n, is_new[n], 0][is_above])
    return {
        "num_episodes": len(numbers),
        "num_new": num_new,
        "num_above_median": num_above_median,
        "share_above_median": num_above_median / num_new if num_new else None,
        "num_above_lowest": num_above_lowest,
        "share_above_lowest": num_above_lowest / num_new if num_new else None,
        "films": [{"film": film, "num_above_median": number} for film, number in by_film.most_common(MAX_LISTED)],
    }


def _finding(films: Iterable[str], splits: Sequence[str], reason: str) -> dict[str, Any]:
    return {"films": [str(film) for film in films], "splits": list(splits), "reason": reason}


def _most_first(entries: Iterable[Counted]) -> list[dict[str, Any]]:
    """Findings by how many frames each has, then by their words."""
    return [found for _, found in sorted(entries, key=lambda entry: (-entry[0], *entry[1].values()))]


def _listed(entries: list[dict[str, Any]]) -> dict[str, Any]:
    return {"count": len(entries), "entries": entries[:MAX_LISTED]}


def _film_lines(films: Mapping[str, Any]) -> list[str]:
    sizes = ", ".join(f"{number} {split}" for split, number in films["num_films"].items())
    shared, files, alike = films["shared_films"], films["shared_files"], films["near_duplicates"]
    common, frames = films["common_frames"], films["frames_per_film"]
    lines = [f"films in two splits: {shared['count']}{_examples(shared)}"]
    if not shared["count"]:
        lines = [f"no film is in two splits ({sizes})"]
    unknown = f"; {files['num_without_hash']} films do not say theirs" if files["num_without_hash"] else ""
    if files["count"]:
        lines.append(f"video files in two splits under two names: {files['count']}{unknown}{_examples(files)}")
    else:
        lines.append(f"no video file is in two splits under two names{unknown}")
    if alike["count"]:
        lines.append(
            f"pairs of films of two splits with frames alike (cosine of {films['threshold']:g} or more): "
            f"{alike['count']}, of them copies by {COPY_SHARE * frames:g} or more of {frames} frames: "
            f"{alike['num_copies']}{_examples(alike)}"
        )
    else:
        highest = films["highest_cosine"]
        cosine = "" if highest is None else f", highest cosine {highest:.3f}"
        lines.append(f"no two films of two splits have frames alike ({frames} looked for of each{cosine})")
    if common["count"]:
        lines.append(
            f"films with pictures that {COMMON_FILMS} or more films of another split have, such as black ones or title "
            f"cards: {common['count']}{_examples(common)}"
        )
    if seen := films.get("seen_films", {}).get("count"):  # not in older results
        lines.append(f"films from which the backbone has learned: {seen}{_examples(films['seen_films'])}")
    return lines


def _examples(finding: Mapping[str, Any]) -> str:
    """The first few findings in words, after a colon; empty if there is none."""
    words = [
        f"{' and '.join(entry['films'])} ({' and '.join(entry['splits'])}; {entry['reason']})"
        for entry in finding["entries"][:MAX_PRINTED]
    ]
    more = [f"{finding['count'] - len(words)} more"] if finding["count"] > len(words) else []
    return ": " + ", ".join(words + more) if words else ""


def _episode_lines(episodes: Mapping[str, Any]) -> list[str]:
    inside, nearest = f"in {episodes['num_episodes']} episodes", episodes["nearest"]
    lines = []
    for name, words in FAULTS.items():
        if episodes[name]:
            entries = [entry for entry in episodes["findings"]["entries"] if entry["reason"] == words]
            named = [f"{entry['films'][0]} in episode {entry['episode']}" for entry in entries[:MAX_PRINTED]]
            more = [f"{episodes[name] - len(named)} more"] if episodes[name] > len(named) else []
            lines.append(f"{words}: {episodes[name]} {inside}: {', '.join(named + more)}")
    if not lines:
        lines = [f"no clips overlap, old probes lie in studied clips and new ones do not, {inside}"]
    if nearest and nearest["num_new"]:
        films = [f"{entry['film']} ({entry['num_above_median']})" for entry in nearest["films"][:MAX_PRINTED]]
        lines.append(
            f"{nearest['share_above_median']:.1%} of {nearest['num_new']} new probes are nearer to a studied frame "
            f"than the median old probe of their episode{', most of them of ' * bool(films)}{', '.join(films)}; "
            f"{nearest['share_above_lowest']:.1%} are nearer than the farthest"
        )
    return lines
