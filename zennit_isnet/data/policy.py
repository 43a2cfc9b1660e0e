"""What becomes of masks that are missing, empty, of other values or of another size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from zennit_isnet.checks import check_choice
from zennit_isnet.data.binarization import Binarize, check_binarize

Missing: TypeAlias = Literal["error", "skip-penalty", "drop"]
Empty: TypeAlias = Literal["error", "skip-penalty"]


@dataclass(frozen=True)
class MaskPolicy:
    """How a data set deals with masks that are not as they should be; by default each is an error.

    Parameters
    ----------
    missing : {"error", "skip-penalty", "drop"}, default "error"
        What becomes of images without a mask: an error, items with ``has_mask`` False, or left out. ``"error"``,
        because masks that are missing by mistake would weaken the training unseen.
    empty : {"error", "skip-penalty"}, default "error"
        What becomes of masks without any foreground, in the file or after the transform, for which the heatmap loss
        is not defined: an error at reading that names the file, or items with ``has_mask`` False.
    binarize : {"strict", "half", "nonzero"} or collection of int, default "strict"
        Which values of a mask are foreground: the one that is not 0, and an error if there are several; those above
        half of the format's range; all but 0; or the given values.
    resize_masks : bool, default False
        Whether masks of another size than their image are brought to its size, such that no foreground is ever
        called background. Otherwise they are an error: another size often means another picture.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        If a value is not allowed.
    """

    missing: Missing = "error"
    empty: Empty = "error"
    binarize: Binarize = "strict"
    resize_masks: bool = False

    def __post_init__(self) -> None:
        check_choice("missing", self.missing, Missing)
        check_choice("empty", self.empty, Empty)
        check_binarize(self.binarize)

    @property
    def skips(self) -> bool:
        """Whether there may be images without a penalty."""
        return "skip-penalty" in (self.missing, self.empty)
