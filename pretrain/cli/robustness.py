"""`histopretrain robustness`: does an encoder know the tissue or the scanner?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from manifests.console import Display, exit_codes
from pretrain.cli.options import setting_options
from pretrain.cli.run import needs_extra
from pretrain.robust.settings import RobustSettings

if TYPE_CHECKING:
    from manifests.listing import Listing
    from pretrain.robust.found import Robustness
    from pretrain.scoring.intervals import Interval


@click.command()
@click.argument("encoders", metavar="ENCODER...", nargs=-1, required=True)
@click.argument("manifest", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@setting_options(RobustSettings)
def robustness(encoders: tuple[str, ...], manifest: Path, as_json: bool, **flags: Any) -> None:
    """Measure whether each ENCODER knows the tissue or the scanner, on the tiles of MANIFEST.

    Counts, among the nearest tiles of other patients, those of the same biology and another
    confounder (SO) and those of another biology and the same confounder (OS). The robustness index
    is SO / (SO + OS). Also says how well the neighbours predict both, and any other field, against
    chance. A colour histogram is measured along with the encoders.
    """
    with exit_codes():
        settings = RobustSettings(**{name: v for name, v in flags.items() if v is not None})
        with needs_extra():
            from pretrain.robust.measure import measure_robustness
        with needs_extra(), Display("encoders", quiet=as_json) as display:
            found = measure_robustness(encoders, manifest, settings, display.say)
        if as_json:
            from manifests.files import pretty_json

            click.echo(pretty_json(found.to_json()).decode(), nl=False)
            return
        from manifests.listing import print_listing

        click.echo(_heading(found))
        print_listing(_listing(found))


def _heading(found: Robustness) -> str:
    left_out = "".join(f", {n:,} left out ({why})" for why, n in found.left_out.items())
    rest = found.tiles - found.queries
    alone = f", {rest:,} of them only as neighbours" if rest else ""
    neighbours = "1 neighbour" if found.k == 1 else f"{found.k} neighbours"
    return (
        f"{found.biology} against {found.confounder}: {found.tiles:,} tiles{alone}{left_out}; "
        f"{found.units:,} units by {', '.join(found.by)}; {neighbours}"
    )


def _listing(found: Robustness) -> Listing:
    from manifests.listing import Column, Listing

    first = found.encoders[0]
    columns = [Column("encoder", "chance"), Column("robustness index", f"{found.chance:.3f}")]
    for name, prediction in first.predictions.items():
        chance = "" if prediction.chance is None else f"{prediction.chance:.3f}"
        columns.append(Column(f"knows {name}", chance))
    rows = [
        (
            encoder.name,
            _interval(encoder.index),
            *(_interval(said.accuracy) for said in encoder.predictions.values()),
        )
        for encoder in found.encoders
    ]
    return Listing(tuple(columns), rows)


def _interval(found: Interval) -> str:
    if found.value != found.value:  # NaN: not defined
        return "-"
    if found.low != found.low:
        return f"{found.value:.3f}"
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"
