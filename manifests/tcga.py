"""What a TCGA barcode says: patient, tissue source site and sample type.

`TCGA-CR-7395-01A-01-TS1` is project TCGA, tissue source site CR, participant 7395, sample type 01,
vial A. Source: the GDC's documentation of TCGA barcodes and its sample type codes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_BARCODE = re.compile(
    r"(?<![A-Z0-9])TCGA-([A-Z0-9]{2})-([A-Z0-9]{4})(?:-([0-9]{2})[A-Z]?)?(?![A-Z0-9])"
)

SAMPLE_TYPES = {
    "01": "Primary Solid Tumor",
    "02": "Recurrent Solid Tumor",
    "03": "Primary Blood Derived Cancer - Peripheral Blood",
    "05": "Additional - New Primary",
    "06": "Metastatic",
    "07": "Additional Metastatic",
    "10": "Blood Derived Normal",
    "11": "Solid Tissue Normal",
    "12": "Buccal Cell Normal",
    "14": "Bone Marrow Normal",
}
"""GDC sample type codes that slides carry."""


@dataclass(frozen=True, slots=True)
class Barcode:
    """The parts of a barcode that a manifest keeps."""

    patient: str
    """`TCGA-CR-7395`: the first 12 characters."""
    site: str
    """Tissue source site, `CR`."""
    sample_type: str | None
    """GDC's name of the sample type, or None if the barcode ends before it."""


def parse_barcode(name: str) -> Barcode | None:
    """Find a TCGA barcode in a file name.

    >>> parse_barcode("TCGA-CR-7395-01A-01-TS1.svs").sample_type
    'Primary Solid Tumor'
    >>> parse_barcode("slide-7.svs")
    """
    found = _BARCODE.search(name.upper())
    if found is None:
        return None
    site, participant, sample = found.groups()
    sample_type = None if sample is None else SAMPLE_TYPES.get(sample, f"code {sample}")
    return Barcode(f"TCGA-{site}-{participant}", site, sample_type)
