"""Images with foreground masks: the background-bias benchmark.

Needs the packages of the extra ``examples``.
"""

from zennit_isnet.data.background_bias import BackgroundBias
from zennit_isnet.data.digits import foreground_mask, load_digits
from zennit_isnet.data.textures import TEXTURE_SOURCES, cut_textures, load_texture

__all__ = [
    "TEXTURE_SOURCES",
    "BackgroundBias",
    "cut_textures",
    "foreground_mask",
    "load_digits",
    "load_texture",
]
