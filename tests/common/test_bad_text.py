"""Bad run configurations, overrides, lists of films and command lines: read rightly or refused in one line.

Not among them: merge keys (`<<`) that multiply, and numbers of episodes that fill any memory; both do as they say.
"""

import contextlib
import copy
import csv
import functools
import importlib
import io
import itertools
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT
from generated import NAMES, damaged, refused, texts, values
from hypothesis import assume, given
from hypothesis import strategies as st

from models import CONFIGS, PUBLISHED_NAMES
from recognition.common.command_line import InputError, run
from recognition.films.manifest import COLUMNS, Film, Manifest, make_row, read_films
from recognition.training.config import RunConfig, check_model, dump_config, load_config

SCRIPTS = (
    *("download_videos", "preprocess_videos", "generate_dataset", "recognition.memorability", "train", "evaluate"),
    *("recognition.render", "demo"),
)
OTHERS = {"sweeps", "backbones", "captioning"}  # which have tests of their own
FOLDER = ROOT / "config-files"
SHIPPED = sorted(path for path in FOLDER.rglob("*.yaml") if path.relative_to(FOLDER).parts[0] not in OTHERS)
BOMB = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in itertools.pairwise("abcdefghij")
)
TEXTS = (  # what YAML's own classes stumble over
    *("", "a", "- a", "? [a]\n: b", "&a [*a]", "&a {model: *a}", "model: {model: lstm, args: &a {d_embed: *a}}", "\0"),
    *("[" * 1000, "{" * 1000, "a: " * 500, "- " * 1000, "model: " + "1" * 5000, "model: 0x" + "f" * 5000, BOMB),
    *(f"{BOMB}model: {{model: lstm, args: *j}}", "model: 2001-99-99", "model: !!timestamp x", "model: !!int x"),
    *("model: !!float x", "model: !!binary é", "model: !!python/object/apply:os.system [touch x]", "!!set {a, b}"),
    *("model: {model: lstm, model: transformer}", "training: {seed: 1}\ntraining: {seed: 2}", "%YAML 9.9\n---\na: b"),
    *("---\nmodel: a\n---\nmodel: b", "<<: 1", "<<: [1]", "<<: &a {<<: *a}", "model: *nowhere", "\ufeffmodel: a"),
)


@functools.cache
def trees() -> list[dict[str, Any]]:
    """The settings of the shipped configurations and of every family, all keys filled in. Copy before a change."""
    configs = [check_model(load_config(path), CONFIGS, PUBLISHED_NAMES, path) for path in SHIPPED]
    return [config.model_dump(mode="json") for config in configs]


@st.composite
def wrong_trees(draw: st.DrawFn) -> dict[str, Any]:
    """Settings with one to three things wrong in them: values, keys that are unknown, misspelt or left out."""
    tree = copy.deepcopy(draw(st.sampled_from(trees())))
    for section in ("logging", "dataset", "training"):
        kept = draw(st.sets(st.sampled_from(sorted(tree[section])), max_size=2))
        tree[section] = {key: tree[section][key] for key in kept}
    for _ in range(draw(st.integers(1, 3))):
        place = tree
        while isinstance(inner := place[key := draw(st.sampled_from(sorted(place, key=str)))], dict) and inner:
            if draw(st.integers(0, 4)) == 0:
                break
            place = inner
        match draw(st.integers(0, 4)):
            case 0 if len(place) > 1:
                del place[key]
            case 1:
                place[draw(texts)] = draw(values)
            case 2:
                place[f"{key}"[:-1] + "_"] = place[key]
            case _:
                place[key] = draw(values)
    return tree


def read_config(path: Path, overrides: tuple[str, ...] = ()) -> RunConfig | None:
    """The configuration if it is right, which must then load back equal and have a folder among the runs."""
    try:
        config = check_model(load_config(path, overrides), CONFIGS, PUBLISHED_NAMES, path)
    except InputError as error:
        refused(error, path, *map(repr, overrides))
        return None
    assert (Path("runs") / config.name).parent == Path("runs")
    assert config.name not in (".", "..")
    copied = path.with_name("copy.yaml")
    copied.write_text(dump_config(config), encoding="utf-8")
    assert check_model(load_config(copied), CONFIGS, PUBLISHED_NAMES, copied) == config
    return config


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bad")


def test_settings_that_are_right_are_read(folder: Path):
    for tree in trees():
        (folder / "run.yaml").write_text(yaml.safe_dump(tree))
        assert read_config(folder / "run.yaml").model_dump(mode="json") == tree


