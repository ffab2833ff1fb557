"""The experiments that the study declares: they load, compare like with like, and share runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from docs.reproduction import plan
from pretrain.cli.run import run as run_command

SCALES = ("small", "large")


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", plan.ORDER)
def test_each_experiment_asks_a_question_and_varies_something(name: str, scale: str) -> None:
    (experiment,) = plan.load_all(scale, [name])

    assert experiment.question.endswith("?")
    assert len({variant.name for variant in experiment.variants}) == len(experiment.variants) >= 2
    keys = [run.key for one in experiment.variants if (run := one.run(0)) is not None]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("scale", SCALES)
def test_every_flag_is_one_that_the_run_command_has(scale: str) -> None:
    known = {word for one in run_command.params for word in (*one.opts, *one.secondary_opts)}

    for experiment in plan.load_all(scale):
        for variant in experiment.variants:
            words = plan.arguments(variant.flags)
            assert {word for word in words if word.startswith("--")} <= known


@pytest.mark.parametrize("name", ["sources", "stains", "resolutions", "leak", "views"])
def test_variants_train_on_the_same_number_of_images(name: str) -> None:
    (experiment,) = plan.load_all("small", [name])

    totals = {sum(part.sample for part in one.parts) for one in experiment.variants}

    assert len(totals) == 1
    assert totals.pop() > 0


@pytest.mark.parametrize(
    "name", [name for name in plan.ORDER if name not in ("architectures", "steps")]
)
def test_variants_train_for_the_same_number_of_steps(name: str) -> None:
    (experiment,) = plan.load_all("small", [name])

    assert len({one.flags["max-steps"] for one in experiment.variants}) == 1


def test_only_the_leak_trains_on_anything_but_the_training_split() -> None:
    for experiment in plan.load_all("small"):
        for variant in experiment.variants:
            assert variant.split == "train" or experiment.name == "leak"


def test_a_run_that_several_experiments_need_is_trained_once() -> None:
    experiments = plan.load_all("small")
    asked = [
        run.key
        for experiment in experiments
        for variant in experiment.variants
        for seed in range(3)
        if (run := variant.run(seed)) is not None
    ]

    runs = plan.runs_of(experiments, 3)

    assert [run.key for run in runs] == list(dict.fromkeys(run.key for run in runs))
    assert {run.key for run in runs} == set(asked)
    assert len(runs) < len(asked)


def test_a_key_is_of_all_that_is_trained_and_the_data_key_of_the_tiles_alone() -> None:
    run = plan.Run((plan.Part(sample=5),), {"lr": 0.1}, seed=0)
    slower = replace(run, flags={"lr": 0.01})
    others = [
        replace(run, seed=1),
        replace(run, parts=(plan.Part(sample=6),)),
        replace(run, split="all"),
    ]

    assert slower.key != run.key
    assert slower.data_key == run.data_key
    assert len({run.key, *(other.key for other in others)}) == 4
    assert len({run.data_key, *(other.data_key for other in others)}) == 4


def test_flags_become_words_of_a_command() -> None:
    flags = {"lr": 0.0005, "tensorboard": False, "compile": True, "arch": "resnet18"}

    assert plan.arguments(flags) == [
        *("--lr", "0.0005", "--no-tensorboard", "--compile", "--arch", "resnet18")
    ]


def test_flags_of_a_variant_count_more_than_those_of_the_scale(tmp_path: Path) -> None:
    file = tmp_path / "made_up.toml"
    file.write_text(
        """
        question = "Why?"
        flags = { lr = 1.0, views = "none" }
        scale = { small = { lr = 2.0, arch = "resnet18" } }
        [[variants]]
        name = "a"
        parts = [{ where = "true" }]
        flags = { arch = "resnet34" }
        scale = { small = { lr = 3.0 } }
        """
    )

    (variant,) = plan.load_experiment(file, "small").variants

    assert variant.flags == {"lr": 3.0, "views": "none", "arch": "resnet34"}


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ("encoder = 'random:resnet18'\nparts = []", "needs either parts or an encoder"),
        ("", "needs either parts or an encoder"),
        ("split = 'val'\nparts = []", "trains on 'val'"),
        ("parts = [{ sample = 3, share = 0.5 }]", "give one of them"),
    ],
)
def test_a_variant_that_makes_no_sense_is_refused(
    variant: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "made_up.toml"
    file.write_text(f"question = 'Why?'\n[scale.small]\n[[variants]]\nname = 'a'\n{variant}\n")

    with pytest.raises(ValueError, match=message):
        plan.load_experiment(file, "small")
