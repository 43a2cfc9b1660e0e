"""Swapping the backgrounds of images by their foreground masks: as augmentation, as a loss term, and as a test.

A heatmap without background relevance is not evidence that the background does not matter; a prediction that stays the
same on a changed background is.
"""

from zennit_isnet.swap.backgrounds import BackgroundFade, BackgroundSwap, swap_backgrounds
from zennit_isnet.swap.predictions import swap_consistency, swap_gap

__all__ = ["BackgroundFade", "BackgroundSwap", "swap_backgrounds", "swap_consistency", "swap_gap"]
