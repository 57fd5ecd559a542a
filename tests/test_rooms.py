"""Who imports whom, drawn from the code: arrows between the rooms run one way."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import ROOT

# Within recognition/ a folder imports from itself and from those before it.
ROOMS = ("common", "films", "features", "episodes", "training", "evaluation", "people", "streaming")
SCRIPTS = tuple(
    sorted(path.stem for path in ROOT.glob("*.py") if path.stem != "ur_lstm")
)  # that one is a layer to copy
PARTS = ("models", "recognition", "backbones", "captioning")


class Arrow(NamedTuple):
    """An import: the file and the line where it stands, and the module, in dots, that it takes."""

    file: Path  # relative to the root
    line: int
    target: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.target}"


def arrows(root: Path) -> Iterator[Arrow]:
    """All imports of the project's own code, wherever in a file they stand."""
    own = {*PARTS, *SCRIPTS, "benchmarks"}
    files = [*root.glob("*.py"), *(path for part in PARTS for path in (root / part).rglob("*.py"))]
    for path in sorted(files):
        file = path.relative_to(root)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            targets = []
            if isinstance(node, ast.Import):
                targets = [name.name for name in node.names]
            elif isinstance(node, ast.ImportFrom):
                folder = ".".join(file.parts[: len(file.parts) - node.level]) if node.level else ""
                module = ".".join(filter(None, (folder, node.module)))
                # `from recognition import films` takes a module, `from recognition.films.video import decode` a name.
                targets = [f"{module}.{name.name}" for name in node.names]
            yield from (Arrow(file, node.lineno, target) for target in targets if target.split(".")[0] in own)


def runs_back(arrow: Arrow) -> bool:
    """Whether an import goes against the one way."""
    place, target = arrow.file.with_suffix("").parts, tuple(arrow.target.split("."))
    if len(place) == 1 or (place[0] == "recognition" and len(place) == 2 and place[1] != "__init__"):
        return False  # a script or a command
    if target[0] in SCRIPTS or place[0] == "models":
        return target[0] != "models"
    if place[0] == "recognition":
        if target[0] == "recognition":
            return room(target) > room(place)
        return target[0] != "models"
    # backbones/ and captioning/: not each other, and of recognition/ what is at hand for any training
    if target[0] == "recognition":
        return room(target) > ROOMS.index("training")
    return target[0] not in ("models", place[0])


def room(module: tuple[str, ...]) -> int:
    """The place of a module's folder in ROOMS. Commands, which no room may import, stand behind all; the package
    itself, which is imported with each of them, before."""
    if module == ("recognition", "__init__"):
        return -1
    return ROOMS.index(module[1]) if len(module) > 1 and module[1] in ROOMS else len(ROOMS)


def test_no_import_runs_back():
    assert [str(arrow) for arrow in arrows(ROOT) if runs_back(arrow)] == []


def test_every_folder_of_recognition_is_a_room():
    folders = {path.parent.name for path in ROOT.glob("recognition/*/__init__.py")}
    assert folders <= set(ROOMS)


@pytest.mark.parametrize(
    ("file", "line", "is_wrong"),
    [
        ("recognition/episodes/audit.py", "def f():\n    from recognition.evaluation.controls import chance", True),
        ("recognition/episodes/audit.py", "if TYPE_CHECKING:\n    from recognition import training", True),
        ("recognition/episodes/audit.py", "from ..training import config", True),
        ("recognition/episodes/audit.py", "from ..features import feature_bank", False),
        ("recognition/episodes/audit.py", "import recognition.films.video as v", False),
        ("recognition/common/files.py", "import recognition.films", True),
        ("recognition/evaluation/pages/x.py", "from recognition.evaluation.pages import Told", False),
        ("recognition/training/loop.py", "from train import main", True),
        ("recognition/training/loop.py", "from recognition.sweep import main", True),
        ("recognition/sweep.py", "import train", False),
        ("recognition/sweep.py", "from recognition.evaluation import report", False),
        ("recognition/training/model.py", "from models import CONFIGS", False),
        ("recognition/training/model.py", "from backbones import pretrain", True),
        ("models/knn_memory.py", "from models.config import Count", False),
        ("models/knn_memory.py", "from recognition.common.files import sha256", True),
        ("models/knn_memory.py", "import evaluate", True),
        ("backbones/pretrain.py", "from recognition.training.loop import Loop", False),
        ("backbones/pretrain.py", "from recognition.evaluation.scores import capacity", True),
        ("backbones/pretrain.py", "from captioning import generate", True),
        ("recognition/__init__.py", "from recognition.common import files", True),
        ("recognition/common/files.py", "from benchmarks import measure", True),
        ("train.py", "from recognition.evaluation import report", False),
    ],
)
def test_wrong_arrows_are_told_from_right_ones(tmp_path: Path, file: str, line: str, is_wrong: bool):
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(line)
    [arrow] = arrows(tmp_path)
    assert runs_back(arrow) == is_wrong
    assert str(arrow).startswith(f"{file}:{line.count(chr(10)) + 1} imports ")
