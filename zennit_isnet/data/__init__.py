"""Images with foreground masks: data sets for your own files, transforms, and the background-bias benchmark.

The benchmark needs the packages of the extra ``examples``.
"""

from zennit_isnet.data.annotations import AnnotatedImages
from zennit_isnet.data.background_bias import BackgroundBias, foreground_mask, load_digits
from zennit_isnet.data.files import MaskedImageFolder, MaskedImageTable, OxfordPetMasks
from zennit_isnet.data.mask_check import check_masks
from zennit_isnet.data.masked import MaskedDataset, MaskPolicy
from zennit_isnet.data.segmentation import masks_from_segmenter
from zennit_isnet.data.transforms import evaluation_transform, training_transform
from zennit_isnet.data.wrapping import with_masks

__all__ = [
    "AnnotatedImages",
    "BackgroundBias",
    "MaskPolicy",
    "MaskedDataset",
    "MaskedImageFolder",
    "MaskedImageTable",
    "OxfordPetMasks",
    "check_masks",
    "evaluation_transform",
    "foreground_mask",
    "load_digits",
    "masks_from_segmenter",
    "training_transform",
    "with_masks",
]
