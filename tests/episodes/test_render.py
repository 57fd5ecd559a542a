"""recognition.render as a user calls it: what it writes, and what it refuses in one line."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from colour_films import KINDS, NUM_FRAMES, SUBSAMPLE, colour_episode
from conftest import refusal, run_script

from recognition import render as command
from recognition.common.command_line import InputError
from recognition.common.files import sha256
from recognition.episodes.drawing import Episodes
from recognition.episodes.index_file import EpisodeIndex, write_index
from recognition.episodes.rendering import BAR, HEIGHT, RIGHT, WRONG
from recognition.films.video import decode
from recognition.training.config import load_config
from recognition.training.runs import Run

ANSWERS = np.array([[2.5, 0.5, -1, -0.1, 7], [1, 1, 1, 1, 1]])


def write_twice(path: Path, index: EpisodeIndex) -> Path:
    """An index file of two episodes, the second with the clips of the first in another order."""
    study, *rest = index.episodes
    episodes = Episodes(np.concatenate([study, study[:, ::-1]]), *(np.concatenate([field, field]) for field in rest))
    write_index(EpisodeIndex(path, episodes, index.video_ids, np.full(3, NUM_FRAMES), index.spec), {})
    return path


@pytest.fixture
def folder(tmp_path: Path, colour_films: Path) -> Path:
    """A folder with films, features, an index of two episodes and a run scored on them."""
    for path in colour_films.iterdir():
        shutil.copy(path, tmp_path)
    write_twice(tmp_path / "test_indices.h5", colour_episode())
    write_twice(tmp_path / "train_indices.h5", colour_episode())
    (tmp_path / "run.yaml").write_text(f"""
dataset:
  train_indices_file: {tmp_path}/train_indices.h5
  test_indices_file: {tmp_path}/test_indices.h5
  video_path: {tmp_path}
