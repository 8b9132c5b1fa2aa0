"""Pages of the book without Sphinx.

python scripts/book.py run [PAGE…]              run the pages; the first thing that is not true is named with its line
python scripts/book.py mutate [PAGE…] [--sample N] [--only TEXT]    plant errors in the formulas; name those that went unnoticed
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs" / "_ext"))

from book.mutants import survivors  # noqa: E402
from book.page import PageError, run  # noqa: E402
from book.page import pages as pages_in  # noqa: E402


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "mutate"))
    parser.add_argument("pages", nargs="*", type=Path)
    parser.add_argument("--sample", type=int, help="errors for each page; all when left out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="formulas that contain this text")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    pages = asked.pages or pages_in(ROOT / "docs" / "theory")
    failed = False
    for page in pages:
        started = time.perf_counter()
        try:
            if asked.what == "run":
                run(page)
                print(f"{page.name}: runs ({time.perf_counter() - started:.1f} s)")
                continue
            planted, alive = survivors(page, sample=asked.sample, seed=asked.seed, only=asked.only)
        except PageError as fault:
            print(fault)
            failed = True
            continue
        for mutant, path in alive:
            print(f"{path}:{mutant.line}: unnoticed: {mutant.what}")
        print(
            f"{page.name}: {planted - len(alive)} of {planted} planted errors turn it red ({time.perf_counter() - started:.1f} s)"
        )
        failed |= bool(alive)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
