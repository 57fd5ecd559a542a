"""Content from outside is never run: no code from files or in names, neither in Python nor in a browser."""

import ast
import json
import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT
from jinja2 import Environment, nodes

import evaluate
from models import CONFIGS, build_model
from models.recogniser import Layout
from recognition.common.plotting import svg
from recognition.evaluation import figures as draw
from recognition.evaluation.comparison import compare
from recognition.evaluation.gallery import OUTCOMES, Exhibit
from recognition.evaluation.report import comparison_figures, render_comparison, render_report, report_figures
from recognition.training import config as config_module
from recognition.training.config import RunConfig, load_config
from recognition.training.runs import Run

SOURCES = sorted(
    path for path in ROOT.rglob("*.py") if not {"tests", ".venv"} & set(path.relative_to(ROOT).parts)
    and not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
)  # fmt: skip
TEMPLATES = sorted(
    path for part in ("recognition", "backbones", "captioning") for path in (ROOT / part).rglob("*.html")
)

UNPICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle"}
NEVER = {  # functions, by the end of their dotted names
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "read_pickle", "unsafe_load", "full_load"),
    *("yaml.load_all", "yaml.unsafe_load_all", "yaml.full_load_all", "torch.jit.load", "torch.hub.load", "numpy.loads"),
}
WITH = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False), "numpy.load": ("allow_pickle", False)}
LOADERS = {"SafeLoader", "CSafeLoader", "_Loader"}  # the last is shown to be safe below


def dotted(node: ast.AST) -> str:
    """A name such as "torch.load"; empty for anything else."""
    if isinstance(node, ast.Attribute):
        inner = dotted(node.value)
        return f"{inner}.{node.attr}" if inner else ""
    return node.id if isinstance(node, ast.Name) else ""


def faults(text: str) -> Iterator[str]:
    """What in a source might run code that it read, or hand words to a shell."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [name.name for name in node.names]
            yield from (f"imports {name}" for name in modules if name.partition(".")[0] in UNPICKLERS)
            if isinstance(node, ast.ImportFrom) and modules[0] in ("torch", "numpy", "yaml", "os"):
                names = {name.name for name in node.names}
                yield from (f"takes {name} from {modules[0]}" for name in names & {"load", "system", "popen"})
        if not isinstance(node, ast.Call):
            continue
        name, given = dotted(node.func), {keyword.arg: keyword.value for keyword in node.keywords}
        if any(name == end or name.endswith(f".{end}") for end in NEVER - {"eval", "compile"}) or name in NEVER:
            yield f"calls {name}"
        if name in WITH:
            option, due = WITH[name]
            if not (isinstance(value := given.get(option), ast.Constant) and value.value is due):
                yield f"calls {name} without {option}={due}"
        if name == "yaml.load":
            loader = given.get("Loader", node.args[1] if len(node.args) > 1 else None)
            if loader is None or dotted(loader).rpartition(".")[2] not in LOADERS:
                yield "calls yaml.load without a safe loader"
        if "shell" in given and not (isinstance(given["shell"], ast.Constant) and given["shell"].value is False):
            yield f"calls {name} with a shell"
        if name == "Markup" and not text.startswith('"""What all figures share'):  # drawn SVG
            yield "marks text as safe HTML"


@pytest.mark.parametrize(
    "text",
    [
        *("import pickle", "from pickle import loads", "import joblib.numpy_pickle", "from shelve import open"),
        *("torch.load(path)", "torch.load(path, weights_only=False)", "torch.load(path, weights_only=yes)"),
        *("np.load(path)", "np.load(path, allow_pickle=True)", "numpy.load(path)", "from torch import load"),
        *(
            "yaml.load(text)",
            "yaml.load(text, yaml.Loader)",
            "yaml.load(text, Loader=FullLoader)",
            "yaml.unsafe_load(x)",
        ),
        *("os.system(word)", "from os import system", "subprocess.run(word, shell=True)", "run(word, shell=is_long)"),
        *("eval(text)", "exec(text)", "pd.read_pickle(path)", "torch.jit.load(path)", "Markup(text)"),
    ],
)
def test_fault_would_be_found(text: str):
    assert list(faults(text))


