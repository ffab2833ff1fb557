"""Pixel sizes: units, lies, and XML that means harm."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiler.slides import make
from tiler.errors import UnreadableSlide
from tiler.slides import open_slide, resolution


def ome(attributes: str) -> str:
    return (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        f'<Image ID="Image:0"><Pixels SizeC="3" SizeZ="1" SizeT="1" {attributes}>'
        '<TiffData IFD="0"/></Pixels></Image><Image><Pixels SizeC="9"/></Image></OME>'
    )


@pytest.mark.parametrize(
    ("size", "unit"),
    [
        ("0.25", None),
        ("0.25", "µm"),
        ("0.25", "μm"),
        ("250", "nm"),
        ("0.00025", "mm"),
        ("0.000025", "cm"),
        ("2500", "Å"),
    ],
)
def test_ome_units(size: str, unit: str | None) -> None:
    given = f'PhysicalSizeXUnit="{unit}" PhysicalSizeYUnit="{unit}"' if unit else ""
    found = resolution.read_ome(ome(f'PhysicalSizeX="{size}" PhysicalSizeY="{size}" {given}'))
    assert found.pixel_size.mpp == pytest.approx((0.25, 0.25))
    assert found.pixel_size.source == "ome-xml"
    assert (found.channels, found.planes, found.ifd) == (3, 1, 0)


@pytest.mark.parametrize(
    ("attributes", "problem"),
    [
        ('PhysicalSizeX="0.25"', None),
        ('PhysicalSizeX="0" PhysicalSizeY="0"', "not a positive number"),
        ('PhysicalSizeX="NaN" PhysicalSizeY="NaN"', "not a positive number"),
        ('PhysicalSizeX="abc" PhysicalSizeY="abc"', "is not a number"),
        ('PhysicalSizeX="0.25" PhysicalSizeY="0.275"', "differs by more than 5%"),
        ('PhysicalSizeX="1" PhysicalSizeXUnit="pixel" PhysicalSizeY="1"', "an unknown unit"),
    ],
)
def test_ome_sizes_that_are_not_believed(attributes: str, problem: str | None) -> None:
    size = resolution.read_ome(ome(attributes)).pixel_size
    assert (size.mpp, size.source) == (None, "none")
    assert size.problem is None if problem is None else problem in (size.problem or "")


def test_xml_that_means_harm_is_refused() -> None:
    bomb = '<!DOCTYPE OME [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><OME>&b;</OME>'
    with pytest.raises(UnreadableSlide, match="defines entities"):
        resolution.read_ome(bomb)
    with pytest.raises(UnreadableSlide, match="longer than 16 MiB"):
        resolution.read_ome("<OME>" + " " * 2**24 + "</OME>")
    for damaged in ("<OME>", "<OME/>", '<OME><Image><Pixels SizeC="x"/></Image></OME>'):
        with pytest.raises(UnreadableSlide, match="OME-XML"):
            resolution.read_ome(damaged)


@pytest.mark.parametrize(
    ("numbers", "unit", "mpp", "problem"),
    [
        ((40000, 40000), "centimeter", (0.25, 0.25), None),
        ((50800, 50800), "inch", (0.5, 0.5), None),
        ((40000, 40000), "none", None, None),
        ((72, 72), "inch", None, "a screen resolution"),
        ((0, 0), "centimeter", None, "not a positive number"),
        ((40000, 36000), "centimeter", None, "differs by more than"),
    ],
)
def test_tiff_tags(
    tmp_path: Path,
    numbers: tuple[int, int],
    unit: str,
    mpp: tuple[float, float] | None,
    problem: str | None,
) -> None:
    path = make.write_tiff(
        tmp_path / "a.tif", make.tissue_like(32, 32), resolution=numbers, resolutionunit=unit
    )
    with open_slide(path) as slide:
        facts = slide.facts
    assert facts.mpp == (pytest.approx(mpp) if mpp else None)
    assert facts.mpp_source == ("tiff tags" if mpp else "none")
    assert facts.mpp_problem is None if problem is None else problem in (facts.mpp_problem or "")
