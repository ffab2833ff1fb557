"""Tables and pictures of the study, from made-up evaluations with scores that are known."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docs.reproduction import figures, measure, plan
from docs.reproduction.report import report, spread
from docs.reproduction.steps import Bench, write_json

LC25000 = measure.SETS[0]


def write_evaluation(
    bench: Bench, labelled: measure.LabelledSet, seed: int, scores: Mapping[str, float]
) -> None:
    """An evaluation in which an encoder's linear score is as given, and k-NN a tenth below."""
    encoders = [
        {
            "name": name,
            "scores": {
                method: {labelled.main: {"value": value, "low": value - 0.2, "high": 1}}
                for method, value in (("linear", score), ("knn", score - 0.1))
            },
        }
        for name, score in scores.items()
    ]
    file = bench.out / measure.FOLDER / f"{labelled.name}-s{seed}-abc" / "evaluation.json"
    write_json(file, {"encoders": encoders})


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A bench in an empty folder."""
    return Bench(tmp_path, tmp_path)


VIEWS = plan.Experiment(
    "views",
    "Which?",
    (
        plan.Variant("one", (plan.Part(where="a"),), {"max-steps": 5, "batch-size": 4}),
        plan.Variant("other", encoder="random:resnet18"),
    ),
)


def key(seed: int) -> str:
    """What the results call the encoder of the first variant."""
    run = VIEWS.variants[0].run(seed)
    assert run is not None
    return run.key


def test_a_table_has_means_spreads_and_differences_seed_by_seed(bench: Bench) -> None:
    for seed, (one, other) in enumerate([(0.5, 0.7), (0.9, 1.0)]):
        scores = {key(seed): one, "random:resnet18": other, measure.HISTOGRAM: 0.4}
        write_evaluation(bench, LC25000, seed, scores)

    report(bench, [VIEWS], 2)

    text = (bench.out / "report" / "views.md").read_text()
    assert "| one | 0.700 (0.500 to 0.900) | 0.600 (0.400 to 0.800) | – |" in text
    assert "| other | +0.150 (+0.100 to +0.200) | – | – |" in text
    assert "| colour histogram | 0.400 (0.400 to 0.400) |" in text
    assert "| other | 0.700 (0.500 to 1.000) | – | – |" in text


def test_what_was_not_measured_is_a_dash(bench: Bench) -> None:
    report(bench, [VIEWS], 1)

    text = (bench.out / "report" / "views.md").read_text()
    assert "| one | – | – | – | – | – | – |" in text


def test_the_seconds_and_tiles_of_trainings_stand_below(bench: Bench) -> None:
    for seed in range(2):
        run = VIEWS.variants[0].run(seed)
        assert run is not None
        write_json(bench.record(f"run-{run.key}"), {"flags": {"max-steps": 5}})
        # Four tiles at two a second, five times: 10 s.
        line = json.dumps({"images_per_s": 2 - seed}) + "\n"
        (bench.out / "runs" / run.key).mkdir(parents=True)
        (bench.out / "runs" / run.key / "metrics.jsonl").write_text(5 * line)
        write_json(bench.record(f"data-{run.data_key}"), {"tiles": [1000, 234]})

    report(bench, [VIEWS], 2)

    text = (bench.out / "report" / "views.md").read_text()
    assert "| one | 1,234 | 5 | 10 · 20 |" in text


def test_the_picture_has_a_dot_for_each_score(bench: Bench) -> None:
    write_evaluation(bench, LC25000, 0, {key(0): 0.5, "random:resnet18": 0.7})

    report(bench, [VIEWS], 1)

    root = ElementTree.fromstring((bench.out / "report" / "views.svg").read_text())
    dots = root.findall(".//{http://www.w3.org/2000/svg}circle")
    assert len(dots) == 4 + len(("linear", "knn"))


def test_higher_scores_stand_further_right() -> None:
    values = {"linear": [[0.2], [0.9]], "knn": []}
    picture = figures.draw(["low", "high"], [figures.Panel("set", "F1", values)])

    root = ElementTree.fromstring(picture)
    dots = root.findall(".//{http://www.w3.org/2000/svg}circle")
    low, high = (float(dot.get("cx", "")) for dot in dots[:2])
    assert figures.NAMES_PX <= low < high <= figures.NAMES_PX + figures.PANEL_PX


@given(low=st.floats(-10, 10), width=st.floats(1e-3, 20))
def test_ticks_are_round_and_lie_inside(low: float, width: float) -> None:
    found = figures.ticks(low, low + width)

    assert 2 <= len(found) <= 7
    assert all(low - 1e-9 <= value <= low + width + 1e-9 for value in found)
    steps = {f"{one - other:.0e}"[0] for one, other in zip(found[1:], found, strict=False)}
    assert len(steps) == 1
    assert steps <= set("125")


def test_a_spread_is_a_mean_with_its_ends() -> None:
    assert spread([]) == "–"
    assert spread([0.25]) == "0.250"
    assert spread([0.1, -0.3], signed=True) == "-0.100 (-0.300 to +0.100)"


@pytest.mark.parametrize(
    ("encoder", "name"),
    [
        ("runs/0123456789/encoder.safetensors", "0123456789"),
        ("random:resnet18", "random:resnet18"),
        ("timm:net=folder/weights.safetensors", "timm:net=weights.safetensors"),
    ],
)
def test_a_result_is_found_by_the_name_that_evaluate_gives(encoder: str, name: str) -> None:
    assert measure.name_of(encoder) == name


def test_only_encoders_without_a_result_are_measured(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def pretend(self: Bench, *commands: list[str]) -> dict[str, object]:
        asked.extend(commands)
        return {}

    monkeypatch.setattr(Bench, "commands", pretend)
    write_evaluation(bench, LC25000, 0, {"random:resnet18": 0.5})

    measure.evaluate(bench, [VIEWS], 1, 64)

    # The first variant is not trained, and LC25000 has a result of the other: two sets are left.
    assert [words[2] for words in asked] == ["random:resnet18"] * 2
    assert [words[words.index("--label") + 1] for words in asked] == ["label", "tumour_share"]
    assert json.loads(bench.record(next(iter(steps(bench)))).read_text())["seconds"] >= 0


def steps(bench: Bench) -> list[str]:
    """The names of the steps that are done."""
    return [file.stem for file in (bench.out / "records").glob("*.json")]
