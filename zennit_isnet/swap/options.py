"""The string options of background swaps, each with its legal values in one place."""

from typing import Literal, TypeAlias

Consistency: TypeAlias = Literal["symmetric_kl", "jensen_shannon", "squared_logits"]