@pytest.mark.parametrize(
    "text",
    [
        *("model.eval()", "re.compile(x)", "torch.load(x, weights_only=True)", "np.load(x, allow_pickle=False)"),
        *("yaml.load(x, _Loader)", "yaml.safe_load(x)", "subprocess.run(words, check=True)", "torch.compile(model)"),
    ],
)
def test_what_is_safe_is_no_fault(text: str):
    assert not list(faults(text))


def test_no_source_runs_what_it_reads():
    assert len(SOURCES) > 50
    found = {str(path.relative_to(ROOT)): list(faults(path.read_text())) for path in SOURCES}
    assert found.pop("recognition/common/workers.py") == [
        "imports pickle"
    ]  # of its own forks, through a socket without a name
    # Its reader makes arrays, numbers and text alone, by code of its own: tests/captioning/test_safe_rows.py.
    assert found.pop("captioning/safe_pickle.py") == ["imports pickle"]
    assert {path: what for path, what in found.items() if what} == {}


def test_yaml_is_read_by_a_safe_loader():
    assert issubclass(config_module._Loader, yaml.SafeLoader)
    assert not issubclass(config_module._Loader, yaml.FullLoader | yaml.UnsafeLoader)


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: f"{path.parts[-3]}-{path.name}")
def test_template_marks_nothing_as_safe(path: Path):
    tree = Environment().parse(path.read_text())
    assert not {node.name for node in tree.find_all(nodes.Filter)} & {"safe", "forceescape", "xmlattr"}
    assert not list(tree.find_all((nodes.MarkSafe, nodes.MarkSafeIfAutoescape, nodes.ScopedEvalContextModifier)))
    for attribute in re.findall(r"""\s(\w+)=(?!["'])""", re.sub(r"{[{%].*?[%}]}", "", path.read_text())):
        pytest.fail(f"{attribute} has a value without quotes, which escaping does not protect")


HOSTILE = """<script>alert(1)</script>"><img src=x onerror=alert(1)>'-->]]></style>{{ 7 * 7 }}&amp;"""


LOADING = {"src", "srcset", "href", "action", "formaction", "data", "poster", "background", "ping"}


class Page(HTMLParser):
    """The text of a page, its elements, and attributes that run code or load something."""

    def __init__(self, text: str):
        super().__init__()
        self.words, self.elements, self.attributes, self.comments = [], set(), [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attributes]

    def handle_data(self, data):
        self.words.append(data)

    def handle_comment(self, data):
        self.comments.append(data)


def assert_harmless(page: str) -> str:
    """Fail if anything in a page would run or be loaded; returns its text."""
    found = Page(page)
    assert not found.elements & {"script", "iframe", "object", "embed", "base", "form", "foreignobject"}
    for tag, name, value in found.attributes:
        assert not name.startswith("on"), (tag, name, value)
        assert name.rpartition(":")[2] not in LOADING or value.startswith(("#", "data:")), (tag, name, value)
    return "".join(found.words)


def plant(tree: Any, kept: tuple[str, ...]) -> Any:
    """The same data with every text in it hostile, but those that are looked up by the report's own tables."""
    if isinstance(tree, dict):
        return {key: value if key in kept else plant(value, kept) for key, value in tree.items()}
    if isinstance(tree, list):
        return [plant(value, kept) for value in tree]
    return f"{tree} {HOSTILE}" if isinstance(tree, str) else tree


