"""The weight of a process's penalty where there is one process only; `test_ddp` has several."""

from __future__ import annotations

import pytest
import torch

from zennit_isnet.distributed import penalty_weight
from zennit_isnet.errors import InvalidTypeError


@pytest.mark.parametrize(("flags", "expected"), [([True, False], 1.0), ([True, True], 1.0), ([False, False], 0.0)])
def test_one_process_has_all_masks_there_are(flags, expected):
    assert penalty_weight(torch.tensor(flags)).item() == expected


@pytest.mark.parametrize("has_mask", [torch.tensor([1, 0]), [True, False], None])
def test_flags_that_are_no_boolean_tensor_are_refused(has_mask):
    with pytest.raises(InvalidTypeError, match="has_mask must be a boolean tensor"):
        penalty_weight(has_mask)
