"""A run from manifest to encoder: repeatable, learning, and loud when something is wrong."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import pretrain.running.learner as learning  # noqa: E402
from manifests import ManifestError, StoreError, load_manifest, save_manifest  # noqa: E402
from pretrain.config import TrainConfig  # noqa: E402
from pretrain.errors import ConfigError, TrainingError  # noqa: E402
from pretrain.network.encoder import load_encoder  # noqa: E402
from pretrain.running.checkpoint import checkpoints  # noqa: E402
from pretrain.running.plan import Plan, make_plan  # noqa: E402
from pretrain.running.train import StepMetrics, train  # noqa: E402
from pretrain.simclr.ranks import Ranks  # noqa: E402
from pretrain.views.viewconfig import make_view_config  # noqa: E402
from pretrain.watch.scores import Scores  # noqa: E402
from tests.manifests.make import tile_pixels  # noqa: E402
from tests.pretrain.make import damage_tile, make_slide, save, two_by_two  # noqa: E402

TINY = TrainConfig(
    arch="test_resnet",
    batch_size=8,
    image_size=32,
    epochs=1,
    projection_dim=16,
    device="cpu",
    monitor_every=0,
    tensorboard=False,
)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return two_by_two(tmp_path / "tiles")


def metrics_of(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_its_settings_mix_metrics_and_encoder(manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = train(TINY, manifest, out)
    assert sorted(p.name for p in out.iterdir()) == [
        ".lock",
        "checkpoints",
        "config.json",
        "encoder.md",
        "encoder.safetensors",
        "metrics.jsonl",
        "mix.json",
    ]
    lines = metrics_of(out)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert set(lines[0]) == {"step", "epoch", "loss", "lr", "images_per_s", "data_wait"}
    assert all(0 <= line["data_wait"] <= 1 and line["images_per_s"] > 0 for line in lines)
    assert [path.name for path in checkpoints(out)] == ["step-000000004.safetensors"]
    assert (result.first_loss, result.final_loss) == (lines[0]["loss"], lines[-1]["loss"])
    assert json.loads((out / "config.json").read_text())["train"]["batch_size"] == 8


def test_the_encoder_says_what_it_was_trained_on(manifest: Path, tmp_path: Path) -> None:
    result = train(TINY, manifest, tmp_path / "run")
    model, transform = load_encoder(result.encoder)
    info = transform.info
    assert (info.arch, info.image_size, info.tile_size, info.steps) == ("test_resnet", 32, 32, 4)
    assert info.mean == info.std == (0.5, 0.5, 0.5)
    assert info.mpp == ((0.5, 0.5),)
    assert info.manifest_sha256 == hashlib.sha256(manifest.read_bytes()).hexdigest()
    assert info.mix == json.loads((tmp_path / "run" / "mix.json").read_text())
    assert info.config == json.loads((tmp_path / "run" / "config.json").read_text())
    strata = {(s["fields"]["stain"], s["fields"]["organ"]): s["tiles"] for s in info.mix["strata"]}
    assert strata == {(s, o): 8 for s in ("H&E", "Ki67") for o in ("colon", "lung")}
    with torch.no_grad():
        assert torch.isfinite(model(torch.zeros(1, 3, 32, 32))).all()


def test_a_run_never_takes_test_slides_unless_told(manifest: Path, tmp_path: Path) -> None:
    found = load_manifest(manifest)
    stores = tuple(
        replace(entry, split="test" if entry.stain == "Ki67" else "train") for entry in found.stores
    )
    save_manifest(replace(found, stores=stores), manifest)

    def trained_on(name: str, split: str | None = None) -> tuple[int, str, set[str]]:
        train(replace(TINY, max_steps=1, split=split), manifest, tmp_path / name)
        mix = json.loads((tmp_path / name / "mix.json").read_text())
        config = json.loads((tmp_path / name / "config.json").read_text())["train"]
        return (
            mix["tiles"],
            config["split"],
            {stratum["fields"]["stain"] for stratum in mix["strata"]},
        )

    assert trained_on("default") == (16, "train", {"H&E"})
    assert trained_on("test", "test") == (16, "test", {"Ki67"})
    assert trained_on("all", "all") == (32, "all", {"H&E", "Ki67"})
    with pytest.raises(ConfigError, match="no split 'val'; it has test, train"):
        train(replace(TINY, split="val"), manifest, tmp_path / "val")


def test_the_same_seed_gives_the_same_encoder_bit_for_bit(manifest: Path, tmp_path: Path) -> None:
    one = train(TINY, manifest, tmp_path / "one").encoder.read_bytes()
    same = train(TINY, manifest, tmp_path / "same").encoder.read_bytes()
    other = train(replace(TINY, seed=1), manifest, tmp_path / "other").encoder.read_bytes()
    assert one == same
    assert one != other


def test_the_first_loss_is_that_of_guessing_and_the_loss_falls(tmp_path: Path) -> None:
    path = save(tmp_path, make_slide(tmp_path, "a", {"0.5": tile_pixels(48)}))
    views = make_view_config("none", crop_area=(0.6, 1.0), crop_ratio=(3 / 4, 4 / 3))
    config = replace(TINY, batch_size=16, epochs=8, views=views, lr=3e-3)
    guessing = train(replace(config, temperature=10.0, max_steps=1), path, tmp_path / "guess")
    assert guessing.first_loss == pytest.approx(math.log(31), abs=0.1)
    train(config, path, tmp_path / "run")
    losses = [line["loss"] for line in metrics_of(tmp_path / "run")]
    assert np.mean(losses[-5:]) < losses[0] - 0.8


def test_an_epoch_is_as_many_whole_batches_as_there_are_tiles(
    manifest: Path, tmp_path: Path
) -> None:
    train(replace(TINY, batch_size=12, epochs=2), manifest, tmp_path / "run")
    lines = metrics_of(tmp_path / "run")
    assert [line["epoch"] for line in lines] == [1, 1, 2, 2]


def test_max_steps_ends_a_run_within_an_epoch(manifest: Path, tmp_path: Path) -> None:
    result = train(replace(TINY, epochs=5, max_steps=3), manifest, tmp_path / "run")
    assert result.steps == 3
    assert load_encoder(result.encoder)[1].info.steps == 3


class Recorder:
    """Remembers what a run reports."""

    def __init__(self) -> None:
        self.plans: list[Plan] = []
        self.steps: list[StepMetrics] = []
        self.looks: list[tuple[int, Scores]] = []
        self.broken: list[str] = []
        self.notes: list[str] = []

    def started(self, plan: Plan, step: int) -> None:
        assert not self.steps
        assert (plan.out / "config.json").is_file()
        assert (plan.out / "mix.json").is_file()
        self.plans.append(plan)

    def noted(self, text: str) -> None:
        self.notes.append(text)

    def stepped(self, metrics: StepMetrics) -> None:
        self.steps.append(metrics)

    def looked(self, step: int, scores: Scores) -> None:
        self.looks.append((step, scores))

    def damaged(self, tile: str) -> None:
        self.broken.append(tile)


def test_what_is_left_open_is_settled_by_the_data_before_the_first_step(
    manifest: Path, tmp_path: Path
) -> None:
    recorder = Recorder()
    config = TrainConfig(device="cpu", max_steps=1, projection_dim=8)
    train(config, manifest, tmp_path / "run", recorder)
    (plan,) = recorder.plans
    assert (plan.batch_size, plan.image_size) == (32, 32)
    assert (plan.config.batch_size, plan.config.image_size) == (32, 32)
    assert [metrics.step for metrics in recorder.steps] == [1]


@pytest.mark.parametrize(("has_it", "precision"), [(True, "bf16"), (False, "fp32")])
def test_a_gpu_that_only_emulates_bf16_computes_in_float32(
    manifest: Path, monkeypatch: pytest.MonkeyPatch, has_it: bool, precision: str
) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return has_it or including_emulation

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    plan = make_plan(TrainConfig(), manifest, "run")
    assert (plan.config.device, plan.config.precision) == ("cuda", precision)


def test_damaged_tiles_are_replaced_and_counted(tmp_path: Path) -> None:
    entry = make_slide(tmp_path, "a", {"0.5": tile_pixels(12)})
    damage_tile(tmp_path / "a.zarr", "0.5", 0)
    result = train(TINY, save(tmp_path, entry), tmp_path / "run")
    assert result.damaged in ((), ("a/0.5/0",))
    result = train(replace(TINY, batch_size=12), save(tmp_path, entry), tmp_path / "all")
    assert result.damaged == ("a/0.5/0",)
    assert load_encoder(result.encoder)[1].info.damaged_tiles == 1


def test_tiles_that_another_process_found_damaged_count_too(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ranks, "union", lambda _ranks, numbers: {*numbers, 9})
    recorder = Recorder()
    result = train(replace(TINY, max_steps=2), manifest, tmp_path / "run", recorder)
    assert len(recorder.broken) == 1
    assert result.damaged == tuple(recorder.broken)
    assert load_encoder(result.encoder)[1].info.damaged_tiles == 1


def test_features_are_looked_at_before_the_first_step_and_after_each_epoch(
    manifest: Path, tmp_path: Path
) -> None:
    recorder = Recorder()
    config = replace(TINY, epochs=2, monitor_every=1)
    result = train(config, manifest, tmp_path / "run", recorder)
    assert [step for step, _ in recorder.looks] == [0, 4, 8]
    assert result.scores == recorder.looks[-1][1]
    assert all(math.isfinite(scores.uniformity) for _, scores in recorder.looks)
    looked = [line for line in metrics_of(tmp_path / "run") if "uniformity" in line]
    assert [line["step"] for line in looked] == [0, 4, 8]


def test_looking_at_the_features_changes_no_weight(manifest: Path, tmp_path: Path) -> None:
    blind = train(TINY, manifest, tmp_path / "blind")
    seeing = train(replace(TINY, monitor_every=0.5), manifest, tmp_path / "seeing")
    weights = [load_encoder(result.encoder)[0].state_dict() for result in (blind, seeing)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_an_average_of_the_weights_is_exported_where_one_is_kept(
    manifest: Path, tmp_path: Path
) -> None:
    last = train(TINY, manifest, tmp_path / "last")
    mean = train(replace(TINY, ema=0.9), manifest, tmp_path / "mean")
    weights = [load_encoder(result.encoder)[0].state_dict() for result in (last, mean)]
    assert not torch.equal(weights[0]["conv1.0.weight"], weights[1]["conv1.0.weight"])
    assert last.final_loss == mean.final_loss


@pytest.mark.parametrize(
    ("precision", "losses", "ends_at"),
    [
        ("fp32", [1.0, math.nan], 2),
        ("bf16", [1.0, math.nan, math.inf], 2),
        ("bf16", [1.0, math.nan, 1.0, math.nan, math.nan], 3),
    ],
    ids=["full precision", "half and full", "saved once"],
)
def test_a_loss_that_is_no_number_stops_the_run_after_a_retry_at_full_precision(
    manifest: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    losses: list[float],
    ends_at: int,
) -> None:
    left, precisions = iter(losses), []
    from pretrain.simclr.step import forward_backward as real

    def fake(model: Any, views: Any, ids: Any, settings: Any, ranks: Any) -> Any:
        real(model, views, ids, settings, ranks)
        precisions.append(settings.bf16)
        return torch.tensor(next(left))

    monkeypatch.setattr(learning, "forward_backward", fake)
    words = rf"the loss became (nan|inf) at step {ends_at}.*first tile is (colon|lung)-\d/0\.5/\d"
    with pytest.raises(TrainingError, match=words):
        train(replace(TINY, precision=precision), manifest, tmp_path / "run")
    assert list(left) == []
    assert precisions[-1] is False
    assert precisions[0] is (precision == "bf16")
    assert not (tmp_path / "run" / "encoder.safetensors").exists()


@pytest.mark.parametrize(
    ("parts", "most"), [({}, 8), ({"grad_cache": 3}, 3), ({"accumulate": 2}, 4)], ids=str
)
def test_tiles_whose_embeddings_are_no_numbers_are_named(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: Any, most: int
) -> None:
    from pretrain.views.augment import both_views as real

    def fake(config: Any, seed: int, tiles: Any, numbers: Any, size: int) -> Any:
        together.append(len(numbers))
        views = real(config, seed, tiles, numbers, size)
        views[[n for n, number in enumerate(numbers) if number == 11]] = math.nan
        return views

    together: list[int] = []
    monkeypatch.setattr(learning, "both_views", fake)
    recorder = Recorder()
    with pytest.raises(TrainingError, match=r"nan at step 2.*from the tiles? \S+/0\.5/\d+:"):
        # Batch statistics would spread a bad tile over its batch; these nets have none.
        train(replace(TINY, arch="test_vit", **parts), manifest, tmp_path / "run", recorder)
    assert [metrics.step for metrics in recorder.steps] == [1]
    assert max(together) == most


def test_a_batch_of_more_tiles_than_there_are_is_wrong_usage(
    manifest: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"a batch of 64 .* the mix has 32") as caught:
        train(replace(TINY, batch_size=64), manifest, tmp_path / "run")
    assert caught.value.exit_code == 2
    assert not (tmp_path / "run").exists()


def test_a_single_tile_cannot_be_trained_on(tmp_path: Path) -> None:
    path = save(tmp_path, make_slide(tmp_path, "a", {"0.5": tile_pixels(1)}))
    with pytest.raises(ConfigError, match="give 2 tiles or more"):
        train(TrainConfig(device="cpu"), path, tmp_path / "run")


def test_an_uncommitted_store_leaves_no_run_folder(manifest: Path, tmp_path: Path) -> None:
    (manifest.parent / "colon-0.zarr" / "commit.json").unlink()
    with pytest.raises(StoreError, match="not committed"):
        train(TINY, manifest, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_in_use_is_refused_and_left_as_it_was(manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is in use"):
        train(TINY, manifest, out)
    assert [p.name for p in out.iterdir()] == ["notes.txt"]


def test_a_missing_manifest_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"none\.json cannot be read"):
        train(TINY, tmp_path / "none.json", tmp_path / "run")


def test_a_run_on_a_cpu_leaves_the_gpus_of_the_machine_alone(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def touched() -> int:
        raise AssertionError("a GPU was asked for")

    monkeypatch.setattr(torch.cuda, "device_count", touched)
    assert train(replace(TINY, max_steps=1), manifest, tmp_path / "run").steps == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_asking_for_a_gpu_where_there_is_none_is_refused(manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="torch sees no CUDA GPU"):
        train(replace(TINY, device="cuda"), manifest, tmp_path / "run")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_gpu_run_ends_with_an_encoder_that_loads_on_a_cpu(manifest: Path, tmp_path: Path) -> None:
    result = train(replace(TINY, device="cuda"), manifest, tmp_path / "run")
    model, _ = load_encoder(result.encoder)
    assert all(p.device.type == "cpu" for p in model.parameters())


def test_one_tile_alone_is_refused_in_words_that_help(tmp_path: Path) -> None:
    entry = make_slide(tmp_path, "a", {"0.5": tile_pixels(1, 32)})
    with pytest.raises(ConfigError, match="the mix has 1 tile, which has no negatives"):
        train(replace(TINY, batch_size=None), save(tmp_path, entry), tmp_path / "run")
