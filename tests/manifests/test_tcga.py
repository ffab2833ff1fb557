"""TCGA barcodes in file names: real patterns and near misses."""

from __future__ import annotations

import pytest

from manifests.tcga import Barcode, parse_barcode

TUMOR, NORMAL = "Primary Solid Tumor", "Solid Tissue Normal"


@pytest.mark.parametrize(
    ("name", "patient", "site", "sample_type"),
    [
        # As the GDC names diagnostic (DX), top (TS) and bottom (BS) slides, with their UUID.
        (
            "TCGA-CR-7395-01A-01-TS1.9b9b8a1c-2b0f-4d0a-9a8e-0d1a4d1f7c11.svs",
            "TCGA-CR-7395",
            "CR",
            TUMOR,
        ),
        ("TCGA-A7-A0D9-01Z-00-DX2.52B5E2D6-2B7B-4D0B.svs", "TCGA-A7-A0D9", "A7", TUMOR),
        ("TCGA-55-6986-11A-01-BS1.svs", "TCGA-55-6986", "55", NORMAL),
        ("TCGA-D3-A1Q5-06A-01-TSA.svs", "TCGA-D3-A1Q5", "D3", "Metastatic"),
        ("TCGA-A7-A0D9", "TCGA-A7-A0D9", "A7", None),
        ("TCGA-A7-A0D9.svs", "TCGA-A7-A0D9", "A7", None),
        ("TCGA-A7-A0D9-01", "TCGA-A7-A0D9", "A7", TUMOR),
        ("TCGA-A7-A0D9-99Z-00-DX1", "TCGA-A7-A0D9", "A7", "code 99"),
        # Tiles and fields that public data sets cut from TCGA slides.
        (
            "TCGA-A7-A0D9-01Z-00-DX2_18001_32001_256.png",
            "TCGA-A7-A0D9",
            "A7",
            TUMOR,
        ),
        ("TCGA-A7-A0D9-01Z-00-DX2_18001_…", "TCGA-A7-A0D9", "A7", TUMOR),
        ("TCGA-G9-6336-01Z-00-DX1.tif", "TCGA-G9-6336", "G9", TUMOR),
        ("BRCA_TCGA-A7-A0D9-01Z-00-DX1", "TCGA-A7-A0D9", "A7", TUMOR),
        ("blca-TCGA-A7-A0D9-01Z-00-DX1", "TCGA-A7-A0D9", "A7", TUMOR),
        ("tcga-a7-a0d9-01z-00-dx2.svs", "TCGA-A7-A0D9", "A7", TUMOR),
    ],
)
def test_barcodes_are_found_in_the_names_that_occur(
    name: str, patient: str, site: str, sample_type: str | None
) -> None:
    assert parse_barcode(name) == Barcode(patient, site, sample_type)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "slide-7.svs",
        "TCGA",
        "TCGA-A7",
        "TCGA-A7-A0D",
        "TCGA-A7-A0D92",  # a participant has four characters
        "TCGA-A7-A0D92-01A",
        "TCGA-A75-A0D9-01A",  # a site has two
        "TCGA-A-A0D9-01A",
        "XTCGA-A7-A0D9-01A",
        "TCGA_A7_A0D9_01A",
        "TCGA A7 A0D9",
        "TCGA-A7-A0D9abc",
        "TARGET-30-PAAPFA-01A",
    ],
)
def test_near_misses_are_no_barcodes(name: str) -> None:
    assert parse_barcode(name) is None


def test_a_sample_part_that_is_none_is_not_read_as_one() -> None:
    for name in ("TCGA-A7-A0D9-012", "TCGA-A7-A0D9-0", "TCGA-A7-A0D9-1A", "TCGA-A7-A0D9-01ABC"):
        assert parse_barcode(name) == Barcode("TCGA-A7-A0D9", "A7", None), name
