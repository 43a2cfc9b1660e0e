"""The nets and the finite differences are those of the signal pass; what a model must keep is the regularizer's."""

import sys
from pathlib import Path

for neighbour in ("signal", "regularizer"):
    sys.path.insert(0, str(Path(__file__).parents[1] / neighbour))