@given(tree=wrong_trees())
def test_wrong_settings_are_refused_or_read_rightly(folder: Path, tree: dict[str, Any]):
    (folder / "run.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    read_config(folder / "run.yaml")


@given(text=st.sampled_from(TEXTS) | st.text() | st.binary() | values.map(yaml.safe_dump))
def test_any_text_is_a_configuration_or_refused(folder: Path, text: str | bytes):
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    (folder / "run.yaml").write_bytes(data)
    assert read_config(folder / "run.yaml") is None


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_text_that_yaml_stumbles_over_is_refused(folder: Path, text: str):
    (folder / "run.yaml").write_text(text, encoding="utf-8")
    assert read_config(folder / "run.yaml") is None
    assert sorted(path.name for path in folder.iterdir()) == ["copy.yaml", "run.yaml"] or not (folder / "x").exists()


def test_damaged_configurations_are_refused_or_read_rightly(folder: Path):
    for data in damaged(SHIPPED[0].read_bytes()):
        (folder / "run.yaml").write_bytes(data)
        read_config(folder / "run.yaml")


keys = st.sampled_from([f"{section}.{key}" for section, part in trees()[0].items() if part for key in part])


@given(
    st.lists(
        st.builds("{}{}={}".format, st.sampled_from(["", "--"]), keys | texts, st.sampled_from(TEXTS) | texts)
        | st.builds("{}.{}={}".format, keys, texts, texts)
        | texts,
        min_size=1,
        max_size=3,
    )
)
def test_wrong_overrides_are_refused_or_read_rightly(folder: Path, overrides: list[str]):
    (folder / "run.yaml").write_text("model: {model: lstm}\ndataset: {subsample: 3}")
    read_config(folder / "run.yaml", tuple(overrides))


@given(name=texts)
def test_a_run_s_folder_lies_among_the_runs_whatever_its_file_is_called(folder: Path, name: str):
    path = folder / f"{name}.yaml"
    assume(path.parent == folder)
    try:
        path.write_text("model: {model: lstm}")
    except (OSError, ValueError):  # no file can be called so
        assume(False)
    read_config(path)
    path.unlink()


cells = texts.filter(lambda text: "\0" not in text)  # Python 3.10 cannot write such a cell


@st.composite
def lists_of_films(draw: st.DrawFn) -> str:
    """A CSV file of films with one to three things wrong in it."""
    films = [list(Film(f"film_{k:06d}", f"https://example.org/{k}", f"Film, {k}")) for k in range(4)]
    table = [list(Film._fields), *films]
    for _ in range(draw(st.integers(1, 3))):
        row = draw(st.sampled_from(table))
        column = draw(st.integers(0, len(row)))
        match draw(st.integers(0, 5)):
            case 0:
                del row[column:]
            case 1:
                row.insert(column, draw(cells))
            case 2:
                table.append(row)
            case 3:
                table.remove(row) if len(table) > 1 else None
            case _ if column < len(row):
                row[column] = draw(cells)
    text = io.StringIO()
    csv.writer(text, delimiter=draw(st.sampled_from(",,,,;\t"))).writerows(table)
    return text.getvalue()


def read_list(path: Path) -> list[Film] | None:
    """The films if the list is right: told apart by ids that can be the names of files."""
    try:
        films = read_films(path)
    except InputError as error:
        refused(error, path)
        return None
    assert films
    assert len({film.video_id for film in films}) == len(films)
    assert all(re.fullmatch(r"[\w-]{11}", film.video_id, re.ASCII) for film in films)
    assert all(isinstance(text, str) for film in films for text in film)
    return films


@given(text=lists_of_films() | st.text() | st.binary())
def test_wrong_list_of_films_is_refused_or_read_rightly(folder: Path, text: str | bytes):
    (folder / "films.csv").write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    read_list(folder / "films.csv")


def test_damaged_lists_of_films_are_refused_or_read_rightly(folder: Path):
    for data in damaged(b"".join((ROOT / "sfd.csv").read_bytes().splitlines(keepends=True)[:9])):
        (folder / "films.csv").write_bytes(data)
        read_list(folder / "films.csv")


def test_list_with_a_character_of_code_0_is_refused(folder: Path):
    (folder / "films.csv").write_text("video_id,video_url,title\nfilm_000000,https://example.org/0,A\0film\n")
    assert read_list(folder / "films.csv") is None


@pytest.mark.parametrize("suffix", ["zip", "gz", "bz2", "xz", "zst", "tar"])
def test_list_of_films_is_never_unpacked(folder: Path, suffix: str):
    (folder / f"films.csv.{suffix}").write_text("no archive")
    assert read_list(folder / f"films.csv.{suffix}") is None


FILM = Film("film_000000", "https://example.org/0", "A film")


@st.composite
def manifests(draw: st.DrawFn) -> bytes:
    """A manifest.csv in which rows have wrong cells."""
    rows = [make_row(FILM, "done", file="film_000000.mp4", size_bytes="4"), make_row(FILM, "failed", reason="age")]
    for row in rows:
        for column in draw(st.sets(st.sampled_from(COLUMNS), max_size=3)):
            row[column] = draw(cells)
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS)
    table.writeheader()
    table.writerows(rows)
    return text.getvalue().encode("utf-8", "surrogatepass")


