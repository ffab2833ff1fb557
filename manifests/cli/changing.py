"""Commands that change what a manifest says: `annotate`, `relink`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from manifests.cli.arguments import JSON, MANIFEST, OUTPUT, VOCABULARY
from manifests.console import exit_codes, printable

if TYPE_CHECKING:
    from manifests.combine.annotate import Annotated
    from manifests.combine.pseudonyms import Remaining
    from manifests.combine.relink import Relinked
    from manifests.model import Manifest

_SHOWN = 20


@click.command()
@MANIFEST
@OUTPUT
@click.option(
    "--csv",
    "table_path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="TABLE",
    help="What is known of the slides: one row per slide, named by `slide` (its file) or `id`.",
)
@click.option(
    "--on-conflict",
    type=click.Choice(["fail", "first", "last", "drop"]),
    default="fail",
    show_default=True,
    help="Where the table contradicts the manifest: list it and stop; the manifest counts; the "
    "table counts; or leave these slides out.",
)
@VOCABULARY
@click.option(
    "--pseudonymise",
    is_flag=True,
    help="Replace patient identifiers by salted hashes.",
)
@click.option(
    "--salt-file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="SALT",
    help="The secret that the hashes are made with; outside of the manifest's folder.",
)
@click.option("--new-salt", is_flag=True, help="Make that file, with a random secret.")
@JSON
@exit_codes()
def annotate(manifest_path: Path, **options: Any) -> None:
    """Add what a table knows to the slides of MANIFEST, or correct it.

    Rows name an entry by its id or its slide's file. Organ, stain, dataset, license, patient, site,
    scanner and sample_type fill the fields of that name, other columns are kept as columns. Empty
    cells say nothing. Ends with exit code 6 and the whole list if the table contradicts the
    manifest, or a slide would have two organs, stains or patients.
    """
    from manifests.jsonfile import load_manifest
    from manifests.placing import Destination, rebase

    _check_options(options)
    out: Path = options["out"]
    destination = Destination(out)
    manifest = rebase(load_manifest(manifest_path), out.parent)
    report: dict[str, Any] = {}
    salt = None
    if options["pseudonymise"]:
        folder = manifest_path if manifest_path.is_dir() else manifest_path.parent
        salt = _salt(options["salt_file"], [folder, out.parent], new=options["new_salt"])
    manifest, pseudonyms = _with_pseudonyms(manifest, salt, report)
    if options["table_path"] is not None:
        manifest = _with_table(manifest, salt, pseudonyms, options, report)
    if salt is not None:
        manifest = _cleaned(manifest, pseudonyms, report)
    destination.save(manifest)
    _print(out, report, as_json=options["as_json"])


def _check_options(options: dict[str, Any]) -> None:
    if options["table_path"] is None and not options["pseudonymise"]:
        raise click.UsageError("say --csv TABLE, --pseudonymise, or both")
    if options["pseudonymise"] and options["salt_file"] is None:
        raise click.UsageError("--pseudonymise needs --salt-file")
    if not options["pseudonymise"] and (options["salt_file"] or options["new_salt"]):
        raise click.UsageError("--salt-file and --new-salt go with --pseudonymise")


def _salt(file: Path, away_from: Iterable[Path], *, new: bool) -> bytes:
    from manifests.combine.pseudonyms import new_salt, read_salt

    return (new_salt if new else read_salt)(file, away_from)


def _with_pseudonyms(
    manifest: Manifest, salt: bytes | None, report: dict[str, Any]
) -> tuple[Manifest, dict[str, str]]:
    from manifests.combine.pseudonyms import rename_patients

    if salt is None:
        return manifest, {}
    renamed = rename_patients(manifest, salt)
    report |= {"identifiers_replaced": renamed.replaced, "pseudonyms_kept": renamed.kept}
    return renamed.manifest, dict(renamed.pseudonyms)


def _with_table(
    manifest: Manifest,
    salt: bytes | None,
    pseudonyms: dict[str, str],
    options: dict[str, Any],
    report: dict[str, Any],
) -> Manifest:
    from manifests.combine.annotate import ENTRY_KEY_COLUMNS
    from manifests.combine.annotate import annotate as add_facts
    from manifests.combine.pseudonyms import pseudonymise_table
    from manifests.slidetable import load_table
    from manifests.vocabulary import load_vocabulary

    table = load_table(options["table_path"], ENTRY_KEY_COLUMNS)
    if salt is not None:
        table, more = pseudonymise_table(table, salt)
        pseudonyms |= more
    vocabulary = load_vocabulary(options["vocabulary"])
    found = add_facts(manifest, table, vocabulary=vocabulary, on_conflict=options["on_conflict"])
    report |= _facts_report(found)
    return found.manifest


def _facts_report(found: Annotated) -> dict[str, Any]:
    return {
        "added": found.added,
        "changed": found.changed,
        "unchanged": found.unchanged,
        "conflicts": [conflict.sentence for conflict in found.conflicts],
        "dropped": list(found.dropped),
        "rows_without_entry": list(found.rows_without_entry),
        "entries_without_row": list(found.entries_without_row),
        "unknown_terms": [unknown._asdict() for unknown in found.unknown_terms],
    }


def _cleaned(manifest: Manifest, pseudonyms: dict[str, str], report: dict[str, Any]) -> Manifest:
    from manifests.combine.pseudonyms import clean_texts, remaining

    cleaned, texts = clean_texts(manifest, pseudonyms)
    found = remaining(cleaned, pseudonyms)
    report |= {"texts_cleaned": texts, **_remaining_report(found)}
    return cleaned


def _remaining_report(found: Remaining) -> dict[str, Any]:
    return {
        "left_in_manifest": list(found.in_manifest),
        "left_in_stores": list(found.in_stores),
        "stores_not_checked": found.unchecked,
        "identifiers_too_short": found.too_short,
    }


def _print(out: Path, report: dict[str, Any], *, as_json: bool) -> None:
    from manifests.files import pretty_json

    for note in _notes(report):
        click.echo(printable(f"Note: {note}"), err=True)
    for warning in _warnings(report):
        click.echo(printable(f"Warning: {warning}"), err=True)
    if as_json:
        click.echo(pretty_json(report).decode(), nl=False)
        return
    if "added" in report:
        facts = (f"{report[key]:,} {key}" for key in ("added", "changed", "unchanged"))
        click.echo(f"{out}: facts of the table: {', '.join(facts)}")
    if "identifiers_replaced" in report:
        click.echo(
            f"{out}: {report['identifiers_replaced']:,} patient identifiers replaced, "
            f"{report['pseudonyms_kept']:,} were pseudonyms already; "
            f"{report['texts_cleaned']:,} other texts cleaned"
        )


def _notes(report: dict[str, Any]) -> list[str]:
    from manifests.vocabulary import Unknown

    notes = _some("conflict solved", report.get("conflicts", []))
    notes += _some("entry left out", report.get("dropped", []))
    notes += _some("row names no entry", report.get("rows_without_entry", []))
    notes += _some("entry has no row", report.get("entries_without_row", []))
    notes += [Unknown(**unknown).sentence for unknown in report.get("unknown_terms", [])]
    if report.get("stores_not_checked"):
        notes.append(f"{report['stores_not_checked']:,} stores are not here and were not searched")
    if report.get("identifiers_too_short"):
        notes.append(
            f"{report['identifiers_too_short']:,} identifiers of fewer than 4 characters were not "
            "looked for in other texts"
        )
    return notes


def _warnings(report: dict[str, Any]) -> list[str]:
    warnings = []
    if left := report.get("left_in_manifest"):
        warnings.append(
            f"patient identifiers still stand in {len(left):,} places of the manifest: "
            f"{_listed(left)}; names of stores cannot be changed here: cut these slides again, "
            "with ids of your own in the slides table"
        )
    if left := report.get("left_in_stores"):
        warnings.append(
            f"patient identifiers still stand in {len(left):,} files of stores: {_listed(left)}"
        )
    return warnings


def _some(what: str, cases: list[str]) -> list[str]:
    """One note on all cases, if there are any."""
    return [f"{what} ({len(cases):,}): {_listed(cases)}"] if cases else []


def _listed(cases: list[str]) -> str:
    more = f", and {len(cases) - _SHOWN:,} more" if len(cases) > _SHOWN else ""
    return ", ".join(cases[:_SHOWN]) + more


@click.command()
@MANIFEST
@OUTPUT
@click.option(
    "--root",
    "stores",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Find the stores anywhere below this folder.",
)
@click.option("--from", "old", metavar="PREFIX", help="How paths or URLs begin now.")
@click.option("--to", "new", metavar="PREFIX", help="How they are to begin: a folder or a URL.")
@click.option("--partial", is_flag=True, help="With --root: leave out slides that are not found.")
@click.option(
    "--no-check", is_flag=True, help="With --to: do not look whether the stores are there."
)
@JSON
@exit_codes()
def relink(manifest_path: Path, **options: Any) -> None:
    """Write where the stores of MANIFEST lie now, after they were moved or copied.

    --root finds each store by its old path, by the end of it, or by its UUID. --from and --to
    replace the beginning of paths and URLs: `--from s3://bucket/set --to ./set`. A store counts as
    found only if its UUID and commit record fit.
    """
    from manifests.combine.relink import relink_below, relink_prefix
    from manifests.jsonfile import load_manifest
    from manifests.placing import Destination

    stores, old, new = options["stores"], options["old"], options["new"]
    if (stores is None) == (old is None) or (old is None) != (new is None):
        raise click.UsageError("say either --root DIR, or --from PREFIX and --to PREFIX")
    if (options["partial"] and stores is None) or (options["no_check"] and old is None):
        raise click.UsageError("--partial goes with --root, --no-check with --from and --to")
    out: Path = options["out"]
    destination = Destination(out)
    manifest = load_manifest(manifest_path)
    if stores is not None:
        found = relink_below(manifest, stores, out.parent, partial=options["partial"])
    else:
        check = not options["no_check"]
        found = relink_prefix(manifest, old, new, out.parent, check=check)
    destination.save(found.manifest)
    _print_relinked(found, out, as_json=options["as_json"])


def _print_relinked(found: Relinked, out: Path, *, as_json: bool) -> None:
    from manifests.files import pretty_json

    for name, reason in found.left_out.items():
        click.echo(printable(f"Note: {name} was left out: {reason}"), err=True)
    if as_json:
        report = {
            "moved": list(found.moved),
            "kept": list(found.kept),
            "left_out": dict(found.left_out),
        }
        click.echo(pretty_json(report).decode(), nl=False)
        return
    click.echo(
        f"{out}: {len(found.moved):,} stores found anew, {len(found.kept):,} left where they were, "
        f"{len(found.left_out):,} left out"
    )
