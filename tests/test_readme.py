"""README, CONTRIBUTING and docs/ against the project: commands are understood, files and links are there, the map is
whole."""

import functools
import importlib
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from conftest import ROOT

from models import MODELS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
PAGES = {path: path.read_text() for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")]}
OUTSIDE = ("pytest", "ruff")  # modules whose options are not ours to read


def commands(program: str, *pages: str) -> list[str]:
    """Every command of the pages that starts with `program`, from their blocks of code and between backticks."""
    found = []
    for page in pages or PAGES.values():
        blocks = re.findall(r"```bash\n(.*?)```", page, re.S)
        lines = [line.partition("#")[0].strip() for block in blocks for line in block.splitlines()]
        rest = re.sub(r"```.*?```", "", page, flags=re.S)
        inline = [" ".join(text.split()) for text in re.findall(r"`([^`]+)`", rest)]
        found += [re.sub(r"^(\w+=\S* )+", "", text) for text in lines + inline]
    return sorted({text for text in found if text.startswith(f"{program} ") and "..." not in text})


def load(script: str) -> ModuleType:
    """The module of a script such as docs/pictures.py, or of what stands behind python -m."""
    if script.endswith(".py"):
        spec = importlib.util.spec_from_file_location(Path(script).stem, ROOT / script)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    is_package = (ROOT / script.replace(".", "/")).is_dir()
    return importlib.import_module(f"{script}.__main__" if is_package else script)


@pytest.mark.parametrize("command", commands("python"))
def test_python_command_is_understood(command: str, monkeypatch: pytest.MonkeyPatch):
    script, *words = shlex.split(command.replace("python -m ", "python "))[1:]
    if script in OUTSIDE or script.startswith("-"):
        return
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", [script, *words])
    module = load(script)
    if hasattr(module, "parse_arguments"):
        with pytest.raises(SystemExit, match=r"^0$") if "--help" in words else nullcontext():
            module.parse_arguments()
    else:
        assert not words, "nothing here can tell whether they are understood"


@pytest.mark.parametrize("command", commands("torchrun"))
def test_torchrun_command_is_understood(command: str, monkeypatch: pytest.MonkeyPatch):
    from torch.distributed.run import get_args_parser

    args = get_args_parser().parse_args(shlex.split(command)[1:])
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", [args.training_script, *args.training_script_args])
    load(args.training_script).parse_arguments()


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not on this machine")
@pytest.mark.parametrize("command", commands("make"))
def test_make_command_is_understood(command: str):
    result = subprocess.run([*shlex.split(command), "--dry-run"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not on this machine")
def test_make_alone_lists_every_target_with_a_line():
    targets = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.M)[1].split()
    listed = {}
    for words in ([], ["help"]):
        told = subprocess.run(["make", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        listed = dict(re.findall(r"^make (\S+) +(\S.*)$", told, re.M))
        assert sorted(listed) == sorted(targets)
    assert listed["test"] == "lint and the test suite"


@pytest.mark.parametrize("command", commands("pixi"))
def test_pixi_command_is_understood(command: str):
    pixi = tomllib.loads((ROOT / "pixi.toml").read_text())
    words = shlex.split(command)
    if words[1] == "shell":
        return
    assert words[1] == "run"
    if words[2] == "-e":
        assert words[3] in pixi["environments"]
        del words[2:4]
    assert words[2] in pixi["tasks"]


def test_pages_show_commands_of_every_kind():
    assert len(commands("python", README)) > 5
    wanted = {"make demo", "make test", "make demo MODEL=mlstm", "make demo VIDEOS=my-films"}
    assert wanted <= set(commands("make", README))
    assert {"pixi run demo", "pixi run test"} <= set(commands("pixi", README))
    assert "python -m recognition.sweep config-files/sweeps/models.yaml --list" in commands("python")
    assert {"make test", "make test-oldest", "make audit"} <= set(commands("make", CONTRIBUTING))
    assert commands("torchrun")


def test_readme_can_be_read_in_three_minutes():
    assert len(README.splitlines()) <= 170


def test_map_names_everything_at_the_top_level():
    unnamed = {name for name in top_level() if not re.search(rf"`{re.escape(name)}\b", README)}
    assert unnamed == {"README.md", "LICENSE", ".gitignore"}


def test_map_names_every_room_and_every_command():
    rooms = {path.parent.name for path in ROOT.glob("recognition/*/__init__.py")}
    assert rooms
    assert {room for room in rooms if f"| `recognition/{room}/` |" not in README} == set()
    names = {path.stem for path in ROOT.glob("recognition/*.py")} - {"__init__", "__main__"}
    (line,) = (line for line in README.splitlines() if line.startswith("| `recognition/` |"))
    assert {name for name in names if f"`{name}`" not in line} == set()


def test_contributing_names_every_room():
    rooms = {path.parent.name for path in ROOT.glob("recognition/*/__init__.py")}
    assert {room for room in rooms if f"`{room}/`" not in CONTRIBUTING} == set()


@functools.cache
def top_level() -> frozenset[str]:
    """The names of files and folders at the top that git knows."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return frozenset(name.partition("/")[0] for name in listed.stdout.splitlines())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_are_there(page: Path):
    words = {
        word.strip("`,;:()'[]").rstrip(".,;:").partition("#")[0] for word in re.split(r"[\s\[\]()`=\"|]+", PAGES[page])
    }
    named = {word for word in words if "/" in word and word.partition("/")[0] in top_level()}
    absent = {path for path in named if not any(ROOT.glob(re.sub(r"[{<].*[}>]", "*", path).rstrip("/")))}
    assert absent == set()


def test_files_that_contributing_names_are_there():
    words = {word.strip("`,;:()").rstrip(".`,") for word in re.split(r"[\s\[\]()]+", CONTRIBUTING)}
    paths = {word for word in words if re.fullmatch(r"[\w.-]+(/[\w.-]*)*", word)}
    named = {path for path in paths if "/" in path or re.search(r"\.(md|py|toml|txt|yaml)$", path)}
    walks = {f"recognition/{name}.py" for name in ("episodes/drawing", "evaluation/signal_detection", "__main__")}
    assert {"README.md", "models/", "constraints-oldest.txt", "tests/common/test_bad_text.py", *walks} <= named
    rooms = {f"{path.parent.name}/" for path in ROOT.glob("recognition/*/__init__.py")}
    known = {".venv/bin/activate", *rooms}
    assert {path for path in named - known if not (ROOT / path).exists()} == set()


def links(page: Path) -> list[str]:
    """What a page links to and what pictures it shows, but for the web."""
    text = re.sub(r"```.*?```", "", PAGES[page], flags=re.S)
    found = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'<img[^>]*\bsrc="([^"]+)"', text)
    return [link for link in found if not re.match(r"https?://", link)]


def anchors(page: Path) -> set[str]:
    """The headings of a page as links write them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", PAGES[page], flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_a_page_lead_somewhere(page: Path):
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_linked_from_the_readme_or_from_one_that_is():
    reached, ahead = set(), [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        if page in PAGES and page not in reached:
            reached.add(page)
            ahead += [(page.parent / link.partition("#")[0]).resolve() for link in links(page)]
    assert {page.name for page in PAGES if page not in reached} == set()


def test_readme_shows_the_task_and_its_pictures_are_small():
    shown = {link for link in links(ROOT / "README.md") if re.search(r"\.(jpg|png|svg)$", link)}
    assert {"docs/task.jpg", "docs/scores.svg", "docs/retention.svg"} <= shown
    for path in (path for path in ROOT.glob("docs/*") if path.suffix in (".jpg", ".png", ".svg")):
        assert path.stat().st_size < 150_000, path.name


def test_every_model_is_in_the_tables():
    for page in (README, PAGES[ROOT / "docs" / "models.md"]):
        assert all(re.search(rf"^\| `{name}`", page, re.M) for name in [*MODELS, "mixed"])


def table(text: str) -> dict[str, list[str]]:
    """The rows of tables by their first cells, without intervals."""
    lines = re.findall(r"^\| (.+) \|$", re.sub(r" \[[\d., ]+\]", "", text), re.M)
    return {name: cells for name, *cells in (line.strip("| ").split(" | ") for line in lines)}


def test_scores_in_the_readme_are_those_of_the_page_on_models():
    page = PAGES[ROOT / "docs" / "models.md"].partition("### All models with one budget")[2]
    measured = table(page.partition("\n###")[0])
    told = table(README.partition("## Models")[2].partition("## What else")[0])
    assert list(told) == list(measured)
    assert [cells[1:] for cells in told.values()][1:] == [cells[:4] for cells in measured.values()][1:]


def test_hooks_before_a_commit_run_what_lint_runs():
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    entries = [hook["entry"] for hook in repository["hooks"]]
    assert {hook["language"] for hook in repository["hooks"]} == {"system"}  # nothing is fetched
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.M)[1]
    assert [line.strip().replace("$(python)", "python") for line in lint.splitlines()] == entries
