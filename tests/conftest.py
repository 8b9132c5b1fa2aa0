"""One thread per test process: the processes run side by side, and threads that spin for each other would cost most of the time."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"
