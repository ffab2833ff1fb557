"""The documentation is true: every command and snippet shown is run, every option is listed."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from tiler.synthetic import paint, write_slide

ROOT = Path(__file__).parent.parent
WALKS = ["README.md", "docs/tutorial.md", "docs/how_to.md"]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the things that the pages speak of."""
    folder = tmp_path_factory.mktemp("walk")
    (folder / "slides").mkdir()
    for name, kind, seed in (("colon-1", "he", 1), ("breast-1", "dab", 3)):
        pixels = paint("he" if kind == "he" else "dab", 2304, 2048, seed)
        write_slide(folder / "slides" / f"{name}.tif", pixels, 0.5)
    table = next(
        text
        for kind, text in BLOCK.findall((ROOT / "README.md").read_text())
        if "slide,organ" in text
    )
    (folder / "slides.csv").write_text(table)
    ring = [[0, 0], [2304, 0], [2304, 1024], [0, 1024], [0, 0]]
    region = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}}
    region["properties"] = {"objectType": "annotation", "classification": {"name": "Tumor"}}
    (folder / "regions.geojson").write_text(json.dumps(region))
    make_fields(folder)
    make_pictures(folder)
    make_labelled(folder)
    return folder


def make_fields(folder: Path) -> None:
    """Two plain pictures of a kidney in two stains, and a table of them."""
    (folder / "fields").mkdir()
    for name, pixels in (
        ("kidney-1", paint("he", 1024, 768, 5)),
        ("kidney-2", paint("dab", 1024, 768, 6)),
    ):
        Image.fromarray(pixels).save(folder / "fields" / f"{name}.png")
    table = ["slide,organ,stain,patient", "kidney-1.png,Kidney,hematoxylin-eosin,P-003"]
    table += ["kidney-2.png,kidney,Ki-67 (IHC),P-004"]
    (folder / "fields.csv").write_text("\n".join(table) + "\n")


def make_pictures(folder: Path) -> None:
    """Ready-made tiles, one of them a mirrored copy of another, and a table of them."""
    whole = paint("he", 512, 512, 7)
    table = ["slide,group"]
    for number, kind in enumerate(("colon_a", "colon_b", "lung_a")):
        (folder / "ready_made" / kind).mkdir(parents=True)
        tile = whole[128 : 128 + 64, 128 * number + 64 : 128 * number + 128]
        copies = (tile, tile[:, ::-1]) if kind == "lung_a" else (tile,)
        for copy, pixels in enumerate(copies, start=1):
            Image.fromarray(pixels).save(folder / "ready_made" / kind / f"{copy}.png")
            table.append(f"{kind}/{copy}.png,{kind}")
    (folder / "pictures.csv").write_text("\n".join(table) + "\n")


def make_labelled(folder: Path) -> None:
    """Tiles of two classes, six patients and two sites, and a table of them."""
    table = ["slide,patient,site"]
    for kind, name in (("he", "stroma"), ("dab", "tumour")):
        (folder / "labelled" / name).mkdir(parents=True)
        for patient in range(6):
            whole = paint(kind, 640, 640, 20 + patient)  # type: ignore[arg-type]
            for number in range(3):
                y, x = 256 + 64 * (number // 2), 256 + 64 * (number % 2)
                file = f"{name}/{patient}-{number}.png"
                Image.fromarray(whole[y : y + 64, x : x + 64]).save(folder / "labelled" / file)
                table.append(f"{file},P-{patient:03},{'north' if patient % 2 else 'south'}")
    (folder / "labelled.csv").write_text("\n".join(table) + "\n")


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command as a person would, with the programs of this environment."""
    programs = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(
        shlex.split(command),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("page", WALKS)
def test_every_command_and_snippet_of_a_page_runs_in_its_order(page: str, bench: Path) -> None:
    made = "tiles run cohort cohorts run-sharp run-mixed run-further exam evaluation features bags"
    for earlier in made.split():
        subprocess.run(["rm", "-rf", str(bench / earlier)], check=True)
    ran = 0
    for kind, text in BLOCK.findall((ROOT / page).read_text()):
        if kind == "console":
            for line in text.splitlines():
                assert line.startswith("$ "), f"{page}: {line}"
                done = shell(line.removeprefix("$ "), bench)
                assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
                ran += 1
        elif kind == "python":
            done = subprocess.run(
                [sys.executable, "-c", text], cwd=bench, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{text}\n{done.stderr}"
            ran += 1
    assert ran >= 3


@pytest.mark.slow
def test_the_demo_of_the_readme_goes_the_whole_way_and_again(tmp_path: Path) -> None:
    for _ in range(2):
        done = shell("histotile demo demo/", tmp_path)
        assert done.returncode == 0, done.stderr
        assert "Manifest   demo/tiles/manifest.json" in done.stdout
    assert (tmp_path / "demo" / "run" / "encoder.safetensors").is_file()
    statuses = re.findall(r"^ +[\w-]+ +(done|empty|failed) ", done.stdout, re.MULTILINE)
    assert sorted(statuses) == ["done"] * 4 + ["empty"]


@pytest.mark.parametrize(
    "page",
    [
        *sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/**/*.md")),
        "README.md",
        "CONTRIBUTING.md",
    ],
)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / page).read_text()):
        if not target.startswith("http"):
            assert ((ROOT / page).parent / target).exists(), target


def test_the_readme_names_the_two_commands_that_set_everything_up() -> None:
    readme = (ROOT / "README.md").read_text()
    assert "pip install '.[pretrain]' && histotile demo demo/" in readme
    assert "pip install -e '.[pretrain,test]' && pytest" in readme


def cli_reference() -> str:
    """The page docs/reference/cli.md."""
    from manifests.cli import manifest
    from pretrain.cli import main as histopretrain
    from tiler.cli import main as histotile

    parts = [
        "# Command line\n\nWhat `--help` prints. Exit codes: 0 all done, 2 wrong usage, "
        "3 some slides failed, 4 none succeeded,\n5 data fails its checks, 6 conflict or leak, "
        "75 try again later, 130 and 143 interrupted.\n"
    ]
    for program, command, arguments in (
        ("histotile", histotile, ["extract"]),
        ("histotile", histotile, ["inspect"]),
        *(("histotile", histotile, ["manifest", verb]) for verb in sorted(manifest.commands)),
        ("histotile", histotile, ["catalog", "list"]),
        ("histotile", histotile, ["catalog", "show"]),
        ("histotile", histotile, ["demo"]),
        *(
            ("histopretrain", histopretrain, [verb])
            for verb in ("run", "sample", "export", "embed", "evaluate", "robustness", "bench")
        ),
    ):
        shown = CliRunner().invoke(
            command, [*arguments, "--help"], prog_name=program, terminal_width=100
        )
        title = " ".join([program, *arguments])
        parts.append(f"## {title}\n\n```text\n{shown.output.strip()}\n```\n")
    return "\n".join(parts)


def test_the_reference_of_the_command_line_is_what_help_prints() -> None:
    # In a process of its own: click remembers the help option of a command that ran without its
    # group, as other tests run it.
    script = "from tests.test_docs import cli_reference; print(cli_reference(), end='')"
    printed = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    page = (ROOT / "docs/reference/cli.md").read_text()
    assert page == printed, "write it anew with: python -m tests.test_docs"


if __name__ == "__main__":
    (ROOT / "docs/reference/cli.md").write_text(cli_reference())
