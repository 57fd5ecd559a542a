"""Exported experiments: exactly the frames of the episode, in exactly their times and colours, and no answers."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from conftest import command, refusal, run_here
from numbered_films import COLOURS, NUM_FRAMES, RATES, SUBSAMPLE, number_in, ticks, write_episodes, write_films

from recognition.common.command_line import InputError
from recognition.films.video import decode
from recognition.people import jspsych
from recognition.people.key import read_key

KINDS = ("old", "far", "mirrored", "old", "far", "brightened", "old", "other_film")


@pytest.fixture(scope="session")
def numbered_films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Films with a number in each frame, their feature files and an index of two episodes."""
    folder = tmp_path_factory.mktemp("numbered")
    write_films(folder)
    study = [[[0, 0, 12], [1, 36, 48], [2, 3, 15], [2, 36, 48]], [[0, 14, 26], [1, 2, 14], [2, 18, 30], [0, 28, 40]]]
    probes = [[0, 3], [0, 44], [1, 38], [2, 14], [1, 30], [2, 5], [1, 47], [2, 33]]
    practice = [[0, 15], [0, 46], [1, 9], [2, 20], [1, 34], [2, 25], [0, 31], [2, 1]]
    write_episodes(folder, study, [probes, practice], KINDS)
    return folder


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks as an unpacked release of jsPsych."""
    folder = tmp_path_factory.mktemp("jspsych") / "dist"
    folder.mkdir()
    for name in ("jspsych.js", "jspsych.css", *(f"plugin-{name}.js" for name in jspsych.plugins())):
        (folder / name).write_text("// ours\n//# sourceMappingURL=https://far.away/x.map\n")
    return folder.parent


def export(folder: Path, library: Path, output: Path, *words: str):
    given = ("export", "test_indices.h5", "--videos=.", f"--jspsych={library}", f"--output={output}", "--workers=0")
    return run_here("recognition.participants", *given, *words, cwd=folder)


@pytest.fixture(scope="session")
def exported(numbered_films: Path, library: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same episode with all frames and with those that are studied."""
    folder, made = tmp_path_factory.mktemp("exported"), {}
    for frames in ("all", "studied"):
        result = export(numbered_films, library, made.setdefault(frames, folder / frames), f"--frames={frames}")
        assert result.returncode == 0, result.stderr
    return made


def told(experiment: Path) -> dict:
    """What the page is told."""
    script = (experiment / "timeline.js").read_text()
    return json.loads(script.removeprefix("const EXPERIMENT = ").removesuffix(";\n"))


@pytest.mark.parametrize(("frames", "step"), [("all", 1), ("studied", SUBSAMPLE)])
def test_clips_show_every_frame_of_the_episode_for_its_time(exported, frames, step):
    key = read_key(exported[frames].with_name(f"{frames}.key.json"))
    for clip in key.episodes["0"]["clips"]:
        [[name, start, end]] = clip["rows"]
        shown = list(decode(exported[frames] / clip["file"]))
        assert [number_in(picture) for picture, _ in shown] == list(range(start, end, step))
        times = np.array(ticks(name)) / 30000
        mean_s = (times[-1] - times[0]) / (NUM_FRAMES - 1)
        times = np.append(times, times[-1] + mean_s * np.arange(1, 4))
        due = times[start : end + 1 : step] - times[start]
        np.testing.assert_allclose([time_s for _, time_s in shown], due[:-1], atol=0.002)
        with av.open(str(exported[frames] / clip["file"])) as container:
            stream = container.streams.video[0]
            assert float(stream.duration * stream.time_base) == pytest.approx(due[-1], abs=0.002)  # the last one too
            assert not container.streams.audio
        assert clip["seconds"] == pytest.approx(due[-1], abs=0.002)
        assert clip["num_frames"] == len(shown)


def test_colours_are_tagged_and_within_four_of_the_films(exported):
    key = read_key(exported["all"].with_name("all.key.json"))
    for clip in key.episodes["0"]["clips"]:
        film = list(RATES).index(clip["rows"][0][0])
        with av.open(str(exported["all"] / clip["file"])) as container:
            codec = container.streams.video[0].codec_context
            assert (int(codec.colorspace), int(codec.color_range), codec.pix_fmt) == (6, 1, "yuv420p")
        for picture, _ in decode(exported["all"] / clip["file"]):
            np.testing.assert_allclose(picture[250:340, 100:500].reshape(-1, 3).mean(0), COLOURS[film], atol=4)


