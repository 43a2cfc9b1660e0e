"""Makes the helpers of the signal pass's tests importable here."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "signal"))
