"""Made-up films: every frame is the same wherever and however it is asked for, and the scripts take them for films."""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, config_text, run_script, write_features

import benchmarks.made_up
import evaluate
import generate_dataset
import train
from recognition.common.command_line import InputError
from recognition.episodes.index_file import read_index
from recognition.features import made_up
from recognition.features.feature_bank import FeatureBank, read_all_shots
from recognition.features.made_up import MadeUpFilms
from recognition.training import provenance
from recognition.training.config import DatasetConfig
from recognition.training.data import open_split

NAME = "made-up:5x1300,seed=3,features=24"
WORDS = (
    *("--n_clips=3", "--clip_length=40", "--clip_margin=20", "--n_tests=4", "--new_probes=far,same_shot"),
    *("--n_samples_train=12", "--n_samples_validation=4", "--n_samples_test=6", "--validation_set_fraction=0.2"),
)
ALL_BITS = (1 << 64) - 1


def frames_of(films: MadeUpFilms, *shape: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, len(films.video_ids), shape), rng.integers(0, films.lengths[0], shape)


def assert_equal(features: torch.Tensor, others: torch.Tensor) -> None:
    assert features.dtype == others.dtype == torch.float16
    assert torch.equal(features.view(torch.int16), others.view(torch.int16))


# A plain reference, a frame at a time, in Python's own whole numbers.


def mixed(number: int) -> int:
    number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 & ALL_BITS
    number = (number ^ number >> 27) * 0x94D049BB133111EB & ALL_BITS
    return number ^ number >> 31


def key(kind: int, *numbers: int) -> int:
    hashed = mixed(3 * 1024 + kind)  # the seed of NAME
    for number in numbers:
        hashed = mixed(hashed + number * made_up.GOLDEN & ALL_BITS)
    return hashed