@given(data=manifests() | st.binary())
def test_wrong_manifest_is_refused_or_taken_for_what_it_says(folder: Path, data: bytes):
    videos = folder / "films" / "videos"
    videos.mkdir(parents=True, exist_ok=True)
    (videos / "film_000000.mp4").write_bytes(b"film")
    (videos.parent / "x").write_bytes(b"film")
    (videos / "manifest.csv").write_bytes(data)
    try:
        manifest = Manifest(videos, [FILM])
    except InputError as error:
        refused(error, videos / "manifest.csv")
    else:
        if manifest.is_done(FILM):
            assert manifest.rows[FILM.video_id]["file"] == "film_000000.mp4"
        manifest.record(make_row(FILM, "failed", reason="age"))
        again = Manifest(videos, [FILM])
        assert again.rows[FILM.video_id]["reason"] == "age"
        assert not again.is_done(FILM)
    assert sorted(path.name for path in videos.iterdir()) == ["film_000000.mp4", "manifest.csv"]
    assert sorted(path.name for path in videos.parent.iterdir()) == ["videos", "x"]


@functools.cache
def options(script: str) -> list[str]:
    """The options that a script's --help names."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as told:
        patch.setattr(sys, "argv", [f"{script}.py", "--help"])
        with contextlib.suppress(SystemExit):
            importlib.import_module(script).parse_arguments()
    return sorted(set(re.findall(r"(?<![\w-])--?[a-zA-Z]\w*", told.getvalue())) - {"-h", "--help"})


words = (
    texts | (st.integers() | st.floats()).map(str) | st.sampled_from(["far=1e308,near=1e308", "far=1,far=1"])
).filter(
    lambda word: "\0" not in word  # no system passes such a word
)


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    script = draw(st.sampled_from(SCRIPTS))
    option = st.sampled_from(options(script))
    misspelt = option.map(lambda name: name[:-1] + "x")
    word = st.tuples(option | misspelt, words).map("=".join) | option | words
    given_path = [str(SHIPPED[0])] if script == "train" else []
    return [script, *(["-f"] if script == "train" else []), *given_path, *draw(st.lists(word, max_size=4))]


def parse(words: list[str]) -> tuple[Any, str, int | None]:
    """What a script takes from its command line, what it says on stderr, and its status if it ends there."""
    module = importlib.import_module(words[0])
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(io.StringIO()) as told:
        patch.setattr(sys, "argv", words)
        parsed = []
        try:
            run(lambda: parsed.append(module.parse_arguments()))
        except SystemExit as end:
            return parsed[0] if parsed else None, told.getvalue(), end.code or None
    raise AssertionError("run did not exit")


@given(words=command_lines())
def test_wrong_command_line_is_refused_or_understood(words: list[str]):
    parsed, told, status = parse(words)
    if parsed is None:
        assert status == 2, told
        assert told.startswith(words[0])
        assert len(told.splitlines()) == 1
    elif words[0] == "generate_dataset":
        assert (parsed.output_dir / f"test_indices{parsed.suffix}.h5").parent == parsed.output_dir


@pytest.mark.parametrize("name", [name for name in NAMES if "\0" not in name])
def test_suffix_of_index_files_keeps_them_in_their_folder(name: str):
    parsed, told, status = parse(["generate_dataset", f"--suffix={name}"])
    if parsed is None:
        assert status == 2, told
        assert len(told.splitlines()) == 1
    else:
        assert (parsed.output_dir / f"test_indices{parsed.suffix}.h5").parent == parsed.output_dir
