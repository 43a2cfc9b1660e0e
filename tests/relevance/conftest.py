"""The tests of relevance share nets and finite differences with those of the signal."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "signal"))
