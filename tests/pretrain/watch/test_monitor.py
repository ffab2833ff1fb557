"""Looking at features during training: what it finds, and that it leaves no trace."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from PIL import Image
from torch import Tensor, nn

from manifests import Manifest, StoreEntry, StoreError
from manifests.store import TileStore, open_store
from pretrain.config import TrainConfig
from pretrain.mixing.mix import resolve_mix
from pretrain.views.viewconfig import make_view_config
from pretrain.watch.monitor import PAIRS, Monitor
from pretrain.watch.panel import choose_panel
from pretrain.watch.scores import alignment, uniformity
from tests.pretrain.make import damage_tile
from tests.pretrain.watch.packed import coloured_slide

RED, BLUE = (200, 80, 120), (90, 80, 200)
STILL = make_view_config("none")


class MeanColour(nn.Module):
    """An encoder of three features: the mean of each channel."""

    def forward(self, views: Tensor) -> Tensor:
        return views.mean(dim=(2, 3))


class Net(nn.Module):
    """A small encoder with everything that may remember what passed through it."""

    def __init__(self, features: int = 16) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Conv2d(8, features, 3, stride=2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )

    def forward(self, views: Tensor) -> Tensor:
        return cast(Tensor, self.layers(views))


def by_organ(root: Path, *, tiles: int = 4) -> list[StoreEntry]:
    """Two red slides of one organ and two blue ones of another."""
    return [
        coloured_slide(root, f"{organ}-{number}", colour, organ=organ, tiles=tiles)
        for organ, colour in (("colon", RED), ("lung", BLUE))
        for number in range(2)
    ]


def monitor_of(root: Path, entries: list[StoreEntry], **settings: Any) -> Monitor:
    """A monitor of some entries, with views of 32 px."""
    manifest = Manifest(tuple(entries), root)
    config = TrainConfig(**{"split": "all", "image_size": 32, **settings})
    return Monitor(manifest, resolve_mix(manifest, config), config)


def seeded_net() -> tuple[Net, nn.Linear]:
    """A small encoder and a head, always with the same weights."""
    torch.manual_seed(0)
    return Net(), nn.Linear(16, 8)


def test_features_that_tell_the_classes_score_one(tmp_path: Path) -> None:
    monitor = monitor_of(tmp_path, by_organ(tmp_path))
    scores = monitor.measure(MeanColour(), nn.Identity(), "cpu")
    assert (scores.knn, scores.classes, scores.tiles) == (1.0, 2, 16)
    assert monitor.field == "organ"


def test_features_that_tell_the_slides_apart_score_zero(tmp_path: Path) -> None:
    # Slides of one colour are of different classes: whoever goes by colour is always wrong.
    entries = [
        coloured_slide(tmp_path, name, colour, organ=organ)
        for name, colour, organ in (
            ("a", RED, "colon"),
            ("b", BLUE, "colon"),
            ("c", RED, "lung"),
            ("d", BLUE, "lung"),
        )
    ]
    assert monitor_of(tmp_path, entries).measure(MeanColour(), nn.Identity(), "cpu").knn == 0.0


def test_a_set_without_classes_is_looked_at_without_a_score(tmp_path: Path) -> None:
    monitor = monitor_of(tmp_path, by_organ(tmp_path)[:1])
    scores = monitor.measure(MeanColour(), nn.Identity(), "cpu")
    assert (scores.knn, scores.classes, scores.tiles) == (None, 0, 4)
    assert monitor.note.startswith("No k-NN score")
    monitor.picture(tmp_path / "neighbours.png")


def test_views_without_change_are_perfectly_aligned(tmp_path: Path) -> None:
    monitor = monitor_of(tmp_path, by_organ(tmp_path), views=STILL)
    net, head = seeded_net()
    assert monitor.measure(net, head, "cpu").alignment == pytest.approx(0.0, abs=1e-9)
    changed = monitor_of(tmp_path, by_organ(tmp_path))
    assert changed.measure(net, head, "cpu").alignment > 1e-6


def test_scores_are_those_of_all_tiles_in_one_batch(tmp_path: Path) -> None:
    entries = by_organ(tmp_path)
    entries.append(coloured_slide(tmp_path, "large", RED, organ="colon", tiles=3, size=48))
    manifest = Manifest(tuple(entries), tmp_path)
    config = TrainConfig(split="all", image_size=32, resize=32, views=STILL)
    mix = resolve_mix(manifest, config)
    net, head = seeded_net()
    scores = Monitor(manifest, mix, config).measure(net, head, "cpu")
    # Without changes both views are the tile itself, so the plain way gives the same numbers.
    stores = {e.id: e for e in entries}
    net.eval()
    rows = []
    for tile in choose_panel(manifest, mix, config).tiles:
        pixels = open_store(manifest, stores[tile.slide])[tile.group].read(tile.index)
        if tile.size == 48:
            resized = Image.fromarray(pixels).resize((32, 32), Image.Resampling.BILINEAR)
            pixels = np.asarray(resized)
        view = torch.from_numpy(pixels / np.float32(127.5) - 1).permute(2, 0, 1)[None]
        rows.append(head(net(view))[0].detach().numpy())
    assert scores.tiles == len(rows) == 19
    assert scores.uniformity == pytest.approx(uniformity(np.array(rows)), abs=1e-4)
    assert alignment(np.array(rows), np.array(rows)) == pytest.approx(0.0, abs=1e-9)


def test_looking_leaves_no_trace(tmp_path: Path) -> None:
    monitor = monitor_of(tmp_path, by_organ(tmp_path))
    net, head = seeded_net()
    net.train()
    net.layers[3].eval()  # one part that someone froze
    modes = [part.training for part in net.modules()]
    state = {key: value.clone() for key, value in net.state_dict().items()}
    generator = torch.get_rng_state()
    monitor.measure(net, head, "cpu")
    assert [part.training for part in net.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


def test_modes_come_back_after_an_error(tmp_path: Path) -> None:
    net, _ = seeded_net()
    net.train()
    with pytest.raises(RuntimeError):
        monitor_of(tmp_path, by_organ(tmp_path)).measure(net, nn.Linear(3, 2), "cpu")
    assert all(part.training for part in net.modules())
    assert torch.is_grad_enabled()


def test_a_step_after_a_look_is_the_step_without_one(tmp_path: Path) -> None:
    def weights_after_training(*, look: bool) -> list[Tensor]:
        monitor = monitor_of(tmp_path, entries)
        net, head = seeded_net()
        both = [*net.parameters(), *head.parameters()]
        optimizer = torch.optim.SGD(both, lr=0.1, momentum=0.9)
        torch.manual_seed(1)
        for _ in range(3):
            if look:
                monitor.measure(net, head, "cpu")
            optimizer.zero_grad()
            head(net(torch.randn(4, 3, 32, 32))).square().mean().backward()
            optimizer.step()
        return [*both, *net.buffers()]

    entries = by_organ(tmp_path)
    with_looks = weights_after_training(look=True)
    without = weights_after_training(look=False)
    assert all(torch.equal(a, b) for a, b in zip(with_looks, without, strict=True))


def test_every_look_sees_the_same(tmp_path: Path) -> None:
    entries = by_organ(tmp_path)
    monitor = monitor_of(tmp_path, entries)
    net, head = seeded_net()
    first = monitor.measure(net, head, "cpu")
    assert monitor.measure(net, head, "cpu") == first
    assert monitor_of(tmp_path, entries).measure(net, head, "cpu") == first


def test_many_tiles_come_in_several_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = by_organ(tmp_path, tiles=PAIRS // 4 + 5)
    net, head = seeded_net()
    whole = monitor_of(tmp_path, entries).measure(net, head, "cpu")
    monkeypatch.setattr("pretrain.watch.monitor._BATCH_BYTES", 7 * 32 * 32 * 3)
    parts = monitor_of(tmp_path, entries).measure(net, head, "cpu")
    assert whole.tiles == parts.tiles == PAIRS + 20
    assert parts.knn == whole.knn
    assert parts.alignment == pytest.approx(whole.alignment, abs=1e-5)
    assert parts.uniformity == pytest.approx(whole.uniformity, abs=1e-5)


def test_a_damaged_tile_is_left_out(tmp_path: Path) -> None:
    entries = by_organ(tmp_path)
    monitor = monitor_of(tmp_path, entries)
    damage_tile(tmp_path / "colon-0.zarr", "0.5", 1)
    scores = monitor.measure(MeanColour(), nn.Identity(), "cpu")
    assert (scores.knn, scores.tiles) == (1.0, 15)
    monitor.picture(tmp_path / "neighbours.png")


def test_no_tile_that_can_be_read_is_said_in_one_sentence(tmp_path: Path) -> None:
    entries = by_organ(tmp_path)
    monitor = monitor_of(tmp_path, entries)
    for entry in entries:
        for slot in range(4):
            damage_tile(tmp_path / f"{entry.id}.zarr", "0.5", slot)
    with pytest.raises(StoreError, match="none of the tiles"):
        monitor.measure(MeanColour(), nn.Identity(), "cpu")


def test_a_store_that_is_gone_stops_the_look(tmp_path: Path) -> None:
    entries = by_organ(tmp_path)
    monitor = monitor_of(tmp_path, entries)
    (tmp_path / "lung-1.zarr" / "commit.json").unlink()
    with pytest.raises(StoreError, match="lung-1"):
        monitor.measure(MeanColour(), nn.Identity(), "cpu")


def test_stores_are_opened_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monitor = monitor_of(tmp_path, by_organ(tmp_path))
    # On a network disk each takes long: none waits here until another is opened, too.
    both = threading.Barrier(2, timeout=5)

    def slow(manifest: Manifest, entry: StoreEntry) -> TileStore:
        both.wait()
        return open_store(manifest, entry)

    monkeypatch.setattr("pretrain.watch.monitor.open_store", slow)
    assert monitor.measure(*seeded_net(), "cpu").tiles > 0


def test_queries_of_the_validation_split_are_scored(tmp_path: Path) -> None:
    entries = [replace(e, split="train") for e in by_organ(tmp_path)]
    # Held out, colon is blue: every query is wrong for features that go by colour.
    for organ, colour in (("colon", BLUE), ("lung", BLUE)):
        held = coloured_slide(tmp_path, f"{organ}-held", colour, organ=organ, split="val")
        entries.append(held)
    monitor = monitor_of(tmp_path, entries, split="train")
    assert monitor.measure(MeanColour(), nn.Identity(), "cpu").knn == 0.5
    assert "8 tiles of val among 16 of training" in monitor.note


def test_the_picture_shows_neighbours_with_frames_of_their_class(tmp_path: Path) -> None:
    monitor = monitor_of(tmp_path, by_organ(tmp_path))
    with pytest.raises(ValueError, match="needs a look"):
        monitor.picture(tmp_path / "neighbours.png")
    monitor.measure(MeanColour(), nn.Identity(), "cpu")
    monitor.picture(tmp_path / "neighbours.png")
    with Image.open(tmp_path / "neighbours.png") as picture:
        pixels = np.asarray(picture)
    # Four tiles of the other slide agree, and come first; two of the other class follow.
    green = np.all(pixels == (0, 145, 80), axis=2).sum()
    red = np.all(pixels == (210, 45, 45), axis=2).sum()
    assert green == 2 * red > 0
