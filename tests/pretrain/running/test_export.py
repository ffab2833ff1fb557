"""From a run folder to an encoder and its card, without writing over what is somebody else's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402
from torch import Tensor  # noqa: E402

from pretrain.cli.export import export  # noqa: E402
from pretrain.config import TrainConfig  # noqa: E402
from pretrain.errors import CheckpointError, ConfigError  # noqa: E402
from pretrain.network.card import model_card, read_curves, resolution_texts  # noqa: E402
from pretrain.network.encoder import load_encoder  # noqa: E402
from pretrain.network.model import build_model  # noqa: E402
from pretrain.running.checkpoint import write_checkpoint  # noqa: E402
from pretrain.running.export import export_run  # noqa: E402
from pretrain.running.train import train  # noqa: E402
from tests.manifests.make import tile_pixels  # noqa: E402
from tests.pretrain.make import two_by_two  # noqa: E402

MIX: dict[str, Any] = {
    "split": "train",
    "tiles": 1234,
    "tile_size": 64,
    "mpp": [[0.5, 0.5], [0.5, 0.51]],
    "strata": [
        {"name": "H&E colon", "share": 0.75, "tiles": 1200, "slides": {"a": 1000, "b": 200}},
        {"name": "Ki67 <b>|lung", "share": 0.25, "tiles": 34, "slides": {"c": 34}},
    ],
}


def config_of(**settings: Any) -> TrainConfig:
    return TrainConfig(**{"arch": "timm/test_resnet", "image_size": 32, **settings})


def tensors_of(config: TrainConfig, seed: int, part: str) -> dict[str, Tensor]:
    model = build_model(TrainConfig(**{**config_json(config), "seed": seed, "init": "random"}))
    return {f"{part}.{key}": value for key, value in model.state_dict().items()}


def config_json(config: TrainConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in ("arch", "image_size", "head", "seed")}


def make_run(folder: Path, config: TrainConfig, steps: tuple[int, ...] = (7,)) -> Path:
    """A run folder as `histopretrain run` leaves it; the weights of step n have the seed n."""
    folder.mkdir()
    recipe = {
        "train": config.to_json(),
        "steps": 9,
        "manifest_sha256": "ab" * 32,
        "histotile": "0.1.0",
        "torch": "2.10.0",
    }
    (folder / "config.json").write_text(json.dumps(recipe))
    (folder / "mix.json").write_text(json.dumps(MIX))
    for step in steps:
        tensors = tensors_of(config, step, "model")
        if config.ema:
            tensors |= tensors_of(config, 100 + step, "ema")
        write_checkpoint(
            folder, step, tensors, {"progress": {"step": step, "damaged": ["a/0.5/1", "b/0.5/2"]}}
        )
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", config_of(), (5, 7))


def weights_of(path: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = safetensors.torch.load_file(path)
    return found


def assert_is(path: Path, config: TrainConfig, seed: int) -> None:
    expected = tensors_of(config, seed, "model")
    found = weights_of(path)
    assert found.keys() == {
        key.removeprefix("model.encoder.") for key in expected if key.startswith("model.encoder.")
    }
    assert all(torch.equal(found[key], expected[f"model.encoder.{key}"]) for key in found)


def test_the_newest_checkpoint_is_exported_and_says_what_it_is(run: Path, tmp_path: Path) -> None:
    exported = export_run(run, tmp_path / "e.safetensors")
    assert_is(exported.encoder, config_of(), 7)
    model, transform = load_encoder(exported.encoder)
    info = transform.info
    assert (info.steps, info.damaged_tiles, info.averaged) == (7, 2, False)
    assert (info.arch, info.library) == ("timm/test_resnet", "timm")
    assert (info.image_size, info.tile_size, info.mpp) == (32, 64, ((0.5, 0.5), (0.5, 0.51)))
    assert info.mix == MIX
    assert info.config == json.loads((run / "config.json").read_text())
    assert (info.manifest_sha256, info.histotile) == ("ab" * 32, "0.1.0")
    with torch.no_grad():
        assert model(transform(tile_pixels(2, 64))).shape == (2, info.features)


def test_the_same_run_gives_the_same_bytes(run: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        export_run(run, tmp_path / name / "e.safetensors")
    for name in ("e.safetensors", "e.md"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize(("ema", "seed"), [(None, 107), (True, 107), (False, 7)])
def test_an_average_is_exported_where_there_is_one(
    tmp_path: Path, ema: bool | None, seed: int
) -> None:
    config = config_of(ema=0.9)
    run = make_run(tmp_path / "run", config)
    exported = export_run(run, tmp_path / "e.safetensors", ema=ema)
    assert_is(exported.encoder, config, seed)
    assert exported.info.averaged == (seed == 107)


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_runs_own_encoder_is_what_would_be_exported(tmp_path: Path, ema: float) -> None:
    config = config_of(
        ema=ema, batch_size=4, max_steps=2, monitor_every=0, tensorboard=False, device="cpu"
    )
    result = train(config, two_by_two(tmp_path / "data"), tmp_path / "run")
    exported = export_run(tmp_path / "run", tmp_path / "e.safetensors")
    assert exported.encoder.read_bytes() == result.encoder.read_bytes()
    assert exported.info.averaged == (ema > 0)


def test_an_average_that_is_not_there_is_not_made_up(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="keeps no average of its weights"):
        export_run(run, tmp_path / "e.safetensors", ema=True)


def test_an_encoder_exported_can_be_started_from(run: Path, tmp_path: Path) -> None:
    exported = export_run(run, tmp_path / "e.safetensors")
    model = build_model(config_of(init=str(exported.encoder)))
    expected = weights_of(exported.encoder)
    assert all(torch.equal(v, expected[k]) for k, v in model.encoder.state_dict().items())
    with pytest.raises(ConfigError, match="is an encoder timm/test_resnet, not a resnet18"):
        build_model(TrainConfig(init=str(exported.encoder)))


def test_a_checkpoint_can_be_started_from(run: Path) -> None:
    checkpoint = run / "checkpoints" / "step-000000007.safetensors"
    model = build_model(config_of(init=str(checkpoint)))
    expected = tensors_of(config_of(), 7, "model")
    for key, value in model.encoder.state_dict().items():
        assert torch.equal(value, expected[f"model.encoder.{key}"])


def test_the_folder_of_first_weights_is_not_given_away(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", config_of(init="/home/somebody/secret/w.pt"))
    exported = export_run(run, tmp_path / "e.safetensors")
    assert exported.info.config["train"]["init"] == "w.pt"
    assert b"somebody" not in exported.encoder.read_bytes() + exported.card.read_bytes()


def no_checkpoint(run: Path) -> None:
    for path in (run / "checkpoints").iterdir():
        path.unlink()


def broken_checkpoints(run: Path) -> None:
    for path in (run / "checkpoints").iterdir():
        path.write_bytes(b"")


def other_weights(run: Path) -> None:
    write_checkpoint(
        run,
        8,
        {"model.encoder.a": torch.zeros(1)},
        {"progress": {"step": 8, "damaged": []}},
    )


@pytest.mark.parametrize(
    ("harm", "error", "message"),
    [
        (no_checkpoint, ConfigError, "has no checkpoint yet"),
        (broken_checkpoints, CheckpointError, "cannot be read as a checkpoint"),
        (other_weights, CheckpointError, "does not hold the weights of a timm/test_resnet"),
        (lambda run: (run / "mix.json").unlink(), ConfigError, r"its mix\.json cannot be read"),
        (lambda run: (run / "mix.json").write_text("{}"), ConfigError, "not those of a run"),
        (lambda run: (run / "config.json").write_text("{"), ConfigError, "not a run folder"),
        (lambda run: (run / "config.json").write_text("[]"), ConfigError, "not those of a run"),
    ],
)
def test_a_folder_that_holds_no_whole_run_is_one_sentence(
    run: Path, tmp_path: Path, harm: Callable[[Path], Any], error: type[Exception], message: str
) -> None:
    harm(run)
    with pytest.raises(error, match=message):
        export_run(run, tmp_path / "e.safetensors")
    assert not list(tmp_path.glob("e.*"))


@pytest.mark.parametrize("name", ["e.safetensors", "e.md"])
def test_files_of_others_are_kept_unless_one_insists(run: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "e.safetensors"
    (tmp_path / name).write_text("mine")
    with pytest.raises(ConfigError, match=f"{name} is there and was not exported by histotile"):
        export_run(run, out)
    assert [path.name for path in tmp_path.glob("e.*")] == [name]
    assert (tmp_path / name).read_text() == "mine"
    export_run(run, out, force=True)
    export_run(run, out)  # now both are histotile's
    assert_is(out, config_of(), 7)


@pytest.mark.parametrize(
    ("out", "message"),
    [("e.pt", r"should end in \.safetensors"), ("none/e.safetensors", "there is no folder")],
)
def test_a_name_that_cannot_be_meant_is_one_sentence(
    run: Path, tmp_path: Path, out: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        export_run(run, tmp_path / out)


def test_curves_end_where_the_weights_do(tmp_path: Path) -> None:
    rows = [
        {"step": 0, "knn": 0.25, "alignment": 0.1, "uniformity": -0.5},
        {"step": 1, "loss": 5.0, "images_per_s": 100.0},
        {"step": 2, "loss": 4.0, "knn": None},
        {"step": 2, "knn": 0.5},
        {"step": 3, "loss": 1.0, "knn": 0.9},
    ]
    text = "\n".join(json.dumps(row) for row in rows) + '\n[1]\n{"step": 2, "lo'
    (tmp_path / "metrics.jsonl").write_text(text)
    assert read_curves(tmp_path, 2) == {
        "loss": (5.0, 4.0),
        "knn": (0.25, 0.5),
        "alignment": (0.1, 0.1),
        "uniformity": (-0.5, -0.5),
    }
    assert read_curves(tmp_path / "none", 2) == {}


def test_the_card_says_what_one_must_know(run: Path, tmp_path: Path) -> None:
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 5.25}\n{"step": 7, "loss": 4.125}\n')
    exported = export_run(run, tmp_path / "my-encoder.safetensors")
    card = exported.card.read_text()
    assert exported.card == tmp_path / "my-encoder.md"
    for text in (
        "# timm/test_resnet, my-encoder",
        'load_encoder("my-encoder.safetensors")',
        "| Tiles | 64 px at 0.5 × 0.5 to 0.51 µm/px |",
        "| Steps | 7 |",
        "| Weights | of the last step |",
        "| H&E colon | 75.0% | 1,200 | 2 |",
        r"| Ki67 \<b\>\|lung | 25.0% | 34 | 1 |",
        "1,234 tiles of the split train at 0.5 × 0.5 to 0.51 µm/px; 2 could not be read.",
        "`timm.create_model('test_resnet', num_classes=0)`",
        "| temperature | 0.2 |",
        "| views | histology, crops of",
        "| loss | 5.25 | 4.125 |",
        "licences of the sources are not recorded",
        "For research only",
    ):
        assert text in card
    assert "\n\n\n" not in card


@pytest.mark.parametrize(
    ("mpps", "texts"),
    [
        ([(0.5, 0.5)], ["0.5"]),
        ([(1.0, 1.0), (0.25, 0.25)], ["0.25", "1"]),
        ([(0.499, 0.499), (0.5 - 1e-9, 0.5), (0.5, 0.5)], ["0.499 to 0.5"]),
        ([(0.5, 0.52)], ["0.5 × 0.52"]),
        ([(0.2 + i / 1e5, 0.2 + i / 1e5) for i in range(3000)], ["0.2 to 0.23"]),
    ],
    ids=["one", "two", "near", "not square", "thousands"],
)
def test_resolutions_near_each_other_are_told_as_a_range(
    mpps: list[tuple[float, float]], texts: list[str]
) -> None:
    assert resolution_texts(mpps) == texts


def test_the_code_of_the_card_runs(run: Path, tmp_path: Path) -> None:
    exported = export_run(run, tmp_path / "e.safetensors")
    code = exported.card.read_text().partition("```python\n")[2].partition("```")[0]
    code = code.replace('"e.safetensors"', repr(str(exported.encoder)))
    names: dict[str, Any] = {"tile": tile_pixels(1, 64)[0]}
    exec(code, names)
    assert names["features"].shape == (1, exported.info.features)


def test_licences_are_named_and_a_long_mix_is_cut(run: Path, tmp_path: Path) -> None:
    info = export_run(run, tmp_path / "e.safetensors").info
    strata = [{"name": f"s{i}", "share": 0.01, "tiles": 1, "slides": {}} for i in range(100)]
    mix = {**MIX, "strata": strata, "licences": ["CC0-1.0", "CC-BY-4.0"]}
    info = type(info)(**{**{n: getattr(info, n) for n in info.__slots__}, "mix": mix})
    card = model_card(info, "e.safetensors", {})
    assert "Licences of the sources: CC0-1.0, CC-BY-4.0." in card
    assert "... and 60 more" in card
    assert "| s39 |" in card
    assert "| s40 |" not in card


def ran(*arguments: str | Path) -> Result:
    return CliRunner().invoke(export, [str(a) for a in arguments])


def test_the_command_writes_both_files_and_says_where(run: Path, tmp_path: Path) -> None:
    result = ran(run, "-o", tmp_path / "e.safetensors")
    assert result.exit_code == 0, result.output
    assert result.stdout == (
        f"encoder: {tmp_path / 'e.safetensors'} (timm/test_resnet, 96 features)\n"
        f"card: {tmp_path / 'e.md'}\n"
    )
    assert result.stderr == "Note: the run is at step 7 of 9\n"


def test_the_command_by_default_writes_into_the_run(run: Path) -> None:
    assert ran(run).exit_code == 0
    assert_is(run / "encoder.safetensors", config_of(), 7)


def test_the_command_ends_with_one_sentence(tmp_path: Path) -> None:
    result = ran(tmp_path / "none")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: {tmp_path / 'none'} is not a run folder")
    assert result.stderr.count("\n") == 1
