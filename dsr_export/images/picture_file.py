"""One PNG or JPEG file as its viewer sees it: upright, in 8-bit RGB. What cannot be shown so is refused by name.

Values of 16 bits are scaled, grey and palettes are spread, CMYK is converted as PIL does. Transparent pixels have no
colour that is known, an animation no picture that is meant.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dsr_export.errors import ExportError

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_PIXELS = 1 << 26  # 8192 x 8192: 200 MB as RGB
LONGEST_REASON = 300
BICUBIC = 3  # PIL.Image.Resampling.BICUBIC
_FORMATS = ("PNG", "JPEG")  # other readers of PIL run programs, or read formats that nobody asked for
_PLAIN = ("1", "L", "RGB", "CMYK", "YCbCr")
_HINT = "remove it, or save it again as an 8-bit RGB file"
_ON_DAMAGE = (
    *(OSError, ValueError, SyntaxError, EOFError, TypeError, AttributeError),
    *(LookupError, ArithmeticError, MemoryError, RuntimeError, struct.error, zlib.error),
)
"""What PIL's readers raise on files that are truncated, corrupt or something else."""


def read_picture(file: Path) -> Image:
    """`file` in mode RGB.

    Raises ExportError where it is no PNG or JPEG, is damaged, has more than `MOST_PIXELS`, transparent pixels, several
    frames, or values that are neither of 8 nor of 16 bits.
    """
    from PIL import ImageOps

    with _opened(file) as picture:
        return _as_rgb(file, ImageOps.exif_transpose(picture))


def check_header(file: Path) -> None:
    """What `read_picture` would refuse by the file's header alone, without decoding it."""
    with _opened(file):
        pass


@contextmanager
def _opened(file: Path) -> Iterator[Image]:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes, which are bounded here, and of metadata
            with Image.open(file, formats=_FORMATS) as opened:
                _check_kind(file, opened)
                yield opened
    except (*_ON_DAMAGE, Image.DecompressionBombError) as error:
        reason = str(error)[:LONGEST_REASON] or type(error).__name__
        raise ExportError(f"{file} is no readable image: {reason}", hint=_HINT) from error


def _check_kind(file: Path, opened: Image) -> None:
    width, height = opened.size
    if width * height > MOST_PIXELS:
        message = f"{file} has {width} x {height} pixels, more than the {MOST_PIXELS} allowed"
        raise ExportError(message, hint="scale it down")
    if opened.format == "PNG" and getattr(opened, "n_frames", 1) > 1:  # a JPEG's further pictures are no frames
        raise ExportError(f"{file} is an animation", hint="save one frame of it")


def _as_rgb(file: Path, picture: Image) -> Image:
    if picture.has_transparency_data:
        alpha = picture.convert("RGBA")
        if np.asarray(alpha.getchannel("A")).min() < 255:
            raise ExportError(f"{file} has transparent pixels, whose colour is not known", hint="flatten it")
        return alpha.convert("RGB")
    if picture.mode == "I" or picture.mode.startswith("I;16"):
        return _of_sixteen_bits(file, picture)
    if picture.mode not in (*_PLAIN, "P"):
        raise ExportError(f"{file} has the mode {picture.mode}, which is not read", hint=_HINT)
    return picture.convert("RGB")


def _of_sixteen_bits(file: Path, picture: Image) -> Image:
    """Grey from 0 to 65535, to the nearest of 0 to 255: PIL itself would cut everything above 255 to white."""
    from PIL import Image

    values = np.asarray(picture).astype(np.int64)
    if values.min(initial=0) < 0 or values.max(initial=0) > 0xFFFF:
        raise ExportError(f"{file} holds values beyond 16 bits", hint=_HINT)
    return Image.fromarray(((values * 255 + 0x7FFF) // 0xFFFF).astype(np.uint8)).convert("RGB")
