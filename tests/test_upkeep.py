"""What keeps the project in order over time: licences, lowest versions, known vulnerabilities, short functions."""

import ast
import importlib.metadata
import re
import runpy
import subprocess
import time

import pytest
from conftest import ROOT
from test_manifests import read_toml, required

LISTED = re.findall(r"^\| `([\w.-]+)` \| (.*) \|$", (ROOT / "docs" / "licences.md").read_text(), re.M)
KNOWN = {
    *("MIT", "MIT-CMU", "BSD", "BSD-2-Clause", "BSD-3-Clause", "0BSD", "Apache-2.0", "PSF-2.0", "MPL-2.0", "ISC"),
    *("Zlib", "CC0-1.0", "BSL-1.0", "Unlicense", "LLVM-exception", "public domain"),
    "CNRI-Python",  # an early Python's, permissive
}
COPYLEFT = {"mutagen": "GPL-2.0-or-later"}
MOST_LINES, MOST_PARAMETERS = 50, 6
KERNELS = ("_compile", "triton.jit")  # what makes one of a function, by numba or Triton
PARTS = ("models", "recognition", "backbones", "captioning", "benchmarks")
ROOMS = ("recognition", "models", "backbones", "captioning", "benchmarks", "docs")  # of these the ones that are there


def pins(name: str) -> dict[str, list[str]]:
    """The packages of a constraints file with the versions that it gives them, for one Python or another."""
    found: dict[str, list[str]] = {}
    for package, version in re.findall(r"^([\w.-]+)==([^\s;]+)", (ROOT / name).read_text(), re.M):
        found.setdefault(package, []).append(version)
    return found


def test_list_of_licences_names_every_pinned_package_once():
    assert [name for name, _ in LISTED] == list(pins("constraints.txt"))


def test_every_licence_is_known_and_none_is_copyleft_but_those_spoken_of():
    for name, licence in LISTED:
        assert name in COPYLEFT or set(re.split(" AND | OR | WITH ", licence)) <= KNOWN, f"{name}: {licence!r}"
    assert {name: licence for name, licence in LISTED if "GPL" in licence} == COPYLEFT
    text = (ROOT / "docs" / "licences.md").read_text()
    assert all(f"- `{name}` (GPL)" in text for name in COPYLEFT)


def test_list_of_licences_agrees_with_what_is_installed():
    licence = runpy.run_path(str(ROOT / "docs" / "licences.py"))["licence"]
    listed, compared = dict(LISTED), 0
    for name, versions in pins("constraints.txt").items():
        try:
            package = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # another Python needs it
        if package.version.partition("+")[0] == versions[0]:  # others may have another licence, or word it otherwise
            assert licence(package) == listed[name], name
            compared += 1
    if compared == 0:
        pytest.skip("none of the pinned versions is installed here")


def test_no_source_imports_a_copyleft_package():
    sources = [*ROOT.glob("*.py"), *(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))]
    for path in sources:
        assert not re.search(rf"^\s*(import|from) ({'|'.join(COPYLEFT)})\b", path.read_text(), re.M), path


def test_oldest_constraints_pin_the_lower_bound_of_every_dependency():
    project = read_toml("pyproject.toml")["project"]
    oldest = {name: versions[0] for name, versions in pins("constraints-oldest.txt").items()}
    lines = project["dependencies"] + project["optional-dependencies"]["dev"]
    bounds = {name: re.search(r">=([\d.]+)", bound)[1] for name, bound in required(lines).items()}
    assert oldest.keys() == bounds.keys()
    for name, bound in bounds.items():
        assert f"{oldest[name]}.".startswith(f"{bound}."), f"{name}=={oldest[name]} is not the oldest of >={bound}"


@pytest.mark.parametrize(
    ("command", "status", "said"),
    [
        ("echo 'No known vulnerabilities found'", 0, "audit: no known vulnerability"),
        ("echo 'Found 1 known vulnerability in 1 package' >&2; exit 1", 1, "Found 1 known vulnerability"),
        ("echo 'Found 12 known vulnerabilities in 3 packages' >&2; exit 1", 1, "Found 12 known"),
        ("echo 'ERROR: jinja2: Dependency not found on PyPI' >&2; exit 1", 0, "SKIPPED.*not found on PyPI"),
        ("no-such-command", 0, "SKIPPED.*status 127"),
        ("sleep 60", 0, "SKIPPED.*status 124"),
    ],
)
def test_ci_fails_for_a_vulnerability_and_goes_on_where_nobody_can_be_asked(command: str, status: int, said: str):
    started = time.monotonic()
    result = subprocess.run(
        ["bash", ROOT / ".ci" / "audit", "sh", "-c", command],
        env={"PATH": "/usr/bin:/bin", "AUDIT_LIMIT_S": "2"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == status
    assert re.search(said, result.stdout)
    assert time.monotonic() - started < 30


def wrongs(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """What makes a function too much to read: code of many lines, its docstring not counted, or many parameters.

    A parser's arguments are a table, which may be long. A constructor's parameters are settings and a kernel's are
    arrays, of which there may be many; nor do the tensors of any function count, which are letters of its formula.
    """
    found = []
    body = function.body[1:] if ast.get_docstring(function) else function.body
    num_lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
    if num_lines > MOST_LINES and function.name != "parse_arguments":
        found.append(f"{num_lines} lines")
    parameters = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    told = [(one.arg, ast.unparse(one.annotation) if one.annotation else "") for one in parameters]
    num = sum(name not in ("self", "cls") and kind != "Tensor" for name, kind in told)
    is_kernel = any(ast.unparse(decorator).startswith(KERNELS) for decorator in function.decorator_list)
    if num > MOST_PARAMETERS and not is_kernel and function.name != "__init__":
        found.append(f"{num} parameters")
    return found


def test_functions_are_short_and_take_few_parameters():
    files = [
        *ROOT.glob("*.py"),
        *(path for part in PARTS for path in (ROOT / part).rglob("*.py")),
    ]
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {wrong}"
        for path in files
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for wrong in wrongs(node)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("def f(a, b, c, d, e, f, g): ...", ["7 parameters"]),
        ("def f(a, b, c, d, e, *, f=1, g=2): ...", ["7 parameters"]),
        ("def f(self, a, b, c, d, e, f): ...", []),
        ("def f(a, b, c, d, e, f, g: Tensor, h: Tensor): ...", []),
        ("def __init__(self, a, b, c, d, e, f, g): ...", []),
        ("@triton.jit\ndef f(a, b, c, d, e, f, g): ...", []),
        ("def f():\n" + "    pass\n" * 51, ["51 lines"]),
        ("def f():\n    '''" + "\n" * 9 + "    '''\n" + "    pass\n" * 50, []),
        ("def f():\n    '''Nothing.'''\n", []),
        ("def parse_arguments():\n" + "    pass\n" * 51, []),
    ],
)
def test_too_much_is_told_from_what_may_be(code: str, found: list[str]):
    [function] = ast.parse(code).body
    assert wrongs(function) == found
