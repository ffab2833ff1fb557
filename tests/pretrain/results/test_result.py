"""A result becomes JSON of one form, with null for what is not defined and no place of a disk."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from manifests.files import pretty_json
from pretrain.errors import ConfigError
from pretrain.results.gains import with_gains
from pretrain.results.result import (
    METRICS,
    CurvePoint,
    EncoderResult,
    Evaluation,
    LeakNote,
    SplitNote,
)
from pretrain.results.settings import CLASSIFICATION, REGRESSION, SEGMENTATION, EvaluateSettings
from pretrain.results.table import gain_table, score_table, sentences
from pretrain.scoring.intervals import Interval

SCORE = Interval(0.81234567, 0.7, 0.9)


def result(name: str = "ev1", kind: str = "encoder") -> EncoderResult:
    return EncoderResult(
        name=name,
        arch="resnet18",
        library="torchvision",
        features=512,
        sha256="0" * 64,
        mpp=((0.5, 0.5),),
        kind=kind,
        scores={
            "knn": dict.fromkeys(METRICS[CLASSIFICATION], SCORE),
            "linear": {
                "macro_f1": SCORE,
                "balanced_accuracy": SCORE,
                "auc": Interval(math.nan, math.nan, math.nan),
            },
        },
        chosen={"k": 5, "c": 0.01},
        confusion={"knn": ((3, 1), (0, 4))},
        curve=(CurvePoint(0.5, 20, 4, (0.7, 0.8), SCORE),),
        seconds={"embed": 1.23456},
    )


def evaluation(*encoders: EncoderResult) -> Evaluation:
    tiles = {"train": 30, "val": 10, "test": 12}
    return Evaluation(
        task=CLASSIFICATION,
        label="label",
        classes=("a", "b"),
        manifest_sha256="1" * 64,
        image_size=None,
        seed=0,
        resamples=1000,
        split=SplitNote(by=("patient",), tiles=tiles, units={"train": 6, "val": 2, "test": 3}),
        encoders=encoders or (result(),),
    )


def resampled(value: float, *draws: float) -> Interval:
    return Interval(value, min(draws), max(draws), np.array(draws))


def of_score(name: str, metric: str, **methods: Interval) -> EncoderResult:
    return replace(result(name), scores={m: {metric: score} for m, score in methods.items()})


def compared(task: str, metric: str) -> tuple[EncoderResult, ...]:
    """Two encoders and colours, scored in the same four resamples."""
    one = of_score("one", metric, linear=resampled(0.8, 0.6, 0.7, 0.8, 0.9))
    two = of_score(
        "two",
        metric,
        linear=resampled(0.7, 0.6, 0.6, 0.7, 0.8),
        finetune=resampled(0.9, 0.8, 0.9, 0.9, 0.9),
    )
    colours = of_score("colours", metric, linear=resampled(0.5, 0.4, 0.5, 0.6, 0.7))
    return with_gains((one, two, colours), task)


def test_encoders_gain_over_colours_and_over_the_first() -> None:
    one, two, colours = compared(CLASSIFICATION, "macro_f1")

    assert one.gains.keys() == {"baseline"}
    assert one.gains["baseline"]["linear"].value == pytest.approx(0.3)
    assert np.allclose(one.gains["baseline"]["linear"].resampled, 0.2)
    assert two.gains["baseline"].keys() == {"linear"}  # colours are not fine-tuned
    assert two.gains["first"]["linear"].value == pytest.approx(-0.1)
    assert np.allclose(two.gains["first"]["linear"].resampled, [0, -0.1, -0.1, -0.1])
    assert colours.gains == {}


def test_a_smaller_error_is_a_gain() -> None:
    one, _, _ = compared(REGRESSION, "l1")
    assert one.gains["baseline"]["linear"].value == pytest.approx(-0.3)


def test_a_table_shows_gains_with_their_sign() -> None:
    cells = {
        c.header: list(c.cells)
        for c in gain_table(evaluation(*compared(CLASSIFICATION, "macro_f1"))).columns
    }

    assert cells["better by"] == ["one", "two"]
    assert cells["linear F1 than colours"][0] == "+0.300 (+0.200 to +0.200)"
    assert cells["linear F1 than one"] == ["-", "-0.100 (-0.100 to -0.008)"]
    assert "fine-tuned F1 than colours" not in cells


def documented(names: set[str]) -> None:
    """Every key of the JSON stands in the reference."""
    page = (Path(__file__).parents[3] / "docs/reference/evaluate.md").read_text(encoding="utf-8")
    assert {name for name in names if f"`{name}`" not in page} == set()


def keys_of(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set(value).union(*map(keys_of, value.values()))
    return set().union(*map(keys_of, value)) if isinstance(value, list) else set()


def test_the_reference_names_every_key() -> None:
    leaks = LeakNote("drop", 2, ("one", "two"), 3)
    made = evaluation(*compared(CLASSIFICATION, "macro_f1"), result())
    made = replace(made, split=replace(made.split, leaks=leaks, left_out={"damaged": 1}))
    documented(keys_of(made.to_json()))


def test_the_json_says_all_and_rounds_to_six_digits() -> None:
    said = json.loads(pretty_json(evaluation().to_json()))

    assert (said["format"], said["version"]) == ("histotile-evaluation", 1)
    assert said["interval"] == {"level": 0.95, "resamples": 1000, "over": "patient"}
    (encoder,) = said["encoders"]
    assert encoder["scores"]["knn"]["macro_f1"] == {"value": 0.812346, "low": 0.7, "high": 0.9}
    assert encoder["scores"]["linear"]["auc"] == {"value": None, "low": None, "high": None}
    assert encoder["confusion"] == {"knn": [[3, 1], [0, 4]]}
    assert encoder["curve"][0]["macro_f1"]["value"] == 0.812346
    assert encoder["curve"][0]["draws"] == [0.7, 0.8]
    assert encoder["seconds"] == {"embed": 1.235}
    assert encoder["gains"] == {}


def test_twenty_leaks_are_written_out() -> None:
    leaks = LeakNote("keep", 30, tuple(map(str, range(30))), 0)
    made = evaluation()
    said = replace(made, split=replace(made.split, leaks=leaks)).to_json()["split"]["leaks"]

    assert said["count"] == 30
    assert said["sentences"] == [str(number) for number in range(20)]


def test_a_table_shows_an_interval_a_bare_value_or_nothing() -> None:
    bare = Interval(0.5, math.nan, math.nan)
    other = replace(result("other"), scores={"linear": {"macro_f1": bare}})
    table = score_table(evaluation(result(), other))

    cells = {column.header: list(column.cells) for column in table.columns}
    assert cells["encoder"] == ["ev1", "other"]
    assert cells["k-NN F1"] == ["0.812 (0.700 to 0.900)", "-"]
    assert cells["linear F1"] == ["0.812 (0.700 to 0.900)", "0.500"]
    assert cells["AUC"] == ["-", "-"]
    assert "fine-tuned F1" not in cells


def test_the_sentences_say_what_makes_scores_doubtful() -> None:
    made = evaluation()
    leaks = LeakNote("keep", 1200, ("one",), 0)
    split = replace(made.split, val_from_train=True, left_out={"damaged": 2}, leaks=leaks)

    said = "\n".join(sentences(replace(made, split=split)))

    assert "test 12 tiles of 3 (units are made by patient)" in said
    assert "no split val: a fifth of the training units" in said
    assert "2 tiles left out: damaged" in said
    assert "1,200 leaks between the splits: they were kept, so the scores may be too good" in said
    assert "leaks" not in "\n".join(sentences(made))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "--task classification needs --label NAME"),
        ({"label": "x", "task": "ranking"}, "task must be one of"),
        ({"task": SEGMENTATION}, "--task segmentation needs --masks FOLDER"),
        ({"task": SEGMENTATION, "masks": "m", "label": "x"}, "--label is not for --task"),
        ({"task": SEGMENTATION, "masks": "m", "finetune": True}, "--finetune is not for --task"),
        ({"label": "x", "masks": "m"}, "--masks is for --task segmentation alone"),
        ({"label": "x", "task": REGRESSION, "classes": ("a",)}, "numbers have no classes"),
        ({"label": "x", "task": REGRESSION, "classes": ("a", "a")}, "numbers have no classes"),
        ({"label": "x", "classes": ("a", "a")}, "--classes names a class twice"),
        ({"label": "x", "batch_size": 0}, "batch-size must be at least 1, got 0"),
        ({"label": "x", "image_size": 4}, "image-size must be at least 8, got 4"),
        ({"label": "x", "resamples": 9}, "resamples must be at least 10, got 9"),
        ({"label": "x", "resamples": 10**6}, "resamples must be at most 100000"),
        ({"label": "x", "seed": -1}, "seed must lie in 0 to"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        EvaluateSettings(**settings)
