"""What it costs to know a data set by its content, and what a digest costs beside reading what it guards.

    python benchmarks/digests.py --folder SCRATCH      an empty folder; about 2.5 GB are written there and removed again

files      a data set of ``--files`` files (half pictures of 100 kB, half masks of 4 kB), whose digests are asked for
           four times: nothing in the page cache, all files in the page cache, by a new process with the cache of
           digests, and again in the same process; beside it the old key, the size of every file
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from measuring import machine, write_record

from fusionerlib import digests

PICTURE, MASK = 100_000, 4_000
"""Bytes of a file of each kind."""
ASK = """
import sys, time
from pathlib import Path
from fusionerlib.digests import content_digests
files = [Path(line) for line in Path(sys.argv[1]).read_text().splitlines()]
start = time.perf_counter()
content_digests(files)
print(time.perf_counter() - start)
"""


def main() -> None:
    """Measure and print one line a case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--json", type=Path, default=None, help="write the figures to this file")
    options = parser.parse_args()
    data = options.folder / "data"
    os.environ["XDG_CACHE_HOME"] = str(options.folder / "cache")
    shutil.rmtree(options.folder / "cache", ignore_errors=True)
    try:
        files = write(data, options.files)
        time.sleep(digests.SETTLED / 1e9 + 0.5)
        listing = options.folder / "files.txt"
        listing.write_text("\n".join(map(str, files)), encoding="utf-8")
        row = {"nothing in the page cache": asked(listing, cold=files)}
        row["page cache"] = asked(listing, fresh=options.folder)
        row["cache of digests, a new process"] = asked(listing)
        digests.content_digests(files)
        start = time.perf_counter()
        digests.content_digests(files)
        row["the same process"] = time.perf_counter() - start
        start = time.perf_counter()
        sum(file.stat().st_size for file in files)
        row["sizes alone (what a digest replaces)"] = time.perf_counter() - start
    finally:
        shutil.rmtree(data, ignore_errors=True)
    total = (PICTURE + MASK) * options.files / 2
    for what, seconds in row.items():
        print(f"{what:40}{seconds:8.2f} s   {options.files} files, {total / 1e9:.1f} GB")
    write_record(options.json, {"machine": machine(), "files": options.files, "bytes": total, "seconds": row})


def write(folder: Path, count: int) -> list[Path]:
    """``count`` files of random bytes, half of each kind."""
    made = []
    for kind, size in (("images", PICTURE), ("masks", MASK)):
        (folder / kind).mkdir(parents=True)
        for place in range(count // 2):
            made.append(folder / kind / f"{place:06d}.bin")
            made[-1].write_bytes(os.urandom(size))
    os.sync()
    return made


def asked(listing: Path, *, cold: list[Path] | None = None, fresh: Path | None = None) -> float:
    """Seconds that a new process needs. cold: files to drop from the page cache. fresh: folder of a cache to delete."""
    if cold is not None:
        for file in cold:
            with file.open("rb") as stream:
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if fresh is not None:
        shutil.rmtree(fresh / "cache", ignore_errors=True)
    done = subprocess.run([sys.executable, "-c", ASK, str(listing)], capture_output=True, text=True, check=True)
    return float(done.stdout)


if __name__ == "__main__":
    main()
