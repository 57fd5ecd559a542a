"""jsPsych and its plugins, which the page of an experiment needs: installed by npm, or taken from a folder."""

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from recognition.common.command_line import Failure, InputError, one_line
from recognition.common.files import is_there

BROWSER = Path(__file__).parent / "browser"  # the page, and which versions it needs
MANIFESTS = ("package.json", "package-lock.json")
MAJOR = "8"  # of jsPsych
PLUGIN = "@jspsych/plugin-"
LONGEST_S = 300  # of an installation
MAP = re.compile(rb"\s*//# sourceMappingURL=\S*\s*$")  # names a host far away


def copy_library(folder: Path, given: Path | None) -> None:
    """Write jsPsych's files and licences.txt into a folder that is there: jspsych.js, jspsych.css, plugin-<name>.js.

    They come from `given`, a node_modules or an unpacked release of jsPsych, or else from npm. Raises InputError, with
    what to do, if there is neither, and for another version; Failure if npm fails.
    """
    source = given or installed()
    modules = source / "node_modules" if (source / "node_modules").is_dir() else source
    release = source / "dist" if (source / "dist").is_dir() else source
    if (modules / "jspsych" / "package.json").is_file():
        files, licences = dict(_of_modules(modules)), _licences(modules)
    elif (release / "jspsych.js").is_file():
        files, licences = dict(_of_release(release)), _licence_of_release(source)
    else:
        raise InputError(f"--jspsych {source}: neither a node_modules with jspsych nor an unpacked release of jsPsych")
    if missing := [path for path in files.values() if not path.is_file()]:
        raise InputError(f"--jspsych {source}: {missing[0].relative_to(source)} is missing there")
    for name, path in files.items():
        (folder / name).write_bytes(MAP.sub(b"\n", path.read_bytes()))
    (folder / "licences.txt").write_text(licences, encoding="utf-8")


def can_install() -> bool:
    """Whether npm is on this machine, or has been here before."""
    return shutil.which("npm") is not None or is_there(_cached())


def installed() -> Path:
    """The node_modules of the page, installed by npm into a cache folder unless it is there. Raises InputError without
    npm."""
    modules = _cached()
    if is_there(modules):
        return modules
    if (npm := shutil.which("npm")) is None:
        raise InputError(
            "npm, which installs jsPsych, is not on this machine; install node, or name a jsPsych 8 with --jspsych"
        )
    modules.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=modules.parent, prefix=".install.") as part:
        for name in MANIFESTS:
            shutil.copyfile(BROWSER / name, Path(part) / name)
        words = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1"]
        try:
            result = subprocess.run(words, cwd=part, capture_output=True, text=True, timeout=LONGEST_S)
        except subprocess.TimeoutExpired:
            raise Failure(
                f"npm has not installed jsPsych in {LONGEST_S} s; name a folder of it with --jspsych"
            ) from None
        if result.returncode:
            lines = [line for line in result.stderr.splitlines() if line.strip()] or ["it said nothing"]
            raise Failure(one_line(f"npm could not install jsPsych ({lines[0]}); name a folder of it with --jspsych"))
        if not is_there(modules):  # another export may have been faster
            (Path(part) / "node_modules").rename(modules)
    return modules


def plugins() -> list[str]:
    """Names of the plugins that the page needs."""
    wanted = json.loads((BROWSER / MANIFESTS[0]).read_text("utf-8"))["dependencies"]
    return [name.removeprefix(PLUGIN) for name in wanted if name.startswith(PLUGIN)]


def _cached() -> Path:
    digest = hashlib.sha256(b"".join((BROWSER / name).read_bytes() for name in MANIFESTS)).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return folder / "visual-recognition-memory" / f"jspsych-{digest}"


def _of_modules(modules: Path) -> Iterator[tuple[str, Path]]:
    version = _package(modules / "jspsych")["version"]
    if str(version).partition(".")[0] != MAJOR:
        raise InputError(f"--jspsych {modules}: is jsPsych {version}, the page needs jsPsych {MAJOR}")
    yield "jspsych.js", modules / "jspsych/dist/index.browser.min.js"
    yield "jspsych.css", modules / "jspsych/css/jspsych.css"
    for name in plugins():
        yield f"plugin-{name}.js", modules / f"{PLUGIN}{name}/dist/index.browser.min.js"


def _of_release(release: Path) -> Iterator[tuple[str, Path]]:
    found = re.search(rb'version\s*[:=]\s*"(\d+)\.', (release / "jspsych.js").read_bytes())
    if found and found[1].decode() != MAJOR:
        raise InputError(f"--jspsych {release}: is jsPsych {found[1].decode()}, the page needs jsPsych {MAJOR}")
    for name in ("jspsych.js", "jspsych.css", *(f"plugin-{name}.js" for name in plugins())):
        yield name, release / name


def _licences(modules: Path) -> str:
    """Name, version, licence and author of all packages, a line each."""
    lines = []
    for path in sorted({*modules.glob("*/package.json"), *modules.glob("@*/*/package.json")}):
        told = _package(path.parent)
        author = told.get("author") or ""
        author = author.get("name", "") if isinstance(author, dict) else author
        lines.append(f"{told['name']} {told['version']}, licence {told.get('license', 'not told')}, {author}")
    return "".join(f"{one_line(line)}\n" for line in lines)


def _licence_of_release(source: Path) -> str:
    for path in sorted(path for path in source.iterdir() if path.stem.lower() in ("license", "licence")):
        return path.read_text("utf-8", errors="replace")
    return "jsPsych and its plugins, licence MIT, Josh de Leeuw and contributors\n"


def _package(folder: Path) -> dict:
    try:
        told = json.loads((folder / "package.json").read_text("utf-8"))
        told["name"], told["version"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{folder / 'package.json'}: cannot be read; install jsPsych anew") from None
    return told