def bells(hashed: int, num: int = made_up.NUM_DIMENSIONS) -> list[int]:
    words = [mixed(hashed + step * made_up.GOLDEN & ALL_BITS).to_bytes(8, "little") for step in range(1, num // 4 + 1)]
    return [word[place] + word[place + 1] - 255 for place in (0, 2, 4, 6) for word in words]


def first_of_shot(film: int, frame: int) -> int:
    cuts = [0]
    for group in range(-1, frame // 512 + 1):
        for cell, byte in enumerate(key(made_up.OF_CUTS, film, group).to_bytes(8, "little")):
            if byte & 64 or cell == 0:
                cuts.append(512 * group + 64 * cell + byte % 64)
    return max(cut for cut in cuts if cut <= frame)


def plain_features(film: int, frame: int, num_features: int = 24) -> list[float]:
    shot = first_of_shot(film, frame)
    of_set = (key(made_up.OF_CHOICE, film, shot) >> 1) % 2**31 % 3
    parts = [
        (made_up.FILM, bells(key(made_up.OF_FILM, film))),
        (made_up.SET, bells(key(made_up.OF_SET, film, of_set))),
        (made_up.SHOT, bells(key(made_up.OF_SHOT, film, shot))),
    ]
    for bits, deviation in made_up.DRIFTS.items():
        apart = 2**bits
        here, there = (bells(key(made_up.OF_DRIFT + bits, film, shot, frame // apart + later)) for later in (0, 1))
        drift = [a + (b - a) * (frame % apart) // apart for a, b in zip(here, there, strict=True)]
        parts.append((deviation, drift))
    noise = bells(key(made_up.OF_FRAME, film, frame))
    features = [0] * num_features
    for k in range(made_up.NUM_DIMENSIONS):
        place = sum(deviation * part[k] for deviation, part in parts) * round(1024 * (k + 1) ** -made_up.DECAY)
        place = (place + noise[k] * round(made_up.NOISE * (k + 1) ** -made_up.NOISE_DECAY)) >> made_up.SHIFT
        drawn = bells(key(made_up.OF_FEATURES, k), num_features)
        for d in range(num_features):
            first, second = key(made_up.OF_MEANS, d).to_bytes(8, "little")[:2]
            mean = made_up.LEAST_MEAN + (first * second >> 8)
            spread = drawn[d] * (mean + made_up.EVENNESS) // (255 + made_up.EVENNESS)
            features[d] += (place + made_up.MEAN) * mean if k == 0 else place * spread
    return [max(0, feature) * made_up.SCALE for feature in features]


def test_features_are_those_of_the_plain_reference():
    video, frame = np.array([0, 4, 4, 2, 1, 0]), np.array([0, 1299, 511, 512, 700, 3])
    expected = torch.tensor([plain_features(*place) for place in zip(video.tolist(), frame.tolist(), strict=True)])
    assert_equal(MadeUpFilms(NAME).gather(video, frame), expected.half())


def test_features_of_a_seed_never_change():
    films = MadeUpFilms("made-up:3x2000,seed=1")
    features = torch.stack([films.film(k) for k in range(3)]).numpy()
    assert (
        hashlib.sha256(features.tobytes()).hexdigest()
        == "09bef2cb7e51016d659dc0d3a199dfce242c8e66ccc5a75eb80f5fcc6f32393d"
    )


@pytest.mark.parametrize("precision", ["highest", "medium"])
@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("block", [1, 7, 100_000])
def test_frames_are_the_same_however_they_are_asked_for(monkeypatch, block, num_threads, precision):
    films = MadeUpFilms(NAME)
    whole = torch.stack([films.film(k) for k in range(5)])
    video, frame = frames_of(films, 3, 100)
    monkeypatch.setitem(made_up.BLOCK_FRAMES, "cpu", block)
    threads_before, precision_before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(num_threads)
    torch.set_float32_matmul_precision(precision)
    try:
        with torch.autocast("cpu", torch.bfloat16):
            features = films.gather(video, frame)
    finally:
        torch.set_num_threads(threads_before)
        torch.set_float32_matmul_precision(precision_before)
    assert_equal(features, whole[video, frame])


def test_another_process_makes_the_same_features():
    code = f"""
import sys; import numpy as np; from recognition.features.made_up import MadeUpFilms
sys.stdout.write(MadeUpFilms({NAME!r}).film(2).numpy().tobytes().hex())
"""
    told = run_script("-c", code, cwd=ROOT)
    assert told.stdout == MadeUpFilms(NAME).film(2).numpy().tobytes().hex()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("tf32", [False, True])
def test_gpu_makes_the_same_features(tf32):
    on_cpu, on_gpu = MadeUpFilms("made-up:5x1300"), MadeUpFilms("made-up:5x1300", device=torch.device("cuda"))
    video, frame = frames_of(on_cpu, 40_000)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        with torch.autocast("cuda", torch.float16):
            features = on_gpu.gather(video, frame)
    finally:
        torch.set_float32_matmul_precision(before)
    assert features.is_cuda
    assert_equal(features.cpu(), on_cpu.gather(video, frame))
    held = FeatureBank("made-up:5x1300", on_cpu.video_ids, None, "gpu", torch.device("cuda"))
    assert_equal(held.gather(video, frame).cpu(), features.cpu())


@pytest.mark.parametrize("seed", range(5))
def test_largest_sums_are_exact_in_float32_too(seed):
    # So float64, in which they are added, rounds nothing, and to float16 a feature is rounded once on any device.
    one_part = sum((made_up.FILM, made_up.SET, made_up.SHOT, *made_up.DRIFTS.values()))
    spectrum = made_up._power_law(made_up.SPECTRUM, made_up.DECAY, torch.device("cpu"))
    noise = made_up._power_law(made_up.NOISE, made_up.NOISE_DECAY, torch.device("cpu"))
    largest = (255 * (one_part * spectrum + noise) >> made_up.SHIFT) + 1
    largest[0] += made_up.MEAN
    basis = made_up._basis(seed, 512, torch.device("cpu")) / made_up.SCALE
    assert (basis == basis.round()).all()
    assert (largest.double() @ basis.abs()).max() < 2**24
    assert (largest.double() @ basis.abs()).max() * made_up.SCALE < torch.finfo(torch.float16).max


def test_shots_begin_where_their_frames_do():
    films = MadeUpFilms(NAME)
    for number, starts in enumerate(films.shots()):
        frame = torch.arange(1300)
        found = films._shot_start(torch.full_like(frame, number), frame)
        assert starts.tolist() == found.unique().tolist()
        assert (found <= frame).all()
    several = read_all_shots(NAME, ["made_up_00003", "made_up_00001"])
    assert [starts.tolist() for starts in several] == [films.shots()[k].tolist() for k in (3, 1)]
    assert not np.array_equal(*several)


@pytest.fixture(scope="module")
def long_films() -> tuple[list[torch.Tensor], list[np.ndarray]]:
    """Two films: unit-length features less their mean, of all frames, and where shots begin."""
    films = MadeUpFilms("made-up:2x12000")
    features = F.normalize(torch.stack([films.film(k) for k in range(2)]).float(), dim=2)
    return list(F.normalize(features - features.mean((0, 1)), dim=2)), films.shots()


def test_frames_of_a_shot_are_more_alike_than_those_of_two(long_films):
    for features, starts in zip(*long_films, strict=True):
        cuts = starts[1:-1][np.diff(starts)[1:] > 20]
        within = (features[cuts] * features[cuts + 10]).sum(1)
        across = (features[cuts - 5] * features[cuts + 5]).sum(1)
        assert within.median() > 0.8
        assert across.median() < 0.5


def test_films_return_to_their_sets(long_films):
    shots = [features[starts + 1] for features, starts in zip(*long_films, strict=True)]
    own = shots[0] @ shots[0].T
    own.fill_diagonal_(-1)
    other = shots[0] @ shots[1].T
    assert own.amax(1).median() > other.amax(1).median()
    assert len(shots[0]) > 3 * (12_000 // made_up.FRAMES_A_SET)


@pytest.mark.parametrize("place", ["memory", "mapped"])
def test_bank_numbers_films_as_its_index_does(place):
    ids = ["made_up_00004", "made_up_00000", "made_up_00002"]
    bank, films = FeatureBank(NAME, ids, np.full(3, 1300), place), MadeUpFilms(NAME)
    video, frame = frames_of(MadeUpFilms(NAME, ids), 2, 30)
    assert_equal(bank.gather(video, frame), films.gather(np.array([4, 0, 2])[video], frame))
    where = {"memory": "in memory", "mapped": "made as needed"}[place]
    assert str(bank) == f"0.00 GB of made-up features {where}"
    assert bank.num_bytes == 3 * 1300 * 24 * 2
    assert bank.device == torch.device("cpu")


def test_a_thousand_films_take_no_memory(monkeypatch):
    monkeypatch.setattr("recognition.features.feature_bank.granted_memory", lambda: 16 << 30)
    films = MadeUpFilms("made-up:1072x20000")
    bank = FeatureBank("made-up:1072x20000", films.video_ids)
    assert str(bank) == "21.95 GB of made-up features made as needed"
    assert bank.gather(np.array([1071]), np.array([19_999])).shape == (1, 512)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "made-up:",
            "made-up:12",
            "made-up:0x5",
            "made-up:5x0",
            "made-up:-1x5",
            "made-up:5x5,seed=-1",
            "made-up:5x5x5",
        ),
        *("made-up:5x5,features=0", "made-up:100000x5", "made-up:5x5,speed=1", "made-up:5x5 ", "made-up:٣x٣"),
    ],
)
def test_wrong_name_is_refused_with_the_form(name):
    with pytest.raises(
        InputError, match=r"is not of the form made-up:FILMSxFRAMES, such as made-up:1072x20000"
    ) as told:
        MadeUpFilms(name)
    assert len(str(told.value).splitlines()) == 1


@pytest.mark.parametrize("video_id", ["film_0", "made_up_00005", "made_up_5", "../made_up_00001"])
def test_film_that_there_is_not_is_refused(video_id):
    with pytest.raises(InputError, match=f"{NAME}: has no film {video_id}; run generate_dataset.py --input_dir {NAME}"):
        FeatureBank(NAME, ["made_up_00001", video_id])


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with index files of the films of NAME. Read only."""
    folder = tmp_path_factory.mktemp("episodes")
    generate(folder, NAME)
    return folder


def generate(folder: Path, name: str, *words: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            sys, "argv", ["generate_dataset.py", "--input_dir", name, f"--output_dir={folder}", *WORDS, *words]
        )
        generate_dataset.main()


def test_generate_says_that_features_are_made_up(tmp_path, capsys):
    generate(tmp_path, NAME)
    assert f"{NAME}: made-up features" in capsys.readouterr().out
    index, films = read_index(tmp_path / "test_indices.h5"), MadeUpFilms(NAME)
    place = films.video_ids.index(index.video_ids[0])
    assert index.video_digests == [films.digests[place]]
    assert index.video_num_frames.tolist() == [1300]


def test_altered_probes_are_refused(tmp_path):
    with pytest.raises(InputError, match=f"{NAME} has no features of altered frames"):
        generate(tmp_path, NAME, "--new_probes=mirrored")
    with pytest.raises(InputError, match="made-up films have no altered frames"):
        FeatureBank(NAME, ["made_up_00001"], alterations=("mirrored",))


@pytest.mark.parametrize("other", ["made-up:5x1300,seed=4,features=24", "made-up:6x1300,seed=3,features=24"])
def test_other_films_than_those_of_the_index_are_refused(episodes, other):
    config = DatasetConfig(test_indices_file=f"{episodes}/test_indices.h5", video_path=other)
    with pytest.raises(InputError, match="is not what it was when these episodes were drawn"):
        open_split(config, "test")


def test_films_of_another_length_are_refused(episodes):
    other = NAME.replace("1300", "1299")
    config = DatasetConfig(test_indices_file=f"{episodes}/test_indices.h5", video_path=other)
    with pytest.raises(InputError, match="has 1299 frames and its index says 1300"):
        open_split(config, "test")


def test_run_is_trained_scored_and_traced(tmp_path, episodes, monkeypatch, capsys):
    text = config_text(episodes, n_epochs=2).replace(f"video_path: {episodes}", f"video_path: {NAME}")
    (tmp_path / "run.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py", "-f", "run.yaml"])
    train.main()  # with fresh episodes, whose probes need to know where shots begin
    assert "0.00 GB of made-up features in memory" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "runs/run", "--audit"])
    evaluate.main()
    evaluation = json.loads((tmp_path / "runs/run/evaluation.json").read_text())
    assert evaluation["features"] == f"no film: they are made up, {NAME}"
    assert evaluation["controls"]["nearest_frame"]["accuracy"] > 0.8
    assert evaluation["retention"]["by_lag"]
    assert evaluation["audit"]["films"]["shared_files"] == {"count": 0, "entries": [], "num_without_hash": 0}
    assert f"as features of no film: they are made up, {NAME}" in (tmp_path / "runs/run/report.html").read_text()
    links = list(provenance.chain(tmp_path / "runs/run"))
    assert all(link.is_intact for link in links)
    assert sum(f"made-up films, {NAME}: unchanged" in link.text for link in links) == 3
    other = NAME.replace("seed=3", "seed=4")
    links = provenance.chain(episodes / "test_indices.h5", settings=[f"dataset.video_path={other}"])
    assert [link.text for link in links if not link.is_intact] == [
        f"1 made-up films, {other}: 1 CHANGED since the episodes were drawn"
    ]


def test_benchmark_tells_films_and_made_up_ones_side_by_side(tmp_path, monkeypatch, capsys):
    folder = write_features(tmp_path / "features", [250, 20, 300], shot_length=100)  # noise: frames are not alike
    words = "--features", str(folder), "--made_up", "made-up:3x500", "--episodes", "2"
    monkeypatch.setattr(sys, "argv", ["made_up.py", *words])
    benchmarks.made_up.main()
    lines = capsys.readouterr().out.splitlines()
    rows = {cells[1].strip(): [cell.strip() for cell in cells[2:-1]] for line in lines if (cells := line.split("|"))}
    assert rows[""] == [str(folder), "made-up:2x275", "made-up:3x500"]
    assert rows["films, frames a film"] == ["2, 275", "2, 275", "3, 500"]
    of_noise, like_it, longer = (float(cell.split()[0]) for cell in rows["cosine in a shot, 1 frames apart"])
    assert of_noise < 0.1
    assert min(like_it, longer) > 0.9
    assert all(cell.startswith("AUC") for cell in rows["nearest frame, 5 clips of 60 frames"][:2])


def test_benchmark_refuses_a_folder_without_films(tmp_path, monkeypatch):
    for folder, told in ((tmp_path / "none", "no such folder"), (tmp_path, "holds no features of a film of 30 frames")):
        monkeypatch.setattr(sys, "argv", ["made_up.py", "--features", str(folder)])
        with pytest.raises(InputError, match=told):
            benchmarks.made_up.main()
