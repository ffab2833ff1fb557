"""Patient identifiers replaced by salted hashes, and a search for where they still stand.

A pseudonym is `hmac-` and the first 20 hexadecimal digits of HMAC-SHA256(salt, identifier), both as
UTF-8: the same patient has the same one in every manifest of one salt, and nobody without the salt
can compute or test it. The salt stays outside of the manifest's folder.
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from manifests.checks import short
from manifests.errors import EXIT_USAGE, HistotileError, ManifestError, StoreError
from manifests.files import Json
from manifests.jsonfile import manifest_json
from manifests.model import Manifest, StoreEntry
from manifests.slidetable import Row, SlidesTable
from manifests.store import TileStore

PREFIX = "hmac-"
DIGITS = 20
LEAST_SALT_BYTES = 16
SALT_BYTES = 32
LEAST_SOUGHT = 4
"""Characters of an identifier from which it is looked for in other texts: `7` stands everywhere."""

PATIENT_COLUMNS = ("patient", "patient_id", "case", "case_id", "subject", "subject_id", "mrn")
"""Columns that identify a patient, in upper or lower case, with or without `_`, `-` and spaces."""

_PATIENT_KEYS = {name.replace("_", "") for name in PATIENT_COLUMNS}
_PSEUDONYM = re.compile(rf"{PREFIX}[0-9a-f]{{{DIGITS}}}")
_SEPARATOR = re.compile(r"[\W_]")
_RUN = re.compile(r"[^\W\d_]+|\d+")
_OPAQUE_KEYS = {"bits", "uuid"}
_HASH = re.compile(r"(\w+:)?[0-9a-f]{16,}")
"""With the opaque keys, where any digits turn up by chance."""


class SaltError(HistotileError):
    """A salt is missing, too short, or lies where it must not."""

    exit_code = EXIT_USAGE


def new_salt(file: Path, away_from: Iterable[Path]) -> bytes:
    """Write 32 random bytes as hexadecimal digits to a file of mode 0600, and return the digits.

    Raises:
        SaltError: the file exists, or lies inside of one of the folders `away_from`.
    """
    _check_outside(file, away_from)
    salt = secrets.token_hex(SALT_BYTES).encode()
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise SaltError(
            f"{file} exists, and without it nobody can give a patient the same pseudonym again; "
            "leave out --new-salt to use it"
        ) from error
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(salt + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
    except BaseException:
        file.unlink(missing_ok=True)
        raise
    return salt


def read_salt(file: Path, away_from: Iterable[Path]) -> bytes:
    """The bytes of a salt file, without white space around them.

    Raises:
        SaltError: it is missing, shorter than 16 bytes, or inside of one of the folders
            `away_from`.
    """
    _check_outside(file, away_from)
    try:
        salt = file.read_bytes().strip()
    except FileNotFoundError as error:
        raise SaltError(f"there is no salt {file}; --new-salt makes one") from error
    except OSError as error:
        raise SaltError(f"the salt {file} cannot be read ({error.strerror})") from error
    if len(salt) < LEAST_SALT_BYTES:
        raise SaltError(
            f"the salt {file} has {len(salt)} bytes; it must have {LEAST_SALT_BYTES} or more, "
            "else it can be guessed"
        )
    return salt


def pseudonym(salt: bytes, identifier: str) -> str:
    """`hmac-` and 20 hexadecimal digits; what begins with `hmac-` is one already and is kept."""
    if identifier.startswith(PREFIX):
        return identifier
    return PREFIX + hmac.digest(salt, identifier.encode(), "sha256").hex()[:DIGITS]


def is_patient_column(name: str) -> bool:
    """Whether a column's name is one of `PATIENT_COLUMNS`, however it is spelled."""
    return re.sub(r"[^a-z0-9]", "", name.lower()) in _PATIENT_KEYS


@dataclass(frozen=True, slots=True)
class Renamed:
    """A manifest with pseudonyms in the place of patients."""

    manifest: Manifest
    pseudonyms: Mapping[str, str]
    """By identifier. Never to be written down next to the manifest."""
    replaced: int
    """Values of `patient` and of patient columns that were replaced."""
    kept: int
    """Values that were pseudonyms already."""


