"""The helpers of the neighbours can be imported."""

from __future__ import annotations

import sys
from pathlib import Path

for neighbour in ("loss", "signal", "regularizer"):
    sys.path.append(str(Path(__file__).resolve().parents[1] / neighbour))
