"""The command line; see benchmarks/gpu.sh."""

import argparse
import datetime
import shutil
import sys
from pathlib import Path

from benchmarks.gpu import conduct, table
from benchmarks.gpu.scale import SCALES, Place

ROOT = Path(__file__).parent.parent.parent


def main() -> int:
    parser = argparse.ArgumentParser(description="Numbers, speed and memory on one GPU.")
    parser.add_argument("--out", type=Path, help="benchmarks/results/DATE-gpu when left out")
    parser.add_argument("--text", type=Path, help="tinyshakespeare.txt; or BUNDLE/shakespeare.txt")
    parser.add_argument("--dry", action="store_const", dest="scale", const="dry", default="full")
    parser.add_argument("--scale", choices=SCALES, help=argparse.SUPPRESS)
    parser.add_argument("--only", nargs="*", default=[], help="these sections")
    parser.add_argument("--section", help=argparse.SUPPRESS)
    options = parser.parse_args()
    day = datetime.datetime.now(datetime.UTC).date().isoformat()
    out = options.out or ROOT / "benchmarks" / "results" / f"{day}-gpu"
    text = options.text.resolve() if options.text else None
    place = Place(out.resolve(), text)
    if options.section:
        conduct.perform(options.section, SCALES[options.scale], place)
        return 0

    def tell() -> None:
        table.write(place.out, options.scale, conduct.collect(place))

    conduct.conduct(options.scale, place, options.only, tell)
    shutil.rmtree(place.work)
    print((place.out / "results.md").read_text(encoding="utf-8"))
    wrong = [row for rows in conduct.collect(place).values() for row in rows if row["ok"] is False]
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
