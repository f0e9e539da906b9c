"""How well people are found: against frames that were looked at by eye.

    python benchmarks/people.py FOLDER
    python benchmarks/people.py FOLDER --detector PekingU/rtdetr_v2_r18vd

FOLDER holds the films that `people_labels.csv` names (those that are not there are counted and left
out). The labels are the number of people that can be seen in a frame, 3 for three or more; hands
alone are nobody, drawn people are people, and frames that are hard to tell carry no number. Prints
films, frames, and how often somebody was found where there is somebody, and where there is nobody.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from pathlib import Path

from realdpo.curate.config import PeopleSettings
from realdpo.curate.scores import people
from realdpo.media.decode import decode_frames

LABELS = Path(__file__).with_name("people_labels.csv")
SHORT_SIDE = 480  # as the scores of sampled frames


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--detector", default="", help="of transformers; BlazePose without")
    parser.add_argument("--pose", default="", help="ViTPose of transformers")
    parser.add_argument("--threshold", type=float, default=0.5)
    arguments = parser.parse_args()
    settings = PeopleSettings(arguments.detector, arguments.pose, arguments.threshold)
    people.require_people(settings)

    films: dict[str, list[tuple[int, int]]] = defaultdict(list)
    away = unlabelled = 0
    with open(LABELS, newline="") as file:
        for row in csv.DictReader(file):
            path = arguments.folder / row["film"]
            if not path.exists():
                away += 1
            elif not row["people"]:
                unlabelled += 1
            else:
                time = max(0.0, float(row["time"]) - 0.002)  # written to a thousandth
                shown = next(iter(decode_frames(path, short_side=SHORT_SIDE, start=time)))
                found = len(people.find_people(shown.rgb, settings))
                films[row["film"]].append((int(row["people"]), found))
    print("| film | frames | with people | found in | nobody there | found in |")
    print("|---|---|---|---|---|---|")
    for name, pairs in [*films.items(), ("all", [p for each in films.values() for p in each])]:
        some = [found > 0 for true, found in pairs if true]
        none = [found > 0 for true, found in pairs if not true]
        print(f"| {name} | {len(pairs)} | {len(some)} | {sum(some)} | {len(none)} | {sum(none)} |")
    pairs = [pair for each in films.values() for pair in each]
    right = sum(true > 0 and found > 0 for true, found in pairs)
    said = sum(found > 0 for _, found in pairs)
    there = sum(true > 0 for true, _ in pairs)
    persons = sum(true for true, _ in pairs)
    seen = sum(min(true, found) for true, found in pairs)
    print(
        f"\nframes: precision {right / max(said, 1):.2f}, recall {right / max(there, 1):.2f}; "
        f"persons found {seen} of {persons}"
    )
    print(f"{unlabelled} frames hard to tell, {away} of films that are not there")


if __name__ == "__main__":
    main()
