"""What is known of a slide before it is read: whose word wins, and under which names.

The slides table wins over the options, these over the catalogue's entry of `--dataset`. Organs and
stains get the names of the vocabulary; names that it does not know stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from manifests.catalog import Dataset, find_dataset, nearest_dataset
from manifests.tcga import parse_barcode
from manifests.vocabulary import FIELDS, Vocabulary

_SHOWN = 20


def described(
    name: str, constants: Mapping[str, str], from_table: Mapping[str, str]
) -> dict[str, str]:
    """All that is said of the slide in the file `name`: a TCGA barcode counts like the catalogue.

    Args:
        constants: curated fields that hold for all slides.
        from_table: those of the slide's row.
    """
    known: dict[str, str] = {}
    barcode = parse_barcode(name)
    if barcode is not None:
        known = {"patient": barcode.patient, "site": barcode.site}
        if barcode.sample_type is not None:
            known["sample_type"] = barcode.sample_type
    said = {**known, **constants, **from_table}
    dataset = _catalogued(constants, said)
    return said if dataset is None else {**_facts(dataset), **said}


def canonical(said: Mapping[str, str], vocabulary: Vocabulary) -> dict[str, str]:
    """The same fields with organ and stain under the vocabulary's names."""
    named = {f: vocabulary.canonical(f, said[f]) for f in FIELDS if f in said}
    return {**said, **named}


def assumed_mpp(
    given: float | None, constants: Mapping[str, str], said: Mapping[str, str]
) -> float | None:
    """µm per pixel of a slide that carries none: as given, else as the catalogue states it."""
    if given is not None:
        return given
    dataset = _catalogued(constants, said)
    return None if dataset is None else dataset.mpp


def catalogue_note(constants: Mapping[str, str], given_mpp: float | None) -> list[str]:
    """What a run takes from the catalogue, as one sentence; or the name that may be meant."""
    name = constants.get("dataset")
    if name is None:
        return []
    dataset = find_dataset(name)
    if dataset is None:
        near = nearest_dataset(name)
        if near is None:
            return []
        return [f"the catalogue has no dataset {name}; it has {near.name}"]
    words = {"license": "licence"}
    taken = [f"{words.get(f, f)} {v}" for f, v in _facts(dataset).items() if f not in constants]
    if dataset.mpp is not None and given_mpp is None:
        taken.append(f"{dataset.mpp:g} µm/px for what carries none")
    if not taken:
        return []
    *most, last = taken
    facts = f"{', '.join(most)} and {last}" if most else last
    return [f"{facts} from the catalogue's {dataset.name}, where nothing else is said"]


def vocabulary_note(curated: Iterable[Mapping[str, str]], vocabulary: Vocabulary) -> list[str]:
    """The organs and stains that the vocabulary does not know, each with the nearest it knows."""
    strange = vocabulary.unknown((f, known[f]) for known in curated for f in FIELDS if f in known)
    if not strange:
        return []
    shown = []
    for field, text, nearest in strange[:_SHOWN]:
        hint = "" if nearest is None else f" (did you mean {nearest}?)"
        shown.append(f"{field} {text}{hint}")
    more = f", and {len(strange) - _SHOWN} more" if len(strange) > _SHOWN else ""
    return [f"not in the vocabulary, and kept as written: {', '.join(shown)}{more}"]


def _catalogued(constants: Mapping[str, str], said: Mapping[str, str]) -> Dataset | None:
    """The catalogue's entry of `--dataset`, unless the table puts the slide into another one."""
    name = constants.get("dataset")
    return None if name is None or said.get("dataset") != name else find_dataset(name)


def _facts(dataset: Dataset) -> dict[str, str]:
    """What holds for all slides of a set: a set of several organs says nothing of one slide."""
    facts = {f: names[0] for f in FIELDS if len(names := getattr(dataset, f)) == 1}
    return facts if dataset.license is None else {**facts, "license": dataset.license}
