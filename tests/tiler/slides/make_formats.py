"""Slides of formats that no library at hand writes: Philips TIFF, JPEG 2000 in YCbCr.

Arrays are uint8 (height, width, 3).
"""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from tests.tiler.slides.make import Pixels
from tiler.slides.base import Rgb

_SPACING = (
    '<DataObject ObjectType="PixelDataRepresentation"><Attribute Name="DICOM_PIXEL_SPACING" '
    'Group="0x0028" Element="0x0030" PMSVR="IDoubleArray">&quot;{0}&quot; &quot;{0}&quot;'
    "</Attribute></DataObject>"
)
_DESCRIPTION = (
    '<?xml version="1.0" encoding="UTF-8" ?><DataObject ObjectType="DPUfsImport"><Attribute '
    'Name="PIM_DP_SCANNED_IMAGES" Group="0x301D" Element="0x1003" PMSVR="IDataObjectArray"><Array>'
    '<DataObject ObjectType="DPScannedImage"><Attribute Name="PIM_DP_IMAGE_TYPE" Group="0x301D" '
    'Element="0x1004" PMSVR="IString">WSI</Attribute><Attribute Name="DICOM_PIXEL_SPACING" '
    'Group="0x0028" Element="0x0030" PMSVR="IDoubleArray">&quot;0.00025&quot; &quot;0.00025&quot;'
    '</Attribute><Attribute Name="PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE" Group="0x1001" '
    'Element="0x8B01" PMSVR="IDataObjectArray"><Array>{}</Array></Attribute></DataObject></Array>'
    "</Attribute></DataObject>"
)


def write_philips(path: Path, pixels: Rgb, levels: int, side: int) -> Path:
    """Write a Philips TIFF at 0.25 µm/px, each level half of the one before.

    Like the scanner's, its images are padded to whole tiles.
    """
    spacings = "".join(_SPACING.format(0.00025 * 2**level) for level in range(levels))
    with tifffile.TiffWriter(path) as tiff:
        for level in range(levels):
            image = np.asarray(Image.fromarray(pixels).reduce(2**level))
            padding = [(0, -size % side) for size in image.shape[:2]]
            tiff.write(
                np.pad(image, (*padding, (0, 0)), constant_values=77),
                tile=(side, side),
                photometric="ycbcr",
                compression="jpeg",
                compressionargs={"level": 90},
                subsampling=(2, 2),
                software=None if level else "Philips DP v1.0",
                description=None if level else _DESCRIPTION.format(spacings),
                metadata=None,
                subfiletype=1 if level else 0,
            )
    return path


def ycbcr_codestream(rgb: Rgb, step_x: int, step_y: int, *, is_lossy: bool = False) -> bytes:
    """Encode JPEG 2000 as Aperio does under code 33003: YCbCr without a transform.

    Each component is encoded alone, with the same settings. In the order of progression that goes
    by component (ISO 15444-1, B.12.1.5), their packets stand one behind the other.

    Args:
        rgb: sides are multiples of the steps.
        step_x: pixels per value of Cb and Cr, in x.
        step_y: the same in y.
        is_lossy: use the irreversible wavelet, and a third of the bits.
    """
    ycbcr = np.asarray(Image.fromarray(rgb).convert("YCbCr"))
    steps = ((1, 1), (step_x, step_y), (step_x, step_y))
    parts = [
        _codestream_parts(np.ascontiguousarray(ycbcr[::y, ::x, index]), is_lossy=is_lossy)
        for index, (x, y) in enumerate(steps)
    ]
    height, width = rgb.shape[:2]
    size = struct.pack(">HHHIIIIIIIIH", 0xFF51, 47, 0, width, height, 0, 0, width, height, 0, 0, 3)
    size += b"".join(struct.pack("BBB", 7, *step) for step in steps)
    style = bytearray(parts[0][0xFF52])
    style[5], style[8] = 4, 0  # order by component, no transform of the colours
    packets = b"".join(part[0] for part in parts)
    tile = struct.pack(">HHHIBB", 0xFF90, 10, 0, 14 + len(packets), 0, 1)
    return b"".join(
        (b"\xff\x4f", size, style, parts[0][0xFF5C], tile, b"\xff\x93", packets, b"\xff\xd9")
    )


def _codestream_parts(plane: Pixels, *, is_lossy: bool) -> dict[int, bytes]:
    """Segments of a codestream's header by marker, and its packets under 0."""
    stream, settings = io.BytesIO(), {}
    if is_lossy:
        settings = {"irreversible": True, "quality_mode": "rates", "quality_layers": [3]}
    image = Image.fromarray(plane)
    image.save(stream, "JPEG2000", no_jp2=True, num_resolutions=4, **settings)
    data, parts, place = stream.getvalue(), {}, 2
    while (marker := int.from_bytes(data[place : place + 2], "big")) != 0xFF90:
        end = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        parts[marker] = data[place:end]
        place = end
    parts[0] = data[data.index(b"\xff\x93", place) + 2 : -2]
    return parts
