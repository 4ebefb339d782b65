"""Inject faults into whole programs, many times, and count what goes wrong.

    python3 -m tests.rounds                         every round in full (hours on two cores)
    python3 -m tests.rounds kills damage            some of them
    python3 -m tests.rounds --share 0.1 --seed 7    a tenth of the cases, others than with another seed

A fault is a lost run, damage that is accepted without a word, a traceback, a hang, or a line that is not true. Exit
status 1 if there was one. Random files (annotations, images, checkpoints, …) are in tests/test_fuzz.py.
"""

import argparse
import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before PyTorch: threads do not survive a fork

from tests.rounds import arguments, contents, interruptions, shortages  # noqa: E402
from tests.rounds.setting import World  # noqa: E402

ROUNDS = {
    "kills": (interruptions.kills, 72),
    "operations": (interruptions.operations, 240),
    "damage": (interruptions.damage, 72),
    "disks": (interruptions.disks, 48),
    "loaders": (shortages.loaders, 100),
    "memory": (shortages.memory, 36),
    "shared_memory": (shortages.shared_memory, 12),
    "open_files": (shortages.open_files, 24),
    "states": (contents.states, 600),
    "checkpoints": (contents.checkpoints, 600),
    "arguments": (arguments.arguments, 6400),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rounds", nargs="*", help=f"of {', '.join(ROUNDS)} (default: all)")
    parser.add_argument("--share", type=float, default=1.0, help="share of the cases")
    parser.add_argument("--seed", type=int, default=0, help="of the random choices")
    chosen = parser.parse_args()
    unknown = set(chosen.rounds) - set(ROUNDS)
    if unknown:
        parser.error(f"no round {', '.join(sorted(unknown))}")
    faults = 0
    with World(chosen.seed) as world:
        for name in chosen.rounds or ROUNDS:
            play, count = ROUNDS[name]
            tally = play(world, max(1, round(count * chosen.share)))
            print(tally, flush=True)
            faults += len(tally.faults)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
