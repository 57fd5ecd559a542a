"""The published people: files with every trap give the numbers that are known of one person, others are refused."""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import refusal, run_here
from nwb_files import get_column, set_column, write_nwb

from recognition.people.crowd import Crowd, read_crowd
from recognition.people.published import crowd_of, read_people
from recognition.people.published_file import read_published

COMMAND = ("recognition.participants", "published")
IMAGE_NAME, LATER_NAME = "sub-{0}/sub-{0}_ses-{0}_ecephys+image.nwb", "sub-{0}/sub-{0}_ses-{0}_ecephys.nwb"


@pytest.fixture(scope="session")
def sub4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of sub-4. Read only."""
    return write_nwb(tmp_path_factory.mktemp("nwb") / IMAGE_NAME.format(4))


@pytest.fixture
def folder(tmp_path: Path, sub4: Path) -> Path:
    """A folder with the file of sub-4, to change."""
    copy(sub4, tmp_path / "000207" / IMAGE_NAME.format(4))
    return tmp_path / "000207"


def copy(sub4: Path, path: Path, identifier: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(sub4, path)
    if identifier:
        with h5py.File(path, "r+") as file:
            del file["identifier"]
            file["identifier"] = identifier
    return path


def read(folder: Path) -> Crowd:
    """The people in a folder's files, without the pages that the command draws."""
    return crowd_of("zheng2022", read_people(folder)[0])


def test_sub_4_has_the_known_scores(folder):
    crowd = read(folder)
    [person] = crowd.persons
    scores = person["scores"]
    known = {"accuracy": 0.9261, "hit_rate": 0.9551, "false_alarm_rate": 0.1034, "d_prime": 2.8823, "auc": 0.9141}
    assert {name: round(scores[name], 4) for name in known} == known
    assert round(scores["criterion"], 4) == -0.2037
    assert (scores["n_old"], scores["n_new"]) == (89, 87)
    assert (round(scores["zroc"]["slope"], 4), round(scores["zroc"]["intercept"], 4)) == (0.8189, 1.8726)
    assert round(person["median_rt_s"], 3) == 2.918
    by_kind = {
        row["kind"]: [round(row[name], 4) for name in ("hit_rate", "false_alarm_rate", "d_prime")]
        for row in person["by_clip_kind"]
    }
    assert by_kind == {
        "no_cut": [0.9667, 0.0667, 3.0614],
        "cut": [0.9, 0.069, 2.5942],
        "other_film": [1.0, 0.1786, 3.0072],
    }
    assert [row["num_probes"] for row in person["by_clip_kind"]] == [60, 59, 57]


def test_sub_4_has_the_known_order_scores(folder):
    order = read(folder).persons[0]["order"]
    assert (round(order["accuracy"], 4), order["num_pairs"], round(order["median_rt_s"], 3)) == (0.6517, 178, 3.594)
    by_kind = {row["kind"]: (round(row["accuracy"], 4), row["num_pairs"]) for row in order["by_clip_kind"]}
    assert by_kind == {"no_cut": (0.7288, 59), "cut": (0.7627, 59), "other_film": (0.4667, 60)}
    by_distance = {row["distance"]: (round(row["accuracy"], 4), row["num_pairs"]) for row in order["by_distance"]}
    assert by_distance == {"near": (0.618, 89), "far": (0.6854, 89)}, "one name says shortA"


def test_accuracy_of_grades_is_as_known(folder):
    crowd = read(folder)
    right = {}
    for grade in (3, 2, 1):
        chosen = np.abs(crowd.answer) == grade
        right[grade] = round(float(((crowd.answer > 0) == crowd.is_old)[chosen].mean()), 4), int(chosen.sum())
    assert right == {3: (0.9014, 71), 2: (0.9375, 80), 1: (0.96, 25)}