def rename_patients(manifest: Manifest, salt: bytes) -> Renamed:
    """Replace `patient` and the patient columns of all entries by pseudonyms.

    Other texts are left alone: see `clean_texts`, and `remaining` for what cannot be replaced.
    """
    values = [v for entry in manifest.stores for v in _identifiers(entry)]
    pseudonyms = {v: pseudonym(salt, v) for v in values if not v.startswith(PREFIX)}
    kept = sum(v.startswith(PREFIX) for v in values)
    entries = tuple(_renamed(entry, salt) for entry in manifest.stores)
    fresh = replace(manifest, stores=entries)
    return Renamed(fresh, pseudonyms, len(values) - kept, kept)


def clean_texts(manifest: Manifest, pseudonyms: Mapping[str, str]) -> tuple[Manifest, int]:
    """Take identifiers out of texts that a manifest can do without, and count those texts.

    Where an identifier stands in `source`, the entry's id takes the place of the whole name, if it
    does not hold one itself; in `reason`, `warnings` and the values of `columns`, the pseudonym
    takes the place of the identifier.
    """
    sought = Sought(pseudonyms)
    cleaned = [_without_identifiers(entry, sought) for entry in manifest.stores]
    entries = tuple(entry for entry, _ in cleaned)
    return replace(manifest, stores=entries), sum(changed for _, changed in cleaned)


def pseudonymise_table(table: SlidesTable, salt: bytes) -> tuple[SlidesTable, dict[str, str]]:
    """A slides table with pseudonyms for its patients, and those pseudonyms by identifier."""
    pseudonyms: dict[str, str] = {}

    def named(value: str) -> str:
        found = pseudonym(salt, value)
        if found != value:
            pseudonyms[value] = found
        return found

    def renamed(row: Row) -> Row:
        curated = {k: named(v) if k == "patient" else v for k, v in row.curated.items()}
        columns = {k: named(v) if is_patient_column(k) else v for k, v in row.columns.items()}
        return replace(row, curated=curated, columns=columns)

    rows = [renamed(row) for row in table.rows]
    return SlidesTable(rows, table.folder, table.file), pseudonyms


class Sought:
    """Identifiers that are looked for in texts, however long the list of them is.

    Neither case nor the kind of a separator counts: `TCGA_A7` is `tcga-a7`. An identifier is found
    where a run of letters or of digits begins and ends with it: `4711` in `img4711_b.svs`, not in
    `14711`. Shorter ones than `LEAST_SOUGHT` characters are not looked for.
    """

    def __init__(self, pseudonyms: Mapping[str, str]) -> None:
        self.pseudonyms = dict(pseudonyms)
        """By identifier."""
        cores = {_core(identifier): name for identifier, name in sorted(pseudonyms.items())}
        self._cores = {core: name for core, name in cores.items() if len(core) >= LEAST_SOUGHT}
        self._lengths = sorted({len(core) for core in self._cores}, reverse=True)

    @property
    def too_short(self) -> int:
        """Identifiers that are too short to be looked for."""
        return sum(len(_core(identifier)) < LEAST_SOUGHT for identifier in self.pseudonyms)

    def without(self, text: str) -> str:
        """The text with a pseudonym in place of every identifier."""
        parts, done = [], 0
        for start, stop, name in self._places(text):
            parts += [text[done:start], name]
            done = stop
        return "".join([*parts, text[done:]])

    def stands_in(self, text: str) -> bool:
        """Whether an identifier stands in the text; those within pseudonyms do not count."""
        return any(self._places(text))

    def _places(self, text: str) -> Iterator[tuple[int, int, str]]:
        folded = _PSEUDONYM.sub(lambda found: "-" * len(found[0]), _folded(text))
        if _HASH.fullmatch(text) and folded not in self._cores:
            return
        done = 0
        for run in _RUN.finditer(folded):
            start = run.start()
            for length in self._lengths if start >= done else ():
                stop = start + length
                name = self._cores.get(folded[start:stop])
                if name is not None and not _runs_on(folded, stop):
                    yield start, stop, name
                    done = stop
                    break


@dataclass(frozen=True, slots=True)
class Remaining:
    """Where identifiers still stand; no place repeats one."""

    in_manifest: tuple[str, ...]
    """Places in the file: `stores[3].id`. They cannot be changed without renaming stores."""
    in_stores: tuple[str, ...]
    """Files of stores: `stores[3]: sources.json`."""
    unchecked: int
    """Stores that could not be looked into."""
    too_short: int
    """Identifiers of fewer than `LEAST_SOUGHT` characters, which were not looked for."""


