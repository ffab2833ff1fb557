"""Segmentation: how much a frozen encoder knows of each pixel, told by a small decoder.

The decoder learns on training tiles from maps that never change, so all encoders get the same
steps, batches and choices; the step is chosen by the Dice of validation tiles alone; test tiles are
looked at once. A classifier of each pixel's colour is the counterpart of the colour histogram. S is
a tile's side in pixels, n a number of tiles; pixels of no class never count.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from manifests.codec import Rgb
from pretrain.embedding.encoders import Encoder
from pretrain.embedding.wanted import Integers
from pretrain.errors import ConfigError
from pretrain.results.result import EncoderResult, Matrix
from pretrain.results.settings import EvaluateSettings
from pretrain.scoring.intervals import Interval, score_masks
from pretrain.scoring.metrics import f1_by_class, mean_over_classes
from pretrain.segmenting.decoder import Decoder, mask_loss
from pretrain.segmenting.featuremaps import FeatureMaps
from pretrain.segmenting.maskedtiles import (
    TEST,
    TRAIN,
    VAL,
    MaskedReader,
    MaskedTiles,
    confusions,
)
from pretrain.segmenting.maskfiles import Pixels
from pretrain.segmenting.pixelcolour import PIXEL_COLOUR, fit_pixel_colour, predict_by_colour

METHOD = "decoder"
STEPS = 600
"""Of the decoder, the same for every encoder and set."""

_LOOKS = 10
"""How often validation tiles are looked at; the best look wins, of equals the first."""
_BATCH = 16
_RATE = 1e-3
_MOST_VAL = 512
"""Validation tiles that choose, drawn once."""
_NORM_TILES = 256
"""Training tiles whose maps say the mean and the spread of each channel."""
_MAP_BYTES = 2**30
"""Maps that are kept in memory; those of further tiles are made anew each time."""
_MOST_HALF = 65504.0
_LEAST_SPREAD = 1e-6

Maps = list[Tensor]


def evaluate_masks(
    encoders: Sequence[Encoder],
    tiles: MaskedTiles,
    settings: EvaluateSettings,
    *,
    device: str | torch.device = "cpu",
    tell: Callable[[str], None] = lambda _: None,
) -> tuple[EncoderResult, ...]:
    """Dice and IoU of each encoder, frozen, with a decoder; the baseline is the last.

    On a CPU, the same seed gives the same result, to the bit.

    Raises:
        ConfigError: a split has no tile with a mask, val or test no pixel of a class, or an encoder
            no maps.
        StoreError: a store is gone. A damaged tile is left out.
    """
    for split, name in enumerate(("train", "val", "test")):
        if not len(tiles.rows(split)):
            raise ConfigError(f"no tile with a mask is in the split {name}: split the set anew")
    # All dry runs first: what cannot be used is told before hours of work.
    nets = [FeatureMaps(e.model, e.size or tiles.masks.size) for e in encoders]
    found = []
    with closing(MaskedReader(tiles, settings.threads)) as reader:
        for encoder, net in zip(encoders, nets, strict=True):
            tell(f"{encoder.name}: {STEPS} steps of a decoder")
            frozen = _Frozen(encoder, net, reader, torch.device(device))
            found.append(_evaluate(encoder, frozen, reader, settings))
        tell(PIXEL_COLOUR)
        found.append(_evaluate_colour(reader, settings))
    return tuple(found)


def _evaluate(
    encoder: Encoder, frozen: _Frozen, reader: MaskedReader, settings: EvaluateSettings
) -> EncoderResult:
    began = time.perf_counter()
    decoder, step = _fit(frozen, reader.tiles, settings)
    fitted_s = time.perf_counter() - began
    predict = partial(frozen.predict, decoder)
    scores, counts = _tested(reader, predict, settings)
    return EncoderResult(
        name=encoder.name,
        arch=encoder.arch,
        library=encoder.library,
        features=encoder.features,
        sha256=encoder.sha256,
        mpp=encoder.mpp,
        kind="encoder",
        scores={METHOD: scores},
        chosen={"step": step},
        confusion={METHOD: counts},
        seconds={METHOD: fitted_s, "score": time.perf_counter() - began - fitted_s},
        damaged=len(reader.damaged),
    )


def _evaluate_colour(reader: MaskedReader, settings: EvaluateSettings) -> EncoderResult:
    began = time.perf_counter()
    probe = fit_pixel_colour(reader, len(reader.tiles.masks.classes), settings.seed)
    fitted_s = time.perf_counter() - began
    scores, counts = _tested(reader, partial(predict_by_colour, probe), settings)
    return EncoderResult(
        name=PIXEL_COLOUR,
        arch="",
        library="",
        features=9,
        sha256=None,
        mpp=(),
        kind="baseline",
        scores={METHOD: scores},
        chosen={"c": probe.c},
        confusion={METHOD: counts},
        seconds={METHOD: fitted_s, "score": time.perf_counter() - began - fitted_s},
        damaged=len(reader.damaged),
    )


def _tested(
    reader: MaskedReader,
    predict: Callable[[Rgb], npt.NDArray[np.integer]],
    settings: EvaluateSettings,
) -> tuple[dict[str, Interval], Matrix]:
    """Scores of the test tiles, and their pixels by true and predicted class."""
    tiles = reader.tiles
    matrices = confusions(
        reader, tiles.rows(TEST), len(tiles.masks.classes), predict, settings.batch_size
    )
    if not len(matrices):
        raise _nothing_known("test")
    scores = score_masks(matrices, resamples=settings.resamples, seed=settings.seed)
    return scores, tuple(tuple(row) for row in matrices.sum(axis=0).tolist())


class _Frozen:
    """The maps of a frozen encoder: standardised, and kept as long as there is room."""

    def __init__(
        self, encoder: Encoder, net: FeatureMaps, reader: MaskedReader, device: torch.device
    ) -> None:
        self.device = device
        self.channels = net.channels
        self._encoder = encoder
        self._net = net.to(device).eval()
        self._reader = reader
        self._norms: list[tuple[Tensor, Tensor]] = []
        self._kept: dict[int, tuple[Maps, Pixels]] = {}
        self._room = _MAP_BYTES

    def standardise(self, rows: Integers) -> None:
        """Take mean and spread of each channel over all places of the maps of these tiles."""
        sums = [torch.zeros(2, count, dtype=torch.float64) for count in self.channels]
        places = [0] * len(sums)
        for _, (pixels, _) in self._reader.batches(rows, _BATCH):
            for number, found in enumerate(self._maps(pixels)):
                flat = found.double().transpose(0, 1).flatten(1)
                sums[number] += torch.stack([flat.sum(dim=1), (flat**2).sum(dim=1)]).cpu()
                places[number] += flat.shape[1]
        for (total, squares), count in zip(sums, places, strict=True):
            mean = total / count
            spread = (squares / count - mean**2).clamp(min=0).sqrt().clamp(min=_LEAST_SPREAD)
            shape = (1, -1, 1, 1)
            self._norms.append(
                (
                    mean.float().view(shape).to(self.device),
                    spread.float().view(shape).to(self.device),
                )
            )

    def batch(self, rows: Integers) -> tuple[Maps, Tensor]:
        """Maps and truth (n, S, S) of training or validation tiles, on the device."""
        missing = np.array([row for row in rows.tolist() if row not in self._kept], dtype=np.int64)
        made: dict[int, tuple[Maps, Pixels]] = {}
        if len(missing):
            pixels, truth = self._reader.read(missing)
            maps = [found.cpu() for found in self._standard(pixels)]
            for place, row in enumerate(missing.tolist()):
                # Copies: a part of a batch would keep all of it in memory.
                made[row] = [found[place].clone() for found in maps], truth[place].copy()
                self._keep(row, *made[row])
        of_rows = [self._kept.get(row) or made[row] for row in rows.tolist()]
        stacked = [
            torch.stack([maps[number] for maps, _ in of_rows]).to(self.device).float()
            for number in range(len(self.channels))
        ]
        truth = np.stack([true for _, true in of_rows])
        return stacked, torch.from_numpy(truth).to(self.device)

    def predict(self, decoder: Decoder, pixels: Rgb) -> npt.NDArray[np.int64]:
        """Class of each pixel (n, S, S)."""
        with torch.inference_mode():
            maps = [found.float() for found in self._standard(pixels)]
            return self.said(decoder, maps, pixels.shape[1])

    def said(self, decoder: Decoder, maps: Maps, size: int) -> npt.NDArray[np.int64]:
        """What a decoder makes of maps: the class of each pixel (n, S, S)."""
        with torch.inference_mode():
            found: npt.NDArray[np.int64] = decoder(maps, size).argmax(dim=1).cpu().numpy()
        return found

    def _keep(self, row: int, maps: Maps, truth: Pixels) -> None:
        size = sum(found.nbytes for found in maps) + truth.nbytes
        if size <= self._room:
            self._kept[row] = maps, truth
            self._room -= size

    def _standard(self, pixels: Rgb) -> Maps:
        """Standardised maps in half precision, whether they are kept or not."""
        return [
            ((found - mean) / spread).clamp(-_MOST_HALF, _MOST_HALF).half()
            for found, (mean, spread) in zip(self._maps(pixels), self._norms, strict=True)
        ]

    def _maps(self, pixels: Rgb) -> Maps:
        with torch.no_grad():
            views = self._encoder.prepare(torch.from_numpy(pixels).to(self.device))
            maps: Maps = self._net(views)
        return maps


def _fit(frozen: _Frozen, tiles: MaskedTiles, settings: EvaluateSettings) -> tuple[Decoder, int]:
    """A decoder as it was at the look that validation tiles liked best, and the step of that."""
    random = np.random.default_rng(settings.seed)
    train = tiles.rows(TRAIN)
    val = np.sort(random.permutation(tiles.rows(VAL))[:_MOST_VAL])
    frozen.standardise(np.sort(random.permutation(train)[:_NORM_TILES]))
    classes = len(tiles.masks.classes)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(settings.seed)
        decoder = Decoder(frozen.channels, classes).to(frozen.device)
    optimizer = torch.optim.AdamW(decoder.parameters(), _RATE)
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    best, best_step, best_weights = -1.0, 0, decoder.state_dict()
    batches = _endless(train, random)
    for step in range(1, STEPS + 1):
        maps, truth = frozen.batch(next(batches))
        loss = mask_loss(decoder(maps, tiles.masks.size), truth)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        rates.step()
        if step % (STEPS // _LOOKS) == 0:
            score = _dice(frozen, decoder, val, tiles)
            if score > best:
                best, best_step = score, step
                best_weights = copy.deepcopy(decoder.state_dict())
    decoder.load_state_dict(best_weights)
    return decoder.eval(), best_step


def _endless(rows: Integers, random: np.random.Generator) -> Iterator[Integers]:
    """Batches of rows, in a new order each time round; the last of a round may be smaller."""
    while True:
        order = random.permutation(rows)
        yield from np.array_split(order, -(-len(order) // _BATCH))


def _dice(frozen: _Frozen, decoder: Decoder, rows: Integers, tiles: MaskedTiles) -> float:
    """Macro Dice of all known pixels of some tiles."""
    classes = len(tiles.masks.classes)
    counts = np.zeros(classes * classes, dtype=np.int64)
    for start in range(0, len(rows), _BATCH):
        maps, truth = frozen.batch(rows[start : start + _BATCH])
        said, true = frozen.said(decoder, maps, tiles.masks.size), truth.cpu().numpy()
        known = true < classes
        cells = true[known].astype(np.int64) * classes + said[known]
        counts += np.bincount(cells, minlength=len(counts))
    if not counts.any():
        raise _nothing_known("val")
    return float(mean_over_classes(f1_by_class(counts.reshape(classes, classes))))


def _nothing_known(split: str) -> ConfigError:
    return ConfigError(
        f"no pixel of the split {split} has a class, or its tiles cannot be read: split anew, or "
        "look at its masks"
    )