def test_probes_are_their_very_frames_altered_as_their_kinds_say(exported):
    probes = read_key(exported["all"].with_name("all.key.json")).episodes["0"]["probes"]
    assert [probe["kind"] for probe in probes] == list(KINDS)
    for probe in probes:
        picture = cv2.imread(str(exported["all"] / probe["file"]))[..., ::-1]
        assert picture.shape == (360, 640, 3)
        shown = picture[:, ::-1] if probe["kind"] == "mirrored" else picture
        assert number_in(shown) == probe["frame"]
        brighter = 1.5 if probe["kind"] == "brightened" else 1
        due = np.minimum(255, brighter * COLOURS[list(RATES).index(probe["video_id"])])
        np.testing.assert_allclose(picture[250:340, 100:500].reshape(-1, 3).mean(0), due, atol=4)


def test_nothing_in_the_folder_tells_old_from_new(exported):
    experiment = exported["all"]
    key = read_key(experiment.with_name("all.key.json"))
    assert not list(experiment.rglob("*key*.json"))
    secrets = {*RATES, 'is_old": true, "file', "no_cut", "far", "mirrored", "brightened", "other_film", "video_id"}
    text = json.dumps({name: value for name, value in told(experiment).items() if name not in ("text", "practice")})
    assert not [word for word in secrets if word in text.replace("is_far", "")]
    for path in (path for path in experiment.rglob("*") if path.is_file()):
        assert not [name for name in RATES if name.encode() in path.read_bytes()], path
        assert not [word for word in (*RATES, "old", "new") if word in path.relative_to(experiment).as_posix()]
    probes = [experiment / probe["file"] for probe in key.episodes["0"]["probes"]]
    assert [path.name for path in probes] == [f"{k:03d}.jpg" for k in range(len(probes))]
    assert len({path.stat().st_mtime for path in experiment.rglob("*")}) == 1
    assert all(set(probe) == {"file"} for probe in told(experiment)["episodes"]["0"]["probes"])


def test_practice_shows_nothing_of_the_exported_episode(exported):
    key = read_key(exported["all"].with_name("all.key.json"))
    rows = [row for clip in key.episodes["0"]["clips"] for row in clip["rows"]]
    practice = [row for clip in key.practice["clips"] for row in clip["rows"]]
    assert practice
    assert not [a for a in rows for b in practice if a[0] == b[0] and a[1] < b[2] and b[1] < a[2]]
    assert {probe["is_old"] for probe in told(exported["all"])["practice"]["probes"]} == {True, False}


def test_old_probes_lie_in_their_clips_at_the_time_told(exported):
    for experiment in exported.values():
        episode = read_key(experiment.with_name(f"{experiment.name}.key.json")).episodes["0"]
        for probe in (probe for probe in episode["probes"] if probe["is_old"]):
            clip = episode["clips"][probe["clip"]]
            shown = [(number_in(image), time_s) for image, time_s in decode(experiment / clip["file"])]
            last = max((number, time_s) for number, time_s in shown if number <= probe["frame"])
            assert probe["at_s"] == pytest.approx(last[1], abs=0.002)


def test_exporting_twice_gives_equal_bytes(exported, numbered_films, library, tmp_path):
    assert export(numbered_films, library, tmp_path / "again").returncode == 0
    for path in (path for path in exported["all"].rglob("*") if path.is_file()):
        assert (tmp_path / "again" / path.relative_to(exported["all"])).read_bytes() == path.read_bytes(), path


def test_source_maps_of_the_library_name_no_host(exported):
    for path in (exported["all"] / "lib").iterdir():
        assert "far.away" not in path.read_text()
    assert "MIT" in (exported["all"] / "lib" / "licences.txt").read_text()


