"""What lies on disk: real clips, the files of a folder, the rows of a table, files cut short."""

import csv
from pathlib import Path

CLIPS = Path(__file__).parent.parent.parent / "shared" / "videos"  # beside the checkout; tests of absent ones skip


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder that is not hidden."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def rows(path: Path) -> list[dict[str, str]]:
    """The rows of a table."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def truncate(path: Path, share: float = 0.5) -> Path:
    """Cut a file short."""
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    return path