def test_the_folder_has_what_a_comparison_reads(folder):
    result = run_here(*COMMAND, folder, "--output=zheng2022", cwd=folder.parent)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("1 of 1 people count: accuracy 0.926, d' 2.88; report: ")
    crowd = read_crowd(folder.parent / "zheng2022")
    assert crowd.persons == read(folder).persons
    assert (crowd.name, crowd.index_sha256, crowd.episode.tolist()) == ("zheng2022", None, [-1])
    assert "CC BY 4.0" in crowd.source
    told = json.loads((folder.parent / "zheng2022/evaluation.json").read_text())
    assert (told["num_persons"], round(told["d_prime"], 2)) == (1, 2.88)
    assert "<html" in (folder.parent / "zheng2022/report.html").read_text()


def test_rows_without_a_valid_answer_count_nowhere(sub4):
    person = read_published(sub4)
    missing = get_column(sub4, "recognition", "resp_value") == 1
    assert np.flatnonzero(missing).tolist() == [0, 1, 2, 4], "their accuracy says 1, and their RT 0"
    for values in (person.answer, person.rt_ms):
        assert (np.isnan(values) == missing).all()
    assert np.isnan(person.order_answer).sum() == 2, "their leftright says 1"


def test_no_answer_may_also_be_said_as_the_description_has_it(folder):
    path = folder / IMAGE_NAME.format(4)
    told = get_column(path, "recognition", "resp_value")
    set_column(path, "recognition", "resp_value", np.where(told == 1, -1, told))
    assert read(folder).persons[0]["scores"]["n_old"] == 89


def test_response_times_count_from_onset_though_files_count_from_the_end(folder):
    path = folder / IMAGE_NAME.format(4)
    rt_s = get_column(path, "recognition", "RT")
    rt_s[3] = -0.5
    set_column(path, "recognition", "RT", rt_s)
    assert read_published(path).rt_ms[3] == pytest.approx(1000 * (1259.136977 - 1257.608554) - 500, abs=0.1)


def test_lags_are_known_for_old_pictures_of_clips_whose_names_are_whole(sub4):
    person = read_published(sub4)
    names = [name.decode() for name in get_column(sub4, "recognition", "frameName")]
    is_known = ~np.isnan(person.lag_s)
    assert is_known.tolist() == [name.startswith("NB") and "foil" not in name for name in names]
    middle_s = (179.292626 + 186.163696) / 2  # of NB_4
    place = next(k for k, name in enumerate(names) if name.startswith("NB_4_") and "foil" not in name)
    shown_s = get_column(sub4, "recognition", "start_time")[place]
    assert person.lag_s[place] == pytest.approx(shown_s - middle_s, abs=0.001)


def test_names_as_bytes_of_fixed_length_are_read_alike(folder):
    path = folder / IMAGE_NAME.format(4)
    before = read_published(path)
    for table, column in (("encoding", "Clip_name"), ("recognition", "frameName"), ("timediscrimination", "frameName")):
        set_column(path, table, column, get_column(path, table, column).astype("S"))
    after = read_published(path)
    assert (after.clip_kind, after.pairs) == (before.clip_kind, before.pairs)
    np.testing.assert_array_equal(after.lag_s, before.lag_s)


def test_files_of_both_naming_schemes_come_in_order_of_their_numbers(folder, sub4):
    copy(sub4, folder / LATER_NAME.format(10), "TWH110_CBID10")
    copy(sub4, folder / LATER_NAME.format(2), "TWH099_CBID2")
    (folder / "sub-4/._sub-4_ses-4_ecephys.nwb").write_bytes(b"what macOS leaves")
    assert read(folder).id.tolist() == ["TWH099_CBID2", "TWH103_CBID4", "TWH110_CBID10"]


def test_nobody_is_counted_twice(folder, sub4):
    copy(sub4, folder / LATER_NAME.format(4))
    copy(sub4, folder / LATER_NAME.format(9))  # as other data sets number the same people
    people, again = read_people(folder)
    assert [person.identifier for person in people] == ["TWH103_CBID4"]
    assert [line.count("TWH103_CBID4 again") for line in again] == [1, 1]