model: {{model: transformer}}
""")
    run = Run(tmp_path / "run")
    run.start(load_config(tmp_path / "run.yaml"), {})
    run.save_answers(ANSWERS)
    return tmp_path


@pytest.fixture
def render(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[np.ndarray]]:
    """Call the script in this process; gives the frames of what it wrote."""

    def render(*words: str) -> list[np.ndarray]:
        given = [str(folder / "test_indices.h5"), f"--videos={folder}", f"--output={folder}/out/episode.mp4"]
        monkeypatch.setattr(sys, "argv", ["render.py", *given, *map(str, words)])
        command.main()
        return [image for image, _ in decode(folder / "out/episode.mp4")]

    return render


def test_script_writes_the_episode_it_is_asked_for(folder):
    words = "test_indices.h5", "--videos=.", "--episode=1", "--run=run"
    result = run_script("recognition.render", *words, cwd=folder)
    assert result.returncode == 0, result.stderr
    # Clips of 4 frames at 25, 20, 10 and 25 frames a second, every second one shown; five probes.
    assert result.stdout == "episode_1.mp4: 7 s, 16 study frames and 5 probes\n"
    frames = [image for image, _ in decode(folder / "episode_1.mp4")]
    assert len(frames) == 16 + 5 * 10
    strongest = [int(frame[HEIGHT // 2, frame.shape[1] // 2].argmax()) for frame in frames[:16:4]]
    assert strongest == [0, 2, 0, 1]  # the second episode's order
    assert not list(folder.glob(".*part"))


def has_colour(frame: np.ndarray, colour: tuple[int, int, int]) -> bool:
    """Whether words of a hue stand under the right half of a picture."""
    bar = frame[-BAR:, frame.shape[1] // 2 :].astype(int)
    strong = bar[np.ptp(bar, axis=2) > 40]
    return len(strong) > 30 and bool(np.corrcoef(strong.mean(0), colour)[0, 1] > 0.9)


@pytest.mark.parametrize("episode", [0, 1])
def test_answers_of_a_run_are_overlaid_on_its_probes(render, folder, episode):
    frames = render(f"--run={folder}/run", f"--episode={episode}")
    for probe, frame in enumerate(frames[16::10]):
        is_right = (ANSWERS[episode, probe] > 0) == (KINDS[probe] == "old")
        assert has_colour(frame, RIGHT) == is_right
        assert has_colour(frame, WRONG) == (not is_right)


def test_without_a_run_no_answer_is_shown(render):
    for frame in render():
        assert not has_colour(frame, RIGHT)
        assert not has_colour(frame, WRONG)


def test_subsample_of_the_index_can_be_changed(render):
    assert len(render("--subsample=3")) == 4 * 3 + 5 * 10
    assert len(render(f"--subsample={SUBSAMPLE}")) == 4 * 4 + 5 * 10


def test_features_may_lie_in_another_folder(render, folder):
    (folder / "features").mkdir()
    for path in folder.glob("[rgb]*.h5"):
        path.rename(folder / "features" / path.name)
    with pytest.raises(InputError, match=r"red\.h5: no such file"):
        render()
    assert len(render(f"--features={folder}/features")) == 66


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--episode=2"], "--episode 2: .*has 2 episodes, counted from 0"),
        (["--videos={}/absent"], "--videos .*absent: no such folder"),
        (["--run={}/absent"], "absent: not a run"),
    ],
)
def test_what_cannot_be_rendered_is_refused(render, folder, words, message):
    with pytest.raises(InputError, match=message):
        render(*(word.format(folder) for word in words))
    assert not list(folder.glob("out/*"))


def test_missing_film_is_refused_before_anything_is_written(render, folder):
    (folder / "green.mkv").unlink()
    with pytest.raises(InputError, match="holds no film green"):
        render()
    assert not list(folder.glob("out/*"))


def test_run_scored_on_other_episodes_is_refused(render, folder):
    index = colour_episode()
    index.episodes.probes[0, 0, 1] += 1  # as many episodes as before, but not the same
    write_twice(folder / "test_indices.h5", index)
    config = folder / "run/config.yaml"
    config.write_text(config.read_text().replace("test_indices.h5", "train_indices.h5"))
    with pytest.raises(InputError, match=r"was scored on .*train_indices\.h5, whose episodes are not those of .*test_"):
        render(f"--run={folder}/run")
    assert len(render()) == 66


def test_run_is_known_by_the_content_of_its_index_wherever_that_is(render, folder):
    """The index file has moved; config.yaml names a file that is no more."""
    config = folder / "run/config.yaml"
    config.write_text(config.read_text().replace("test_indices.h5", "gone.h5"))
    with pytest.raises(InputError, match="was scored on"):
        render(f"--run={folder}/run")
    Run(folder / "run").write_evaluation({"sha256": {"test": sha256(folder / "test_indices.h5")}})
    assert len(render(f"--run={folder}/run")) == 66


def test_answers_to_fewer_episodes_are_refused(render, folder):
    Run(folder / "run").save_answers(ANSWERS[:1])
    with pytest.raises(InputError, match="was scored on"):
        render(f"--run={folder}/run")


def test_run_that_was_not_scored_is_refused(render, folder):
    (folder / "run/answers.npz").unlink()
    with pytest.raises(InputError, match=r"answers\.npz: no such file; score the run with evaluate\.py first"):
        render(f"--run={folder}/run")


def test_index_that_does_not_say_how_many_frames_were_shown_needs_the_number(folder, monkeypatch):
    clips = np.array([[[4, 9, 0, -1], [20, 25, 1, -1], [6, 6, 0, 1], [9, 9, 1, 0]]])
    np.savez(folder / "published.npz", clips=clips, titles=np.array(["red.mp4", "green.mp4"]))
    words = [str(folder / "published.npz"), f"--videos={folder}", f"--output={folder}/episode.mp4"]
    monkeypatch.setattr(sys, "argv", ["render.py", *words])
    with pytest.raises(InputError, match=r"--subsample: must be given, .*published\.npz does not say it"):
        command.main()
    monkeypatch.setattr(sys, "argv", ["render.py", *words, "--subsample=2"])
    command.main()
    assert len(list(decode(folder / "episode.mp4"))) == 2 * 3 + 2 * 10


def test_output_must_be_named_as_what_it_is(folder):
    assert "must end in .mp4" in refusal(run_script("recognition.render", "x.h5", "--output=x.webm", cwd=folder))
