"""The nets and the finite differences are those of the signal pass, the families those of the models' tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "signal"))
sys.path.append(str(Path(__file__).parents[1] / "models"))
