"""Commands on names: `vocabulary`, and the group `catalog` with `list` and `show`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from manifests.cli.arguments import JSON, VOCABULARY
from manifests.console import exit_codes

if TYPE_CHECKING:
    from rich.table import Table

    from manifests.catalog import Dataset
    from manifests.vocabulary import Vocabulary


@click.command("vocabulary")
@click.argument("terms", nargs=-1, metavar="[TERM]...")
@VOCABULARY
@JSON
@exit_codes()
def show_vocabulary(terms: tuple[str, ...], *, vocabulary: Path | None, as_json: bool) -> None:
    """Show the names of organs and stains, or what each TERM becomes."""
    from manifests.console import print_table
    from manifests.vocabulary import load_vocabulary

    known = load_vocabulary(vocabulary)
    if terms:
        answers = [_answer(known, term) for term in terms]
        if as_json:
            _print_json(answers)
        else:
            for answer in answers:
                click.echo(_sentence(answer))
    elif as_json:
        _print_json(_terms_json(known))
    else:
        print_table(_terms_table(known))


def _answer(known: Vocabulary, text: str) -> dict[str, Any]:
    from manifests.vocabulary import FIELDS

    names = {f: known.canonical(f, text) for f in FIELDS if known.knows(f, text)}
    if names:
        return {"term": text, **names}
    nearest = {f: known.nearest(f, text) for f in FIELDS}
    return {"term": text, "nearest": {f: name for f, name in nearest.items() if name is not None}}


def _sentence(answer: dict[str, Any]) -> str:
    from manifests.console import printable
    from manifests.vocabulary import FIELDS

    term = printable(answer["term"])
    found = [f"the {field} {answer[field]}" for field in FIELDS if field in answer]
    if found:
        return f"{term}: {', or '.join(found)}"
    near = ", or ".join(f"the {field} {name}" for field, name in answer["nearest"].items())
    return f"{term}: not known" + (f"; did you mean {near}?" if near else "")


def _terms_json(known: Vocabulary) -> dict[str, Any]:
    from manifests.vocabulary import FIELDS

    return {
        field: [
            {"name": term.name, "codes": list(term.codes), "synonyms": list(term.synonyms)}
            for term in known.terms(field)
        ]
        for field in FIELDS
    }


def _terms_table(known: Vocabulary) -> Table:
    from rich.table import Table

    from manifests.vocabulary import FIELDS

    table = Table("field", "name", "codes", "synonyms", box=None, pad_edge=False)
    for field in FIELDS:
        for term in known.terms(field):
            table.add_row(field, term.name, ", ".join(term.codes), ", ".join(term.synonyms))
    return table


@click.group()
def catalog() -> None:
    """Look up public histopathology datasets."""


@catalog.command("list")
@click.option("--organ", metavar="NAME", help="Only sets that have this organ.")
@click.option("--stain", metavar="NAME", help="Only sets that have this stain; IHC: any marker.")
@click.option("--kind", type=click.Choice(["wsi", "patch", "roi"]), help="Only sets of this kind.")
@JSON
@exit_codes()
def list_datasets(*, organ: str | None, stain: str | None, kind: str | None, as_json: bool) -> None:
    """List the public datasets that histotile knows of."""
    from manifests.catalog import filter_datasets, load_catalog
    from manifests.console import print_table

    found = filter_datasets(
        load_catalog(), _known_name("organ", organ), _known_name("stain", stain), kind
    )
    if as_json:
        _print_json([_dataset_json(dataset) for dataset in found])
    else:
        print_table(_datasets_table(found))
        click.echo(f"{len(found)} of {len(load_catalog())} datasets", err=True)


def _known_name(field: str, text: str | None) -> str | None:
    from manifests.vocabulary import VocabularyError, load_vocabulary

    known = load_vocabulary()
    if text is None or known.knows(field, text):
        return None if text is None else known.canonical(field, text)
    nearest = known.nearest(field, text)
    hint = "" if nearest is None else f"; did you mean {nearest}?"
    raise VocabularyError(f"there is no {field} {text!r} in the vocabulary{hint}")


@catalog.command("show")
@click.argument("name")
@JSON
@exit_codes()
def show_dataset(name: str, *, as_json: bool) -> None:
    """Show all that is known of the dataset NAME, and where each fact comes from."""
    from manifests.catalog import find_dataset, nearest_dataset
    from manifests.console import print_table
    from manifests.errors import HistotileError

    dataset = find_dataset(name)
    if dataset is None:
        near = nearest_dataset(name)
        hint = (
            "`histotile catalog list` lists all" if near is None else f"did you mean {near.name}?"
        )
        raise HistotileError(f"the catalogue has no dataset {name!r}; {hint}")
    if as_json:
        _print_json(_dataset_json(dataset))
    else:
        print_table(_dataset_table(dataset))


def _dataset_json(dataset: Dataset) -> dict[str, Any]:
    """What is known, and nothing else: a field that is absent is not known."""
    from dataclasses import fields

    values = {field.name: getattr(dataset, field.name) for field in fields(dataset)}
    values["sources"] = dict(dataset.sources)
    return {key: value for key, value in values.items() if value is not None and value != ()}


def _datasets_table(datasets: list[Dataset]) -> Table:
    from rich.table import Table

    columns = ("name", "organ", "stain", "kind", "mpp", "year", "licence", "paper")
    table = Table(*columns, box=None, pad_edge=False)
    for dataset in datasets:
        table.add_row(
            dataset.name,
            _first_of(dataset.organ) or dataset.organ_stated or "-",
            ", ".join(dataset.stain) or dataset.stain_stated or "-",
            ", ".join(dataset.kind) or "-",
            "-" if dataset.mpp is None else f"{dataset.mpp:g}",
            "-" if dataset.year is None else str(dataset.year),
            dataset.license or "-",
            dataset.paper,
        )
    return table


def _first_of(names: tuple[str, ...]) -> str:
    """A cell that stays narrow: three names, and how many there are."""
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:3])}, … ({len(names)})"


def _dataset_table(dataset: Dataset) -> Table:
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    for key, value in _dataset_json(dataset).items():
        if key == "sources":
            for name, source in value.items():
                table.add_row("source" if name == "list" else f"source of {name}", source)
        else:
            text = ", ".join(value) if isinstance(value, tuple) else str(value)
            table.add_row(key.replace("_", " "), text)
    return table


def _print_json(value: object) -> None:
    from manifests.files import pretty_json

    click.echo(pretty_json(value).decode(), nl=False)
