"""Segmentation: a decoder finds what can be found, tells encoders apart, and forgets nothing."""

from __future__ import annotations

import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.metrics import f1_score, jaccard_score

torch = pytest.importorskip("torch")

from contextlib import closing  # noqa: E402

from torch import nn  # noqa: E402

from manifests.codec import Rgb  # noqa: E402
from pretrain.embedding.encoders import Encoder, open_encoder  # noqa: E402
from pretrain.embedding.wanted import wanted_tiles  # noqa: E402
from pretrain.errors import ConfigError  # noqa: E402
from pretrain.results.result import EncoderResult  # noqa: E402
from pretrain.results.settings import EvaluateSettings  # noqa: E402
from pretrain.segmenting import pixelcolour, segment  # noqa: E402
from pretrain.segmenting.decoder import Decoder, mask_loss  # noqa: E402
from pretrain.segmenting.maskedtiles import (  # noqa: E402
    MaskedReader,
    MaskedTiles,
    confusions,
)
from pretrain.segmenting.masks import IGNORED, find_masks  # noqa: E402
from pretrain.segmenting.pixelcolour import pixel_colours  # noqa: E402
from pretrain.segmenting.segment import METHOD, evaluate_masks  # noqa: E402
from tests.pretrain.make import SHARD_TILES, damage_tile  # noqa: E402
from tests.pretrain.segmenting.masked import blobs, cut, write  # noqa: E402

