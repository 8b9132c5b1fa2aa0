"""Sphinx: `make docs`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent / "_ext"))
torch.set_num_threads(1)  # the worlds are tiny, and threads would only wait for each other

project = "Corollary"
extensions = ["myst_parser", "book.sphinx"]
exclude_patterns = ["_ext", "_build"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 4
html_theme = "furo"
html_title = "Corollary"
html_static_path = ["_static"]
html_css_files = ["book.css"]
html_math_renderer = "mathml"
html_show_copyright = False
