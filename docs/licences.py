"""Write docs/licences.md, the licences of all that constraints.txt pins, as the installed packages tell them.

  python docs/licences.py

A package that this Python does not need, such as those for Python 3.10 alone, keeps the line it has.
"""

import re
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

HERE = Path(__file__).parent
LIST = HERE / "licences.md"
SPDX = {  # what packages write instead of SPDX's names
    **dict.fromkeys(["MIT License", "Copyright MIT"], "MIT"),
    **dict.fromkeys(["Apache 2.0", "Apache 2.0 License", "Apache License, Version 2.0", "Apache"], "Apache-2.0"),
    **dict.fromkeys(["3-Clause BSD License", "BSD 3-Clause License"], "BSD-3-Clause"),
    **dict.fromkeys(["BSD License"], "BSD"),
    **dict.fromkeys(["Python Software Foundation License", "PSFL"], "PSF-2.0"),
    "Apache Software License": "Apache-2.0",
    "ISC License (ISCL)": "ISC",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "BSD, Public Domain": "BSD AND public domain",
}
HEADER = """# Licences of what this project uses

This project is under the MIT licence. It ships none of these packages: pip or conda fetch them. The list has every
package that `constraints.txt` pins, with its licence as its own metadata tell it, under its
[SPDX](https://spdx.org/licenses/) name where it can be told; "BSD" is one of that family. NVIDIA's packages, which
torch brings for GPUs, are under NVIDIA's own terms.

Copyleft, of which one should know before passing on an environment or an image with these packages inside:

- `mutagen` (GPL) comes with `yt-dlp[default]`, which writes pictures into sound files with it. We never ask for that,
  and no code of ours imports it; yt-dlp works without it.
- `av` is under a BSD licence, but its wheels hold FFmpeg, by its own word under LGPL 3 or later, and beside it the
  encoders x264 and x265 under GPL 2 or later. We decode through it, and encode made-up films and rendered episodes with
  x264. `opencv-python-headless` holds an FFmpeg too.
- `lxml`, under a BSD licence, comes with `sacrebleu`; its wheels hold GNU libiconv, under LGPL 2.1 or later. Scores of
  captions do not come near it.
- `certifi`, `pathspec` and `tqdm` (MPL) ask for changes to their own files to be published; we make none.
- ResMem's weights, which `recognition.memorability` takes, are for non-commercial research alone. They are no part
  of this project.

Of data, `tests/people/zheng_sub4.csv` is the work of others and ships with this project: what one person answered in
Zheng et al. 2022, of DANDI 000207 (doi 10.48324/dandi.000207/0.220216.0323), under CC BY 4.0.

| package | licence |
|---|---|
"""


def pinned() -> list[str]:
    """The packages in constraints.txt, in its order."""
    names = re.findall(r"^([\w.-]+)==", (HERE.parent / "constraints.txt").read_text(), re.M)
    return list(dict.fromkeys(names))


def licence(package: Distribution) -> str:
    """A package's licence, "" if it does not tell."""
    told = package.metadata
    text = told.get("License-Expression") or (told.get("License") or "").strip().partition("\n")[0]
    kinds = [line.rpartition(" :: ")[2] for line in told.get_all("Classifier", []) if line.startswith("License :: ")]
    if told.get("License-Expression") or text in SPDX or re.fullmatch(r"[A-Z][\w.-]*( (AND|OR) [A-Z][\w.-]*)*", text):
        return SPDX.get(text, text)
    return " AND ".join(SPDX.get(kind, kind) for kind in kinds)  # else the licence itself is in the field


def table() -> list[str]:
    """A line for every package."""
    lines = {}
    if LIST.exists():
        lines = {line.split("`")[1]: line for line in LIST.read_text().splitlines() if line.startswith("| `")}
    for name in pinned():
        try:
            lines[name] = f"| `{name}` | {licence(distribution(name))} |"
        except PackageNotFoundError:
            lines.setdefault(name, f"| `{name}` |  |")
    return [lines[name] for name in pinned()]


if __name__ == "__main__":
    LIST.write_text(HEADER + "\n".join(table()) + "\n")