TILES = 16
SIZE = 32
SETTINGS = EvaluateSettings(task="segmentation", masks="masks", resamples=20, threads=1)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> MaskedTiles:
    """Discs on a ground; two tiles are of one unit."""
    return discs(tmp_path_factory.mktemp("discs"))


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few steps, for what does not depend on how good the decoder gets."""
    monkeypatch.setattr(segment, "STEPS", 10)
    monkeypatch.setattr(pixelcolour, "_MOST_PIXELS", {0: 160, 1: 80})


def discs(root: Path) -> MaskedTiles:
    made = {f"{n:02}.png": blobs(SIZE, seed=n) for n in range(TILES)}
    write(root / "pictures", {name: picture for name, (picture, _) in made.items()})
    folder = write(root / "masks", {name: mask for name, (_, mask) in made.items()})
    options = ("--packed", "--tile-size", SIZE, "--shard-tiles", SHARD_TILES)
    manifest = cut(root / "pictures", root / "out", *options)
    parts = wanted_tiles(manifest)
    split = np.array([0] * 8 + [1] * 2 + [2] * 6, dtype=np.int8)
    masks = find_masks(manifest, parts, folder, names=("ground", "disc"))
    return MaskedTiles(manifest, parts, masks, split, np.arange(TILES) // 2)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return open_encoder("random:test_resnet", size=SIZE)


def score(found: EncoderResult, metric: str = "dice") -> float:
    return found.scores[METHOD][metric].value


def test_a_decoder_finds_discs_and_the_baseline_is_the_last(
    few: MaskedTiles, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment, "STEPS", 80)
    told: list[str] = []
    seeing = replace(encoder, model=nn.Sequential(nn.AvgPool2d(4), nn.AvgPool2d(2), nn.Flatten()))
    network, baseline = evaluate_masks([seeing], few, SETTINGS, tell=told.append)
    assert score(network) > 0.85
    assert score(baseline) > 0.95
    assert (network.kind, baseline.kind) == ("encoder", "baseline")
    assert told == ["random:test_resnet: 80 steps of a decoder", "colour of pixels"]
    for found in (network, baseline):
        (counts,) = found.confusion.values()
        assert np.sum(counts) == 6 * SIZE * SIZE
        dice = found.scores[METHOD]["dice"]
        assert dice.low <= dice.value <= dice.high
        assert score(found, "iou") <= dice.value


@pytest.mark.usefixtures("short")
def test_the_same_seed_gives_the_same_result_however_much_is_kept(
    few: MaskedTiles, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, again = (evaluate_masks([encoder], few, SETTINGS)[0] for _ in range(2))
    assert (first.scores, first.confusion) == (again.scores, again.confusion)
    monkeypatch.setattr(segment, "_MAP_BYTES", 0)
    unkept = evaluate_masks([encoder], few, SETTINGS)[0]
    assert score(unkept) == pytest.approx(score(first), abs=0.01)
    other = evaluate_masks([encoder], few, replace(SETTINGS, seed=1))[0]
    assert other.confusion != first.confusion


@pytest.mark.usefixtures("short")
def test_test_tiles_change_nothing_that_is_learnt(
    few: MaskedTiles, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    learnt = []
    fit = segment._fit

    def watched(*given: Any) -> tuple[Decoder, int]:
        decoder, step = fit(*given)
        learnt.append(decoder.state_dict())
        return decoder, step

    monkeypatch.setattr(segment, "_fit", watched)
    fewer = few.split.copy()
    fewer[-4:] = 9
    for split in (few.split, fewer):
        evaluate_masks([encoder], replace(few, split=split), SETTINGS)
    assert all(torch.equal(learnt[0][key], learnt[1][key]) for key in learnt[0])


@pytest.mark.usefixtures("short")
def test_a_damaged_tile_is_left_out(tmp_path: Path, encoder: Encoder) -> None:
    tiles = discs(tmp_path)
    (entry,) = tiles.manifest.committed()
    damage_tile(tiles.manifest.store_path(entry), "0.5", 12)
    network, baseline = evaluate_masks([encoder], tiles, SETTINGS)
    for found in (network, baseline):
        assert (np.sum(found.confusion[METHOD]), found.damaged) == (5 * SIZE * SIZE, 1)


@pytest.mark.parametrize("split", [0, 1, 2])
def test_a_split_without_masks_is_refused(few: MaskedTiles, encoder: Encoder, split: int) -> None:
    moved = np.where(few.split == split, (split + 1) % 3, few.split).astype(np.int8)
    name = ("train", "val", "test")[split]
    with pytest.raises(ConfigError, match=f"no tile with a mask is in the split {name}"):
        evaluate_masks([encoder], replace(few, split=moved), SETTINGS)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("split", [1, 2])
def test_a_split_without_a_known_pixel_is_refused(
    few: MaskedTiles, encoder: Encoder, split: int
) -> None:
    nowhere = zlib.compress(np.full((SIZE, SIZE), 256, dtype=np.uint16).tobytes())
    pieces = (
        nowhere if of == split else p for of, p in zip(few.split, few.masks.pieces, strict=True)
    )
    tiles = replace(few, masks=replace(few.masks, pieces=tuple(pieces)))
    name = ("train", "val", "test")[split]
    with pytest.raises(ConfigError, match=f"no pixel of the split {name} has a class"):
        evaluate_masks([encoder], tiles, SETTINGS)


def test_confusions_are_those_of_each_unit(few: MaskedTiles) -> None:
    rows = np.array([3, 2, 9, 8, 15])
    with closing(MaskedReader(few, 1)) as reader:
        tiles, truth = reader.read(rows)

        def predict(pixels: Rgb) -> npt.NDArray[np.int64]:
            return np.asarray(pixels.mean(axis=3) < 150, dtype=np.int64)

        found = confusions(reader, rows, 2, predict, 2)
    said = predict(tiles)
    units = few.units[rows]
    assert found.shape == (3, 2, 2)
    for unit, counts in zip(np.unique(units), found, strict=True):
        true, here = truth[units == unit].ravel(), said[units == unit].ravel()
        assert 2 * counts[1, 1] / (counts[1].sum() + counts[:, 1].sum()) == pytest.approx(
            f1_score(true, here)
        )
        union = counts.sum() - counts[0, 0]
        assert counts[1, 1] / union == pytest.approx(jaccard_score(true, here))


def test_the_loss_is_what_a_loop_over_known_pixels_gives() -> None:
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 4, generator=random)
    truth = torch.randint(0, 2, (2, 4, 4), generator=random).to(torch.uint8)
    truth[0, :2] = IGNORED
    entropy, said, true = [], [], []
    for place in torch.nonzero(truth != IGNORED):
        tile, row, column = place.tolist()
        share = logits[tile, :, row, column].softmax(dim=0)
        number = int(truth[tile, row, column])
        entropy.append(-share[number].log())
        said.append(share)
        true.append(torch.eye(3)[number])
    p, t = torch.stack(said), torch.stack(true)
    dice = (2 * (p * t).sum(dim=0) + 1) / ((p + t).sum(dim=0) + 1)
    # The third class is in no pixel.
    expected = torch.stack(entropy).mean() + (1 - dice[:2]).mean()
    torch.testing.assert_close(mask_loss(logits, truth), expected)


def test_the_loss_of_nothing_known_is_nothing() -> None:
    logits = torch.randn(1, 2, 4, 4, requires_grad=True)
    loss = mask_loss(logits, torch.full((1, 4, 4), IGNORED, dtype=torch.uint8))
    torch.autograd.backward(loss)
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("size", [32, 33, 96])
def test_logits_have_the_size_of_the_tile(size: int) -> None:
    decoder = Decoder((4, 8), classes=5)
    maps = [torch.rand(2, 4, 8, 8), torch.rand(2, 8, 3, 3)]
    assert decoder(maps, size).shape == (2, 5, size, size)


def test_a_tiles_logits_depend_on_no_other_tile() -> None:
    decoder = Decoder((4, 8), classes=5)
    maps = [torch.rand(2, 4, 8, 8), torch.rand(2, 8, 3, 3)]
    alone = decoder([found[:1] for found in maps], 32)
    torch.testing.assert_close(decoder(maps, 32)[:1], alone)


def test_a_pixels_colours_are_its_own_and_means_around_it() -> None:
    tiles = np.random.default_rng(0).integers(0, 256, (2, 20, 20, 3), dtype=np.uint8)
    found = pixel_colours(tiles)
    assert found.shape == (2, 20, 20, 9)
    for y, x in [(0, 0), (7, 11), (19, 3)]:
        for place, reach in enumerate((0, 2, 8)):
            around = tiles[1, max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
            expected = around.mean(axis=(0, 1)) / 255
            assert found[1, y, x, 3 * place : 3 * place + 3] == pytest.approx(expected, abs=1e-5)
