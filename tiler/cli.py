"""The command `histotile`: options in, exit codes out; all work happens elsewhere.

Talk goes to stderr, results to stdout. Heavy imports happen inside the commands, so that `--help`
is quick.
"""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from manifests.cli import manifest
from manifests.console import Display, exit_codes, print_table
from manifests.errors import EXIT_NONE_SUCCEEDED, EXIT_SOME_FAILED, EXIT_TERMINATED

if TYPE_CHECKING:
    from tiler.executor import Executor
    from tiler.request import Request

Command = TypeVar("Command", bound=Callable[..., Any])

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_ANY = click.Path(path_type=Path)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="histotile")
def main() -> None:
    """Cut whole-slide images into tile stores, and look after what was cut."""


main.add_command(manifest)


def _with(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def apply(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return apply


# Each option is defined once, and grouped by what it is about.

_SOURCES = _with(
    click.argument("paths", nargs=-1, required=True, type=_ANY),
    click.option(
        "--slides",
        type=_FILE,
        metavar="CSV",
        help="Table with a row per slide: the column slide, and any of organ, stain, dataset, "
        "license, patient, site, scanner, mpp, id, roi, or columns of your own.",
    ),
    click.option(
        "--assume-mpp",
        type=float,
        metavar="MPP",
        help="µm/px of slides and pictures that carry none.",
    ),
)
_TILES = _with(
    click.option(
        "--mpp",
        "mpps",
        type=float,
        multiple=True,
        metavar="MPP",
        help="µm per pixel of the tiles; give it several times for several resolutions.",
    ),
    click.option(
        "--tile-size",
        type=int,
        default=256,
        show_default=True,
        metavar="PX",
        help="Side of a tile.",
    ),
    click.option(
        "--stride",
        type=int,
        metavar="PX",
        help="Distance of neighbouring tiles; default: the tile size.",
    ),
    click.option(
        "--edge",
        type=click.Choice(["drop", "pad"]),
        default="drop",
        show_default=True,
        help="Tiles that reach over the slide's edge: leave them out, or pad them.",
    ),
    click.option(
        "--min-tissue",
        type=float,
        metavar="SHARE",
        help="Least share of a tile that is tissue; default 0.5.",
    ),
    click.option("--no-tissue", is_flag=True, help="Keep tiles without tissue too."),
    click.option(
        "--roi",
        type=click.Path(exists=True, path_type=Path),
        metavar="GEOJSON",
        help="Regions from QuPath to keep or exclude: a file, or a folder with one per slide.",
    ),
    click.option(
        "--roi-exclude",
        multiple=True,
        metavar="CLASS",
        help="Class of regions to exclude, besides Ignore*, Exclude*, Artifact*, Pen.",
    ),
    click.option(
        "--max-tiles",
        type=int,
        metavar="K",
        help="Keep at most K tiles per slide and resolution, drawn uniformly.",
    ),
    click.option("--seed", type=int, default=0, show_default=True, help="Seed of that draw."),
    click.option(
        "--mpp-tolerance",
        type=float,
        default=0.01,
        show_default=True,
        metavar="SHARE",
        help="Take a level as it is if its mpp is this close to the one asked for.",
    ),
    click.option(
        "--allow-upsample",
        is_flag=True,
        help="Interpolate slides that are coarser than --mpp instead of failing them.",
    ),
    click.option(
        "--codec",
        type=click.Choice(["jpeg", "zstd"]),
        default="jpeg",
        show_default=True,
        help="jpeg (small) or zstd (lossless).",
    ),
    click.option(
        "--quality",
        type=click.IntRange(1, 100),
        default=90,
        show_default=True,
        help="JPEG quality.",
    ),
    click.option(
        "--subsampling",
        type=click.Choice(["444", "422", "420"]),
        default="444",
        show_default=True,
        help="JPEG chroma subsampling.",
    ),
    click.option(
        "--shard-tiles", type=int, default=512, show_default=True, help="Tiles in a shard."
    ),
)
_KNOWN = _with(
    click.option("--organ", metavar="NAME", help="Organ of all slides."),
    click.option("--stain", metavar="NAME", help="Stain of all slides."),
    click.option("--dataset", metavar="NAME", help="Dataset that all slides belong to."),
    click.option("--license", "licence", metavar="NAME", help="Licence of all slides."),
)
_WORKERS = _with(
    click.option(
        "--workers",
        type=click.IntRange(0),
        metavar="N",
        help="Worker processes; default: one per CPU; 0: in this process.",
    ),
    click.option("--scheduler", metavar="tcp://HOST:PORT", help="Use a running Dask scheduler."),
    click.option(
        "--scheduler-file", type=_FILE, metavar="FILE", help="The same, by its scheduler file."
    ),
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


@main.command()
@_SOURCES
@_TILES
@_KNOWN
@click.option(
    "--out",
    type=_ANY,
    default=Path("tiles"),
    show_default=True,
    help="Folder for the stores and the manifest.",
)
@click.option(
    "--packed", is_flag=True, help="PATHS are folders of ready-made tiles: one store per folder."
)
@click.option(
    "--label-from",
    metavar="RULE",
    help="With --packed: class labels from the folder name (parent), by regex:PATTERN, or from a "
    "column of --slides.",
)
@click.option(
    "--organ-from",
    metavar="RULE",
    help="With --packed: the organ, by the same rules; one store per organ.",
)
@click.option(
    "--overwrite", is_flag=True, help="Cut stores anew that were made with other settings."
)
@click.option(
    "--preview", is_flag=True, help="Draw a picture per slide with tissue outline and tiles."
)
@_WORKERS
@click.option("--quiet", is_flag=True, help="No talk on stderr.")
@_JSON
def extract(**options: Any) -> None:
    """Cut tissue tiles of PATHS (slides, or folders of them) into tile stores.

    Running the same command again continues where it stopped.
    """
    with exit_codes(), _stoppable():
        code = _extract(options)
    raise SystemExit(code)


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """End in order on SIGTERM and SIGHUP, as on Ctrl-C: what is finished is in the manifest."""

    def stop(_number: int, _frame: object) -> None:
        raise SystemExit(EXIT_TERMINATED)

    # A closed connection (SIGHUP) ends a run as a batch system does.
    before = {n: signal.signal(n, stop) for n in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        click.echo("Stopped early; run the same command again to continue.", err=True)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _extract(options: dict[str, Any]) -> int:
    from tiler.outcomes import MANIFEST_FILE, load_entries
    from tiler.report import ProgressReporter, result_json, result_table
    from tiler.request import make_workload
    from tiler.run import extract as extract_all
    from tiler.run import locked

    request = _request(options)
    workload = make_workload(request)
    count = len(workload.works)
    with Display("shards", quiet=options["quiet"]) as display, locked(request.out):
        display.say(f"Writing {count} {'store' if count == 1 else 'stores'} to {request.out}")
        for note in workload.notes:
            display.say(f"Note: {note}")
        result = extract_all(
            workload,
            request.out,
            _executor(options),
            ProgressReporter(display),
            overwrite=request.overwrite,
            preview=request.preview,
        )
    entries = load_entries(request.out, result.statuses)
    if options["as_json"]:
        click.echo(json.dumps(result_json(result, entries), indent=1))
    else:
        print_table(result_table(result, entries))
        click.echo(f"Manifest: {request.out / MANIFEST_FILE}")
    return result.exit_code


@main.command("inspect")
@_SOURCES
@_TILES
@_WORKERS
@_JSON
def inspect_command(**options: Any) -> None:
    """Show what `extract` would do with PATHS, before any work."""
    with exit_codes():
        code = _inspect(options)
    raise SystemExit(code)


def _inspect(options: dict[str, Any]) -> int:
    from tiler.inspect import inspect_all, inspections_json, inspections_table
    from tiler.request import make_workload

    request = _request({**options, "out": Path("tiles")})
    workload = make_workload(request)
    for note in workload.notes:
        click.echo(f"Note: {note}", err=True)
    found = inspect_all(workload, _executor(options))
    if options["as_json"]:
        click.echo(json.dumps(inspections_json(found), indent=1, ensure_ascii=False))
    else:
        print_table(inspections_table(found))
    return 0 if all(item.status == "ok" for item in found) else _some_or_none_failed(found)


def _some_or_none_failed(found: list[Any]) -> int:
    any_good = any(item.status == "ok" for item in found)
    return EXIT_SOME_FAILED if any_good else EXIT_NONE_SUCCEEDED


@main.command()
@click.argument("folder", type=_ANY, metavar="DIR")
@_WORKERS
def demo(folder: Path, **options: Any) -> None:
    """Make a few synthetic slides in DIR, cut them, and train a few steps. Needs no data."""
    from tiler.demo import run_demo

    with exit_codes(), _stoppable():
        run_demo(folder, _executor(options), click.echo)


def _request(options: dict[str, Any]) -> Request:
    """Options into a checked request."""
    from tiler.errors import TilerError
    from tiler.request import Request
    from tiler.slidetable import SlidesTable, load_table

    packed = options.get("packed", False)
    if not packed:
        if not options["mpps"]:
            raise TilerError("say the resolution of the tiles with --mpp, for example --mpp 0.5")
        for name in ("label_from", "organ_from"):
            if options.get(name):
                raise TilerError(f"--{name.replace('_', '-')} needs --packed")
    else:
        for name in ("min_tissue", "no_tissue", "roi", "max_tiles", "preview"):
            if options.get(name) not in (None, False):
                raise TilerError(
                    f"--{name.replace('_', '-')} does not apply to --packed: "
                    "all ready-made tiles are kept"
                )
    table = options["slides"]
    constants = {
        "organ": options.get("organ"),
        "stain": options.get("stain"),
        "dataset": options.get("dataset"),
        "license": options.get("licence"),
    }
    return Request(
        paths=options["paths"],
        out=options["out"],
        spec=_spec(options),
        table=SlidesTable(()) if table is None else load_table(table),
        assumed_mpp=options["assume_mpp"],
        constants={key: value for key, value in constants.items() if value},
        roi=options["roi"],
        roi_exclude=options["roi_exclude"],
        packed=packed,
        label_from=options.get("label_from"),
        organ_from=options.get("organ_from"),
        overwrite=options.get("overwrite", False),
        preview=options.get("preview", False),
    )


def _spec(options: dict[str, Any]) -> Any:
    from manifests.codec import TileCodec
    from tiler.options import TileSpec

    return TileSpec(
        mpps=options["mpps"],
        tile_size=options["tile_size"],
        stride=options["stride"],
        edge=options["edge"],
        min_tissue=0.5 if options["min_tissue"] is None else options["min_tissue"],
        tissue=not options["no_tissue"],
        max_tiles=options["max_tiles"],
        seed=options["seed"],
        mpp_tolerance=options["mpp_tolerance"],
        allow_upsample=options["allow_upsample"],
        shard_tiles=options["shard_tiles"],
        codec=TileCodec(
            options["codec"], quality=options["quality"], subsampling=options["subsampling"]
        ),
    )


def _executor(options: dict[str, Any]) -> Executor:
    from tiler.executor import make_executor

    return make_executor(options["workers"], options["scheduler"], options["scheduler_file"])
