"""The nets and the finite differences are those of the signal pass."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "signal"))
