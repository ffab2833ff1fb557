"""The command `histotile`: options in, exit codes out; all work happens elsewhere.

Talk goes to stderr, results to stdout. Heavy imports happen inside the commands, so that `--help`
is quick.
"""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from manifests.cli import catalog, manifest
from manifests.console import Display, exit_codes, print_table, without_blas_threads
from manifests.errors import EXIT_NONE_SUCCEEDED, EXIT_SOME_FAILED, EXIT_TERMINATED
from tiler.cli.options import ANY_PATH, JSON, KNOWN, NATIVE, SOURCES, TILES, WORKERS

if TYPE_CHECKING:
    from tiler.executor import Executor
    from tiler.request import Request


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="histotile")
def main() -> None:
    """Cut whole-slide images into tile stores, and look after what was cut."""


main.add_command(manifest)
main.add_command(catalog)


@main.command()
@SOURCES
@TILES
@KNOWN
@click.option(
    "--out",
    type=ANY_PATH,
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
@WORKERS
@click.option("--quiet", is_flag=True, help="No talk on stderr.")
@JSON
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
    without_blas_threads()
    from tiler.outcomes import MANIFEST_FILE, load_entries
    from tiler.outfolder import locked
    from tiler.report import ProgressReporter, result_json, result_table
    from tiler.request import make_workload
    from tiler.run import extract as extract_all

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
@SOURCES
@TILES
@WORKERS
@JSON
def inspect_command(**options: Any) -> None:
    """Show what `extract` would do with PATHS, before any work."""
    with exit_codes():
        code = _inspect(options)
    raise SystemExit(code)


def _inspect(options: dict[str, Any]) -> int:
    without_blas_threads()
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
@click.argument("folder", type=ANY_PATH, metavar="DIR")
@WORKERS
def demo(folder: Path, **options: Any) -> None:
    """Make a few synthetic slides in DIR, cut them, and train a few steps. Needs no data."""
    from tiler.demo import run_demo

    with exit_codes(), _stoppable():
        run_demo(folder, _executor(options), click.echo)


def _request(options: dict[str, Any]) -> Request:
    """Options into a checked request."""
    from manifests.slidetable import SlidesTable, load_table
    from manifests.vocabulary import load_vocabulary
    from tiler.errors import TilerError
    from tiler.request import Request

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
        if options["tile_size"] == NATIVE:
            raise TilerError(
                "--tile-size native does not apply to --packed: pictures have no tiles"
            )
        if options["reader"] != "auto":
            raise TilerError("--reader does not apply to --packed: pictures are no slides")
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
        vocabulary=load_vocabulary(options.get("vocabulary")),
    )


def _spec(options: dict[str, Any]) -> Any:
    from manifests.codec import TileCodec
    from tiler.options import TileSpec

    return TileSpec(
        mpps=options["mpps"],
        tile_size=256 if options["tile_size"] == NATIVE else options["tile_size"],
        native=options["tile_size"] == NATIVE,
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
        quality=not options["no_quality"],
        exact=options["exact"],
        reader=options["reader"],
    )


def _executor(options: dict[str, Any]) -> Executor:
    from tiler.executor import make_executor

    return make_executor(options["workers"], options["scheduler"], options["scheduler_file"])
