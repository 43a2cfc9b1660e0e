"""The largest number of pixels in an image."""

from PIL import Image

from zennit_isnet.errors import InvalidValueError


def check_pixels(width: int, height: int) -> None:
    """Raise `InvalidValueError` for an image with more pixels than Pillow's limit allows.

    Pillow itself only warns up to twice the limit, and does not see what other packages decode.
    """
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        allowed = f"PIL.Image.MAX_IMAGE_PIXELS = {limit} allows as a guard against decompression bombs"
        problem = f"it has {width} × {height} pixels, more than {allowed}"
        raise InvalidValueError(f"{problem}; resize it, or raise the limit for files that you trust")