def test_missing_library_is_told_in_one_line_and_nothing_is_left(numbered_films, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    message = refusal(export(numbered_films, tmp_path / "empty", tmp_path / "out"))
    assert "neither a node_modules with jspsych nor an unpacked release of jsPsych" in message
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(InputError, match=r"npm, which installs jsPsych, .*--jspsych"):
        jspsych.installed()
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


@pytest.mark.skipif(not shutil.which("npm"), reason="needs npm: apt-get install npm")
def test_npm_without_a_network_is_told_in_one_line_and_nothing_is_left(numbered_films, tmp_path, monkeypatch):
    for name, value in {"registry": "http://127.0.0.1:9", "fetch_retry_mintimeout": "10", "cache": tmp_path}.items():
        monkeypatch.setenv(f"npm_config_{name}", str(value))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    words = ("export", "test_indices.h5", "--videos=.", f"--output={tmp_path / 'made/out'}", "--workers=0")
    result = run_here("recognition.participants", *words, cwd=numbered_films)
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert re.search(
        r"npm could not install jsPsych \(.*ECONNREFUSED\); name a folder of it with --jspsych", result.stderr
    )
    assert list((tmp_path / "made").iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="looks for the part of a folder")
def test_export_that_is_stopped_leaves_nothing(numbered_films, library, tmp_path):
    words, environment = command("recognition.participants")
    given = ("export", "test_indices.h5", "--videos=.", f"--jspsych={library}", f"--output={tmp_path / 'made/out'}")
    options = {"cwd": numbered_films, "env": environment, "text": True, "stderr": subprocess.PIPE}
    with subprocess.Popen([*words, *given, "--workers=2", "--size=1920x1080"], **options) as process:
        end = time.monotonic() + 60
        while not list(tmp_path.glob("made/.out.*/stimuli/*/clips/*.mp4")):
            assert time.monotonic() < end
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        error = process.communicate(timeout=60)[1]
    assert "stopped by SIGTERM" in error.splitlines()[-1]
    assert list((tmp_path / "made").iterdir()) == []


def test_old_probes_that_no_clip_shows_are_told(numbered_films, library, tmp_path):
    result = export(numbered_films, library, tmp_path / "out", "--frames=studied", "--no_practice")
    assert "2 of 3 old probes lie between the frames that models study, and are never shown in a clip" in result.stderr
    assert "1 episode (4 clips, 8 pictures)" in result.stdout


def test_hostile_words_are_told_as_they_are(numbered_films, library, tmp_path):
    hostile = "</script><script>alert('1')</script>\u2028\"; alert(2) //"
    (tmp_path / "words.json").write_text(json.dumps({"title": hostile}))
    (tmp_path / "consent.txt").write_text(hostile)
    words = f"--text={tmp_path / 'words.json'}", f"--consent={tmp_path / 'consent.txt'}"
    assert export(numbered_films, library, tmp_path / "out", *words).returncode == 0
    assert told(tmp_path / "out")["text"]["title"] == told(tmp_path / "out")["text"]["consent"] == hostile


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ('{"titel": "x"}', "titel: no such word; did you mean 'title'?"),
        ('{"scale": ["x"]}', "scale: must be a list of 6 texts"),
        ("{", "not JSON"),
    ],
)
def test_wrong_words_are_told_with_their_name(numbered_films, library, tmp_path, words, message):
    (tmp_path / "words.json").write_text(words)
    assert message in refusal(export(numbered_films, library, tmp_path / "out", f"--text={tmp_path / 'words.json'}"))
    assert not (tmp_path / "out").exists()


def test_what_is_there_is_not_written_over(exported, numbered_films, library):
    assert "is there; name another --output" in refusal(export(numbered_films, library, exported["all"]))


def test_answers_to_questions_stay_in_the_key(numbered_films, library, tmp_path):
    (tmp_path / "q.csv").write_text("episode,after_clip,text,answer\n0,2,Was there a dog?,n\n")
    result = export(numbered_films, library, tmp_path / "out", f"--questions={tmp_path / 'q.csv'}", "--orders=3")
    assert result.returncode == 0, result.stderr
    episode = told(tmp_path / "out")["episodes"]["0"]
    assert episode["questions"] == [{"after_clip": 2, "text": "Was there a dog?", "keys": ["y", "n"]}]
    assert [sorted(order) for order in episode["orders"]] == [list(range(8))] * 3
    assert read_key(tmp_path / "out.key.json").episodes["0"]["questions"][0]["answer"] == "n"


def test_film_of_unusual_colours_is_said(numbered_films, library, tmp_path):
    for path in numbered_films.iterdir():
        shutil.copyfile(path, tmp_path / path.name)
    path = tmp_path / "film_at_25.mp4"
    pictures = [picture for picture, _ in decode(path)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 160, 90, "yuv420p"
        stream.codec_context.color_trc = 16
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())
    result = export(tmp_path, library, tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert "film_at_25.mp4 is HDR (PQ): its pictures look pale" in result.stderr


def test_edited_key_is_refused(exported, tmp_path):
    text = exported["all"].with_name("all.key.json").read_text()
    for before, after, message in (
        ('"is_old": true', '"is_old": false', "was edited"),
        ('"probes"', '"prbes"', "not a key"),
        ("}", "", "not a key"),
    ):
        (tmp_path / "x.key.json").write_text(text.replace(before, after, 1))
        with pytest.raises(InputError, match=message):
            read_key(tmp_path / "x.key.json")
    with pytest.raises(InputError, match="no such key"):
        read_key(tmp_path / "absent.key.json")


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forks")
def test_workers_make_the_same_files(exported, numbered_films, library, tmp_path):
    result = export(numbered_films, library, tmp_path / "out", "--workers=2")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out.key.json").read_text() == exported["all"].with_name("all.key.json").read_text()
