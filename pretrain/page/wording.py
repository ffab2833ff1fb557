"""What the page of an evaluation says in words: of what, how it was made, and what to beware of.

Everything that a manifest or a file says is one line of text here; the template escapes it.
"""

from __future__ import annotations

from collections import Counter

from manifests.listing import many, one_line
from pretrain.results.result import MOST_SENTENCES, Evaluation, LeakNote


def encoder_names(evaluation: Evaluation) -> tuple[str, ...]:
    """The encoders' names; those that are there twice get the start of their hash."""
    names = [one_line(encoder.name) for encoder in evaluation.encoders]
    count = Counter(names)
    return tuple(
        f"{name} ({(encoder.sha256 or 'none')[:8]})" if count[name] > 1 else name
        for name, encoder in zip(names, evaluation.encoders, strict=True)
    )


def headline(evaluation: Evaluation) -> str:
    encoders = many(sum(e.kind != "baseline" for e in evaluation.encoders), "encoder")
    what = evaluation.label or "tissue masks"
    tiles = many(evaluation.split.tiles.get("test", 0), "test tile")
    units = _unit_count(evaluation, evaluation.split.units.get("test", 0))
    return one_line(f"{what}: {encoders} on {tiles} of {units}")


def _unit_count(evaluation: Evaluation, count: int) -> str:
    by = evaluation.split.by
    if len(by) == 1:
        return many(count, by[0])
    return f"{many(count, 'unit')} ({evaluation.over})"


def units(evaluation: Evaluation) -> str:
    """What belongs together, in a word for several."""
    by = evaluation.split.by
    return one_line(f"{by[0]}s") if len(by) == 1 else "units"


def facts(evaluation: Evaluation) -> list[tuple[str, str]]:
    split = evaluation.split
    counted = [
        (f"{name}: tiles / {units(evaluation)}", f"{tiles:,} / {split.units.get(name, 0):,}")
        for name, tiles in split.tiles.items()
    ]
    return [*counted, *([("classes", f"{len(evaluation.classes)}")] if evaluation.classes else [])]


def warnings(evaluation: Evaluation) -> list[tuple[str, list[str]]]:
    """What a reader must know before any number: sentences, each with more of its kind."""
    found: list[tuple[str, list[str]]] = []
    leaks = evaluation.split.leaks
    if leaks is not None and leaks.count:
        told = [one_line(text) for text in leaks.sentences[:MOST_SENTENCES]]
        more = leaks.count - len(told)
        found.append((_leak_sentence(leaks), [*told, *([f"{more:,} more"] if more > 0 else [])]))
    if evaluation.split.val_from_train:
        found.append(("There was no validation split: it was taken from the training tiles.", []))
    left_out = [
        f"{one_line(reason)}: {many(count, 'tile')}"
        for reason, count in evaluation.split.left_out.items()
        if count
    ]
    if left_out:
        found.append(("Tiles that do not count.", left_out))
    return found


def _leak_sentence(leaks: LeakNote) -> str:
    if leaks.policy == "keep":
        return (
            f"{many(leaks.count, 'leak')} between the splits were kept: the test scores are too "
            "good, by an amount that nobody knows."
        )
    return (
        f"{many(leaks.count, 'leak')} between the splits: {many(leaks.left_out, 'tile')} of "
        "validation and test were left out for it."
    )


def settings(evaluation: Evaluation) -> list[tuple[str, str]]:
    size = evaluation.image_size
    looked = "units, slides and equal tiles" + (
        ", and tiles that look alike" * evaluation.split.near
    )
    return [
        ("task", evaluation.task),
        ("manifest (sha256)", evaluation.manifest_sha256),
        ("pictures brought to", f"{size} px" if size else "what each encoder needs"),
        ("seed", str(evaluation.seed)),
        ("leaks looked for", looked),
        (
            "intervals",
            f"{100 * evaluation.level:g} %, bootstrap over {units(evaluation)}, "
            f"{evaluation.resamples:,} resamples",
        ),
    ]


def provenance(evaluation: Evaluation, names: tuple[str, ...]) -> list[tuple[str, list[str]]]:
    """A row for each encoder: what it is, and what was chosen for it."""
    return [
        (
            name,
            [
                " ".join(one_line(f"{found.arch} {found.library}").split()) or "–",
                f"{found.features:,}",
                ", ".join(f"{x:g} × {y:g}" if x != y else f"{x:g}" for x, y in found.mpp) or "–",
                ", ".join(f"{key} = {value:g}" for key, value in found.chosen.items()) or "–",
                ", ".join(f"{key} {value:,.1f} s" for key, value in found.seconds.items()) or "–",
                (found.sha256 or "–")[:16],
            ],
        )
        for name, found in zip(names, evaluation.encoders, strict=True)
    ]
