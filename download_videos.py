"""Step 1: download the films of a list with yt-dlp, as <output_dir>/<video_id>.mp4.

  python download_videos.py --n_videos 5                        the first five films, to see that it works
  python download_videos.py                                     all of them; four to five hours for those of sfd.csv
  python download_videos.py --cookies cookies.txt --sleep 60    after a bot check or a rate limit

Run it again whenever you like, also after a kill: only films that are not done are tried.
<output_dir>/manifest.csv has one row per film: status (done, failed, skipped), reason (private, removed, age,
bot check, rate limit, network, format, other), message, file, size_bytes, sha256, duration_s. A film you have
already can be put into the folder as <video_id>.mp4: it is checked and entered, not downloaded.

YouTube gives a guest about 300 films an hour; two workers that rest 25 s stay below that. On a rate limit or a
bot check the queue stops and the rest is marked skipped. Then wait an hour and run the same command again, or
export the cookies of a browser that is logged in to YouTube (Netscape format) and pass them with --cookies.
Where the network lets nothing through the queue stops too: run the same command again once it does.
YouTube also needs a JavaScript runtime: install Deno (https://deno.com). FFmpeg is not needed.

Exit status: 0 all films are there, 1 some failed or were skipped, 2 wrong input.
"""

import sys
from argparse import Namespace
from itertools import groupby
from pathlib import Path

from recognition.common.command_line import ArgumentParser, folder_path, number_between, own_file, run, whole_number
from recognition.films.download import YtDlp, advice, download
from recognition.films.manifest import Manifest, Row, read_films


def main() -> int:
    args = parse_arguments()
    from tqdm import tqdm

    films = read_films(args.list)[: args.n_videos]
    fetch = YtDlp(args.max_height, args.cookies)
    manifest = Manifest(args.output_dir, films)
    rows: list[Row] = []
    with tqdm(total=len(films), unit="film") as bar:
        for row in download(films, manifest, fetch, args.workers, args.sleep):
            rows.append(row)
            bar.set_postfix(failed=sum(row["status"] == "failed" for row in rows), refresh=False)
            bar.update()
    return report(rows, manifest.path)


def parse_arguments() -> Namespace:
    parser = ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--list", type=own_file, default="sfd.csv", help="CSV file with the columns video_id, video_url, title")
    add("--output_dir", type=folder_path, default=Path("videos"), help="folder for the films and manifest.csv")
    add("--n_videos", type=whole_number(1), help="take only the first N films of the list; None takes all")
    add("--max_height", type=whole_number(144), default=360, help="largest height in pixels; features need about 224")
    add("--workers", type=whole_number(1), default=2, help="films downloaded at a time")
    add("--cookies", type=Path, help="a browser's cookies, exported as cookies.txt; needed for age-restricted films")
    add("--sleep", type=number_between(0, 3600), default=25, help="seconds each worker rests between two films")
    return parser.parse_args()


def report(rows: list[Row], manifest: Path) -> int:
    """Print what became of the films, the failed ones by reason, and return the exit status."""
    counts = {status: sum(row["status"] == status for row in rows) for status in ("done", "failed", "skipped")}
    print(", ".join(f"{count} {status}" for status, count in counts.items()) + f" of {len(rows)} films: see {manifest}")
    failed = sorted((row for row in rows if row["status"] == "failed"), key=lambda row: row["reason"])
    for reason, group in groupby(failed, key=lambda row: row["reason"]):
        first, *others = group
        print(f"  {reason}: {first['video_id']} {first['message']}" + (f" (and {len(others)} more)" if others else ""))
    if stops := {line for row in rows if (line := advice(row))}:
        print(f"download_videos.py: stopped: {stops.pop()}", file=sys.stderr)
    return 0 if counts["done"] == len(rows) else 1


if __name__ == "__main__":
    run(main)