def remaining(manifest: Manifest, pseudonyms: Mapping[str, str]) -> Remaining:
    """Look for identifiers in a whole manifest, and in the metadata of its stores.

    In `sources.json` of packed stores, any value of a patient column that is no pseudonym counts,
    too. Pixels and thumbnails are not looked at.
    """
    sought = Sought(pseudonyms)
    places = dict.fromkeys(_found_in(manifest_json(manifest), "", sought))
    in_stores, unchecked = [], 0
    for index, entry in enumerate(manifest.stores):
        if entry.path is None:
            continue
        try:
            store = TileStore(manifest.store_path(entry))
            if any(_found_in(store.attributes, "", sought)):
                in_stores.append(f"stores[{index}]: zarr.json")
            if any(_found_in(store.sources(), "", sought, patient_columns=True)):
                in_stores.append(f"stores[{index}]: sources.json")
        except (ManifestError, StoreError):
            unchecked += 1
    return Remaining(tuple(places), tuple(in_stores), unchecked, sought.too_short)


def _check_outside(file: Path, folders: Iterable[Path]) -> None:
    for folder in folders:
        if file.resolve().is_relative_to(folder.resolve()):
            raise SaltError(
                f"the salt {file} lies inside of {short(str(folder))}, with the manifest: whoever "
                "gets one would get both; keep it elsewhere"
            )


def _identifiers(entry: StoreEntry) -> list[str]:
    columns = [value for name, value in entry.columns.items() if is_patient_column(name)]
    return [value for value in (entry.patient, *columns) if value]


def _renamed(entry: StoreEntry, salt: bytes) -> StoreEntry:
    return replace(
        entry,
        patient=entry.patient and pseudonym(salt, entry.patient),
        columns={
            name: pseudonym(salt, value) if value and is_patient_column(name) else value
            for name, value in entry.columns.items()
        },
    )


def _without_identifiers(entry: StoreEntry, sought: Sought) -> tuple[StoreEntry, int]:
    """The entry with its free texts cleaned, and how many of them that changed."""
    source = entry.source
    if sought.stands_in(source):
        source = sought.without(source) if sought.stands_in(entry.id) else entry.id
    reason = entry.reason and sought.without(entry.reason)
    warnings = tuple(sought.without(text) for text in entry.warnings)
    columns = {name: sought.without(value) for name, value in entry.columns.items()}
    old = (entry.source, entry.reason, *entry.warnings, *entry.columns.values())
    new = (source, reason, *warnings, *columns.values())
    changed = sum(one != other for one, other in zip(old, new, strict=True))
    if not changed:
        return entry, 0
    fresh = replace(entry, source=source, reason=reason, warnings=warnings, columns=columns)
    return fresh, changed


def _found_in(
    value: Json, where: str, sought: Sought, *, patient_columns: bool = False
) -> Iterator[str]:
    """Places of a JSON value that hold an identifier, keys included."""
    if isinstance(value, str):
        if sought.stands_in(value):
            yield where
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if key in _OPAQUE_KEYS:
                continue
            named = sought.stands_in(key)
            if named:
                yield where
            # A key may hold an identifier, or a dot: then the object around it must do.
            plain = re.fullmatch(r"[\w-]+", key) is not None and not named
            inner = f"{where}.{key}".lstrip(".") if plain else where
            if patient_columns and is_patient_column(key) and _is_plain(item):
                yield inner
            yield from _found_in(item, inner, sought, patient_columns=patient_columns)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            place = f"{where}[{index}]"
            yield from _found_in(item, place, sought, patient_columns=patient_columns)


def _is_plain(value: Json) -> bool:
    return isinstance(value, str) and bool(value) and not value.startswith(PREFIX)


def _folded(text: str) -> str:
    """Lower case, and `-` for all that is no letter or digit; every character keeps its place."""
    lower = text.lower()
    if len(lower) != len(text):
        lower = "".join(c.lower() if len(c.lower()) == 1 else c for c in text)
    return _SEPARATOR.sub("-", lower)


def _core(identifier: str) -> str:
    """An identifier as it is looked for: in lower case, without punctuation around it."""
    return _folded(identifier).strip("-")


def _runs_on(text: str, stop: int) -> bool:
    """Whether a run of letters or of digits goes on at a place."""
    if stop >= len(text):
        return False
    one, two = text[stop - 1], text[stop]
    return (one.isalpha() and two.isalpha()) or (one.isdigit() and two.isdigit())