@pytest.fixture(scope="module")
def evaluated(small_bank: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, dict, list[dict]]:
    """What evaluate.py tells of a run: settings, scores, metrics."""
    folder = tmp_path_factory.mktemp("evaluated")
    (folder / "run.yaml").write_text(f"""
dataset: {{train_indices_file: {small_bank}/train_indices.h5, test_indices_file: {small_bank}/test_indices.h5,
  video_path: {small_bank}}}
model: {{model: lstm, args: {{d_embed: 8}}}}
training: {{num_workers: 0, device: cpu}}
""")
    config, run = load_config(folder / "run.yaml"), Run(folder / "runs" / "run")
    run.start(config, {})
    run.save_best(build_model("lstm", CONFIGS["lstm"](d_embed=8), Layout(16, 8)).state_dict())
    metrics = {f"{split}_{score}": 0.5 for split in ("train", "validation") for score in ("loss", "accuracy")}
    run.append_metrics({"epoch": 1, "step": 1, "seconds": 1.0, **metrics})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["evaluate.py", str(run.path)])
        evaluate.main()
    return config, json.loads(run.evaluation_file.read_text()), run.read_metrics()


def test_hostile_texts_stay_text_in_a_report(evaluated):
    config, evaluation, metrics = evaluated
    hostile = plant(evaluation, ("kind", "of", "labels", "label"))
    entry = {"films": [HOSTILE, HOSTILE], "splits": [HOSTILE], "reason": HOSTILE}
    findings = ("shared_films", "shared_files", "near_duplicates", "common_frames")
    hostile["audit"] = {"lines": [HOSTILE], "films": {name: {"count": 1, "entries": [entry]} for name in findings}}
    hostile["other_episodes"] = [{**hostile, "file": HOSTILE, "is_other_length": False}]
    exhibit = Exhibit("far", 1.0, 0.5, "data:image/jpeg;base64,", "data:image/jpeg;base64,", HOSTILE, HOSTILE)
    config = config.model_copy(
        update={"name": HOSTILE, "logging": config.logging.model_copy(update={"wandb_project": HOSTILE})}
    )
    gallery = {outcome: [exhibit] for outcome in OUTCOMES}
    page = render_report(config, hostile, metrics, report_figures(hostile, metrics), gallery)
    text = assert_harmless(page)
    assert text.count(HOSTILE) > 20
    assert HOSTILE in assert_harmless(render_report(config, evaluation, metrics, {}, HOSTILE))


def test_hostile_texts_stay_text_in_a_comparison(evaluated):
    config, evaluation, _ = evaluated
    dataset = config.dataset.model_copy(update={"test_indices_file": HOSTILE})
    runs = [config.model_copy(update={"name": f"{k}{HOSTILE}"}) for k in range(2)]
    others = {**evaluation, "sha256": {"test": "of other episodes"}, "trained_on": {}}
    comparison = compare([(runs[0], evaluation), (runs[1].model_copy(update={"dataset": dataset}), others)])
    assert comparison.notes
    text = assert_harmless(render_comparison(comparison, comparison_figures(comparison)))
    assert text.count(HOSTILE) >= 3


@pytest.mark.parametrize("name", [HOSTILE, "--><script>alert(1)</script>", "]]><script/>", "$x<b>$", "a\x1bb"])
def test_hostile_name_in_a_figure_stays_text(name: str):
    row = {"name": name, "accuracy": 0.5, "accuracy_values": [0.5], "accuracy_interval": None}
    point = {"name": name, "state_bytes": 4, "d_prime": 1.0, "d_prime_interval": None, "is_control": False}
    for figure in (draw.scores_by_model([row], "accuracy"), draw.memory_per_byte([point])):
        figure.axes[0].set_title(name.replace("$", r"\$"))
        page = svg("figure", figure)
        assert_harmless(page)
        assert "<b" not in page
        assert "<script" not in page


def test_weights_with_code_in_them_are_refused(tmp_path: Path):
    class Exploit:
        def __reduce__(self):
            return open, (str(tmp_path / "made"), "w")

    run = Run(tmp_path)
    run.last_file.parent.mkdir(parents=True)
    torch.save({"model": Exploit()}, run.last_file)
    with pytest.raises(ValueError, match="cannot be read"):
        run.load_last()
    np.savez(run.answers_file, answers=np.array([Exploit()], dtype=object))
    with pytest.raises(ValueError, match="cannot be read"):
        run.read_answers()
    assert not (tmp_path / "made").exists()
