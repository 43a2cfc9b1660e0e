"""``train.py`` as a command that halts before a step, so that who started it knows where a signal finds it.

``python halting_train.py STEP HALTED GO_ON OPTIONS``: before its STEP-th step it writes the file HALTED and waits for
the file GO_ON.
"""

from __future__ import annotations

import runpy
import sys
import time
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).parents[2] / "examples" / "train.py"
sys.path.insert(0, str(SCRIPT.parent))

from training.phase import Phase  # noqa: E402

number, halted, go_on = int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
steps, take_step = iter(range(1, number + 1)), Phase.take_step


def halting_step(phase: Phase, group: list[Any]) -> None:
    if next(steps, None) == number:
        halted.touch()
        while not go_on.exists():
            time.sleep(0.01)
    take_step(phase, group)


Phase.take_step = halting_step
sys.argv = [str(SCRIPT), *sys.argv[4:]]
runpy.run_path(str(SCRIPT), run_name="__main__")
