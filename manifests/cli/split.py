"""`histotile manifest split`: training, validation and test sets, and whether they leak."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from manifests.cli.arguments import JSON, MANIFEST, OUTPUT_IF_WRITTEN
from manifests.console import exit_codes, without_blas_threads

if TYPE_CHECKING:
    from manifests.model import Manifest
    from manifests.splits.leaks import Leak
    from manifests.splits.split import SplitResult, SplitRule

_MOST_SHOWN = 20
_SPLITTING = ("ratios", "names", "stratify", "exact", "seed", "holdout", "anew")
"""Options that say how to split, and so nothing to `--check`."""


def _ratios(_: click.Context, __: click.Parameter, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{text!r} must be numbers, as in 0.8,0.1,0.1") from error


def _names(_: click.Context, __: click.Parameter, text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",")) if text else ()


@click.command()
@MANIFEST
@OUTPUT_IF_WRITTEN
@click.option(
    "--by",
    metavar="NAME",
    help="What stays together: patient, site, ..., or a column of the slides table.  "
    "[default: patient; with --check, what the splits were made by]",
)
@click.option(
    "--ratios",
    default="0.8,0.1,0.1",
    show_default=True,
    callback=_ratios,
    metavar="R,R,...",
    help="Shares of the units; they sum to 1.",
)
@click.option(
    "--names",
    callback=_names,
    metavar="NAME,NAME,...",
    help="Names of the splits.  [default: train,val,test; of two: train,test]",
)
@click.option(
    "--stratify",
    callback=_names,
    metavar="NAME,NAME,...",
    help="Show shares for each combination of these, such as organ,stain, or label.",
)
@click.option(
    "--exact",
    is_flag=True,
    help="Fill quotas, in each stratum. Who is where an older FILE or MANIFEST says stays there.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Another one, other splits.")
@click.option(
    "--holdout",
    multiple=True,
    metavar="[SPLIT=]LIST",
    help="A text file of values or ids, one a line, that belong to SPLIT; default: to the last.",
)
@click.option("--anew", is_flag=True, help="Forget the splits that MANIFEST or an older FILE says.")
@click.option("--check", is_flag=True, help="Split nothing; fail with exit code 6 if splits leak.")
@click.option("--no-near", is_flag=True, help="With --check: do not look for what looks the same.")
@JSON
@click.pass_context
@exit_codes()
def split(context: click.Context, /, manifest_path: Path, **options: Any) -> None:
    """Split MANIFEST into training, validation and test sets, by patient.

    Where a patient goes depends on its name and the seed alone: slides that are added later never
    move it. Slides with one fingerprint stay together whatever they are called. Lists count most,
    then the splits that MANIFEST says, then the rule.

    With --check, every patient, slide and tile that lies in two splits is listed, also copies that
    were encoded anew or turned.
    """
    given = [
        f"--{name}"
        for name in _SPLITTING
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    ]
    if options["check"]:
        if options["out"] is not None or given:
            what = ", ".join([*(["-o"] if options["out"] is not None else []), *given])
            raise click.UsageError(f"--check changes nothing and takes no {what}")
        _check(manifest_path, options)
    elif options["out"] is None:
        raise click.UsageError("give the manifest to write by -o FILE, or --check")
    elif options["no_near"]:
        raise click.UsageError("--no-near belongs to --check")
    else:
        _split(manifest_path, options["out"], options)


def _split(manifest_path: Path, out: Path, options: dict[str, Any]) -> None:
    from manifests.jsonfile import load_manifest
    from manifests.placing import Destination
    from manifests.splits.holdout import read_list
    from manifests.splits.split import SplitRule, split_manifest

    rule = SplitRule(
        by=options["by"] or "patient",
        ratios=options["ratios"],
        names=options["names"],
        seed=options["seed"],
        stratify=options["stratify"],
        exact=options["exact"],
    )
    lists = [read_list(option, rule.names) for option in options["holdout"]]
    destination = Destination(out)
    manifest = load_manifest(manifest_path)
    older = _older(out, manifest_path) if rule.exact and not options["anew"] else None
    result = split_manifest(manifest, rule, lists=lists, older=older, anew=options["anew"])
    destination.save(result.manifest)
    _print(result, rule, out, as_json=options["as_json"])


def _older(out: Path, manifest_path: Path) -> Manifest | None:
    """The earlier result that is to be continued, if there is one besides the manifest itself."""
    from manifests.jsonfile import load_manifest

    file = manifest_path / "manifest.json" if manifest_path.is_dir() else manifest_path
    if not out.exists() or (file.exists() and out.samefile(file)):
        return None
    return load_manifest(out)


def _print(result: SplitResult, rule: SplitRule, out: Path, *, as_json: bool) -> None:
    from manifests.console import print_table, printable
    from manifests.files import pretty_json
    from manifests.splits.shares import (
        share_warnings,
        shares_json,
        shares_table,
        strata_of,
        total_of,
    )

    total, strata = total_of(result, rule), strata_of(result, rule)
    warnings = share_warnings(total, strata)
    if as_json:
        counts = {name: getattr(result, name) for name in ("listed", "moved", "kept", "differing")}
        found = {**shares_json(total, strata, rule), **counts, "warnings": warnings}
        click.echo(pretty_json(found).decode(), nl=False)
    else:
        print_table(shares_table(total, strata, rule))
    for note in _notes(result, rule):
        click.echo(f"Note: {printable(note)}", err=True)
    if warnings and not rule.exact:
        click.echo(
            "Note: units are drawn one by one, so small strata are off; --exact fills quotas",
            err=True,
        )
    for line in _first(warnings):
        click.echo(f"Warning: {printable(line)}", err=True)
    click.echo(f"{out}: {total.units:,} units, {total.tiles:,} tiles", err=True)


def _notes(result: SplitResult, rule: SplitRule) -> list[str]:
    """What a person should know of how the splits came about."""
    parts = [part for unit in result.units for part in unit.parts if part.value is None]
    pictures = sum(part.picture is not None for part in parts)
    counts = {"store": len(parts) - pictures, "picture": pictures}
    notes = [
        f"{count:,} {what if count == 1 else what + 's'} without {rule.by}: each a unit of its own"
        for what, count in counts.items()
        if count
    ]
    joined = [" = ".join(unit.values) for unit in result.units if len(unit.values) > 1]
    if joined:
        notes.append(f"one slide goes by several names, which are one unit: {_some(joined)}")
    if result.listed:
        notes.append(f"{result.listed:,} units are where a list puts them")
    if result.moved:
        notes.append(f"{result.moved:,} of them were in another split")
    if result.unused:
        notes.append(f"{result.unused:,} names of lists are of slides without tiles")
    if result.kept:
        differing = f"; the rule would put {result.differing:,} of them elsewhere"
        notes.append(
            f"{result.kept:,} units stay in the split that they were in"
            + (differing if result.differing else "")
            + " (--anew forgets it)"
        )
    return notes


def _some(names: list[str]) -> str:
    return ", ".join(names[:_MOST_SHOWN]) + (", …" if len(names) > _MOST_SHOWN else "")


def _first(lines: list[str]) -> list[str]:
    more = len(lines) - _MOST_SHOWN
    return [*lines[:_MOST_SHOWN], *([f"… and {more:,} more"] if more > 0 else [])]


def _check(manifest_path: Path, options: dict[str, Any]) -> None:
    without_blas_threads()
    from collections import Counter

    from manifests.console import Display, printable
    from manifests.files import pretty_json
    from manifests.jsonfile import load_manifest
    from manifests.splits.leaks import LEAK_KINDS, LeaksFound, find_leaks, units_to_check

    manifest = load_manifest(manifest_path)
    by = (options["by"],) if options["by"] else units_to_check(manifest)
    with Display("stores") as display:
        leaks = find_leaks(manifest, by, near=not options["no_near"], display=display)
    counts = Counter(leak.kind for leak in leaks)
    if options["as_json"]:
        found = {
            "by": list(by),
            "leaks": [leak.to_json() for leak in leaks],
            "counts": {kind: counts[kind] for kind in LEAK_KINDS},
        }
        click.echo(pretty_json(found).decode(), nl=False)
    else:
        for line in _leak_lines(leaks):
            click.echo(printable(line))
    outside = sum(e.split is None and not e.splits for e in manifest.committed())
    if outside:
        click.echo(f"Note: {outside:,} stores are in no split", err=True)
    if leaks:
        told = ", ".join(f"{count:,} × {kind}" for kind, count in counts.items())
        raise LeaksFound(f"{len(leaks):,} {'leak' if len(leaks) == 1 else 'leaks'}: {told}")
    click.echo("No leak was found.", err=True)


def _leak_lines(leaks: list[Leak]) -> list[str]:
    """The first leaks of each kind, a line each, and how many more there are."""
    found: list[str] = []
    for kind in dict.fromkeys(leak.kind for leak in leaks):
        sentences = [leak.sentence for leak in leaks if leak.kind == kind]
        found += [f"{kind}: {sentence}" for sentence in _first(sentences)]
    return found
