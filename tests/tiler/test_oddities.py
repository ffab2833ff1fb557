"""What is odd at first sight is said; what is usual is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tiler.oddities import oddities
from tiler.overview import read_overview
from tiler.slides import find_sources, open_slide
from tiler.synthetic import Stain, paint


@pytest.mark.parametrize("kind", ["he", "dab"])
def test_stained_slides_are_nothing_odd(kind: Stain) -> None:
    assert oddities(paint(kind, 512, 512, 1)) == ()


def test_a_mislabelled_colour_space_is_noticed() -> None:
    glass_as_ycbcr = np.full((64, 64, 3), (240, 128, 128), dtype=np.uint8)
    assert "colour space" in oddities(glass_as_ycbcr)[0]


def test_a_dark_picture_is_held_for_fluorescence() -> None:
    dark = np.full((64, 64, 3), 5, dtype=np.uint8)
    dark[10:20, 10:20] = (0, 0, 200)
    assert "fluorescence" in oddities(dark)[0]


def test_the_commonest_colour_is_named() -> None:
    picture = np.full((64, 64, 3), (240, 230, 235), dtype=np.uint8)
    picture[:40] = (33, 200, 255)
    assert "(40, 200, 248)" in oddities(picture)[0]
    picture[20:40] = (47, 192, 240)
    assert "(40, 200, 248)" in oddities(picture)[0], "16 grey levels count as one"
    picture[20:40] = (48, 192, 240)
    assert oddities(picture) == ()


def test_of_all_real_slides_only_the_mislabelled_and_the_fluorescent_are_odd(
    real_data: Path,
) -> None:
    folders = ["svs", "derived", "ndpi", "ome_tiff", "whole_section_jpeg", "ihc_fields"]
    odd = {}
    for source in find_sources([real_data / folder for folder in folders]).found:
        with open_slide(source.path) as slide:
            found = oddities(read_overview(slide, slide.facts.mpp or (5.0, 5.0)).pixels)
        if found:
            odd[source.name] = "fluorescence" if "dark" in found[0] else "colour"
    assert odd == {
        "CMU-1-Small-Region_pyramid": "colour",
        "OS-2-ndpi_pyramid": "colour",
        "test3-DAPI-2-(387)": "fluorescence",
        "test3-TRITC 2 (560)": "fluorescence",
    }
