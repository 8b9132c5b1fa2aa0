"""Record the loss curve of every tiny recipe: python scripts/record_curves.py [NAME …]. Say in the commit why a curve moved."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from corollary.run.loop import train  # noqa: E402
from golden import recipes  # noqa: E402
from run.recipes import Quiet  # noqa: E402


def main() -> None:
    path = ROOT / "tests" / "golden" / "curves.json"
    old = json.loads(path.read_text()) if path.exists() else {}
    curves = {name: curve for name, curve in old.items() if name in recipes.RECIPES}
    with TemporaryDirectory() as scratch:
        folder = recipes.written(Path(scratch))
        for name in sys.argv[1:] or recipes.RECIPES:
            found = recipes.curve(train(recipes.recipe(name, folder, name), Quiet()))
            curves[name] = [float(f"{x:.6g}") for x in found]
            print(f"{name:30} {'new' if name not in old else 'moved' if curves[name] != old[name] else 'as before'}")
    rows = ",\n".join(f'  "{name}": {json.dumps(curves[name])}' for name in sorted(curves))
    path.write_text(f"{{\n{rows}\n}}\n")


if __name__ == "__main__":
    main()