def test_a_person_with_fewer_pictures_has_no_answer_to_the_others(folder, sub4):
    path = copy(sub4, folder / LATER_NAME.format(5), "short")
    with h5py.File(path, "r+") as file:
        group = file["intervals/recognition_table"]
        for name in list(group):
            values = group[name][:170]
            del group[name]
            group[name] = values
    crowd = read(folder)
    assert np.isnan(crowd.answer[1, 170:]).all()
    assert crowd.persons[1]["scores"]["n_old"] + crowd.persons[1]["scores"]["n_new"] == 166


def test_who_answered_too_little_is_left_out_with_the_reason(folder, sub4):
    path = copy(sub4, folder / LATER_NAME.format(5), "sleepy")
    values = get_column(path, "recognition", "resp_value")
    values[:60] = 1
    set_column(path, "recognition", "resp_value", values)
    assert [person["left_out"] for person in read(folder).persons] == [None, "67 % of the pictures answered"]


def test_names_tell_kinds_of_clips_whatever_their_numbers_count_from(folder):
    path = folder / IMAGE_NAME.format(4)
    before = read_published(path)
    set_column(path, "recognition", "boundary_type", get_column(path, "recognition", "boundary_type") - 1)
    after = read_published(path)
    assert before.flags == []
    assert after.flags == ["180 names tell another kind of clip than boundary_type"]
    assert after.clip_kind == before.clip_kind


BROKEN = {
    "unknown answer": ("recognition", "resp_value", 8, "resp_value is 8"),
    "answer between two": ("timediscrimination", "resp_value", 2.5, "resp_value is 2.5"),
    "neither old nor new": ("recognition", "stimuli_type", 2, "stimuli_type is 2"),
    "neither left nor right": ("timediscrimination", "key", 0, "key is 0"),
    "another study's picture": ("recognition", "frameName", b"face_1.png", "face_1.png"),
}


@pytest.mark.parametrize("trouble", BROKEN)
def test_values_that_stand_for_nothing_are_refused(folder, trouble):
    table, column, value, told = BROKEN[trouble]
    values = get_column(folder / IMAGE_NAME.format(4), table, column)
    values = values.astype(float) if isinstance(value, float) else values
    values[7] = value
    set_column(folder / IMAGE_NAME.format(4), table, column, values)
    message = refusal(run_here(*COMMAND, folder, "--output=out", cwd=folder.parent))
    assert told in message
    assert "ecephys+image.nwb" in message
    assert not (folder.parent / "out").exists()


@pytest.mark.parametrize("trouble", ["cut off", "text", "other HDF5", "shorter column", "link", "no identifier"])
def test_damaged_and_foreign_files_are_refused_in_one_line(folder, trouble):
    path = folder / IMAGE_NAME.format(4)
    if trouble == "cut off":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif trouble == "text":
        path.write_text("/annex/objects/SHA256E-s1433600--1f6d.nwb\n")
    elif trouble == "other HDF5":
        with h5py.File(path, "w") as file:
            file["identifier"] = "another study"
    elif trouble == "shorter column":
        set_column(path, "recognition", "RT", get_column(path, "recognition", "RT")[:-1])
    elif trouble == "link":
        path.unlink()
        path.symlink_to("../.git/annex/objects/nowhere")
    else:
        with h5py.File(path, "r+") as file:
            del file["identifier"]
    assert "ecephys+image.nwb" in refusal(run_here(*COMMAND, folder, "--output=out", cwd=folder.parent))
    assert not (folder.parent / "out").exists()


def test_a_folder_without_files_says_what_to_download(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "nowhere"):
        assert "DANDI 000207" in refusal(run_here(*COMMAND, name, "--output=out", cwd=tmp_path))
