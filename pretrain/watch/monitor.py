"""A look at the features during training: do neighbours agree, are embeddings aligned and spread?

The same tiles are looked at each time. Looking changes nothing: no weight, no statistic, no
generator of random numbers. Tiles are uint8 (B, H, W, 3), features (N, F), embeddings (N, D);
pixels are read anew each time, never held.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from manifests import Manifest, StoreError
from manifests.codec import Rgb
from manifests.store import TileGroup, TileStore, is_committed, open_store
from pretrain.config import TrainConfig
from pretrain.mixing.keyed import key_of
from pretrain.mixing.mix import Mix
from pretrain.scoring.neighbours import Floats, Integers, nearest, unit
from pretrain.views.augment import draw_views, make_views
from pretrain.views.viewconfig import make_view_config
from pretrain.watch.labels import KnownTile
from pretrain.watch.neighbours import Cell, write_picture
from pretrain.watch.panel import Panel, choose_panel
from pretrain.watch.scores import Scores, alignment, knn_accuracy, uniformity

PAIRS = 128
"""Most tiles that two views are made of, for alignment and uniformity."""
MOST_NEIGHBOURS = 20
"""Neighbours that vote; fewer where a class has fewer tiles."""

_BATCH_BYTES = 12 << 20
_THREADS = 4
_SHOWN_ROWS = 8
_SHOWN_NEIGHBOURS = 6
_PLAIN = make_view_config("none")

Rows = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Look:
    """What the last look saw, of the tiles that could be read."""

    panel: Panel
    features: Floats
    """(N, F), of length 1."""
    scores: Scores


class Monitor:
    """Looks at an encoder, again and again, through the same tiles."""

    def __init__(self, manifest: Manifest, mix: Mix, config: TrainConfig) -> None:
        """Choose the tiles; `config` says the split that the mix is of.

        Raises:
            ConfigError: nothing in the manifest has the field that neighbours should agree on.
            StoreError: a store cannot be opened.
        """
        self._panel = choose_panel(manifest, mix, config)
        self._reader = _Reader(manifest)
        self._views = config.views
        self._seed = key_of(config.seed, "monitor")
        self._size = config.image_size or mix.tile_size
        self._last: _Look | None = None

    @property
    def note(self) -> str:
        """One sentence on what is scored, or why nothing is."""
        return self._panel.note

    @property
    def field(self) -> str | None:
        """What neighbours should agree on: `label` or a field; None if nothing is scored."""
        return self._panel.field

    def measure(self, encoder: nn.Module, head: nn.Module, device: torch.device | str) -> Scores:
        """Score an encoder as it is now; both modules are left in the modes they were in.

        Args:
            encoder: float32 (B, 3, S, S) to features (B, F), on the device.
            head: features to embeddings (B, D), as the loss sees them.

        Raises:
            StoreError: a store was removed, or none of the tiles can be read any more. Tiles that
                are damaged are left out.
        """
        device = torch.device(device)
        features: dict[int, Rows] = {}
        pairs: dict[int, Rows] = {}
        with _looking(encoder, head):
            for places, pixels in self._reader.batches(self._panel.tiles):
                tiles = torch.from_numpy(pixels).to(device)
                found = encoder(self._viewed(tiles, places, None))
                features.update(zip(places.tolist(), _rows(found), strict=True))
                paired = places < PAIRS
                if paired.any():
                    some = tiles[torch.from_numpy(paired).to(device)]
                    both = [
                        _rows(head(encoder(self._viewed(some, places[paired], view))))
                        for view in (0, 1)
                    ]
                    rows = np.stack(both, axis=1)
                    pairs.update(zip(places[paired].tolist(), rows, strict=True))
        if not pairs:
            raise StoreError(
                "none of the tiles to look at features with can be read any more; "
                "histotile manifest verify --deep says what is damaged"
            )
        kept = np.array(sorted(features), dtype=np.int64)
        self._last = _look(
            self._panel.only(kept),
            np.stack([features[place] for place in kept.tolist()]),
            np.stack([pairs[place] for place in sorted(pairs)]),
        )
        return self._last.scores

    def picture(self, path: Path) -> None:
        """Draw a few tiles and their nearest neighbours, as the last look found them, to a PNG.

        Raises:
            ValueError: nothing was measured yet.
            OSError: the file cannot be written; an older one is then untouched.
        """
        if self._last is None:
            raise ValueError("a picture of neighbours needs a look at the features before")
        panel, knn = self._last.panel, self._last.scores.knn
        features = self._last.features
        numbers, similarity = nearest(features, features, _SHOWN_NEIGHBOURS, allowed=panel.allowed)
        rows = np.flatnonzero(panel.queries & (numbers >= 0).any(axis=1))[:_SHOWN_ROWS]
        drawn = []
        for row in rows.tolist():
            cells = [self._cell(panel.tiles[row], None, None)]
            for other, value in zip(numbers[row].tolist(), similarity[row].tolist(), strict=True):
                if other >= 0:
                    agrees = bool(panel.labels[other] == panel.labels[row])
                    known = agrees if panel.field is not None else None
                    cells.append(self._cell(panel.tiles[other], value, known))
            drawn.append(cells)
        scored = "" if knn is None else f" by {panel.field}: k-NN {knn:.3f}"
        write_picture(path, drawn, f"Nearest neighbours{scored}")

    def _viewed(self, tiles: Tensor, places: Integers, view: int | None) -> Tensor:
        """Views of tiles (B, 3, S, S): whole and plain (None), or as in training (0 or 1)."""
        config = _PLAIN if view is None else self._views
        return make_views(tiles, draw_views(config, self._seed, places, view or 0), self._size)

    def _cell(self, tile: KnownTile, similarity: float | None, agrees: bool | None) -> Cell:
        words = [] if similarity is None else [f"{similarity:.3f}"]
        words.append(tile.label or tile.slide)
        return Cell(self._reader.read(tile), " ".join(words), agrees)


class _Reader:
    """Reads single tiles of a manifest's stores."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._entries = {entry.id: entry for entry in manifest.committed()}

    def read(self, tile: KnownTile) -> Rgb | None:
        """Pixels (S, S, 3); None if the tile is damaged."""
        return _read(self._store(tile.slide)[tile.group], tile.index)

    def batches(self, tiles: Sequence[KnownTile]) -> Iterator[tuple[Integers, Rgb]]:
        """Places of the tiles that can be read, and their pixels; tiles of a batch have one size.

        Threads read a batch while nothing else is done: it is a small part of a look.
        """
        by_size: dict[int, list[int]] = defaultdict(list)
        for place, tile in enumerate(tiles):
            by_size[tile.size].append(place)
        # Stores are open for one look only: a panel may have tiles of a thousand of them.
        stores: dict[str, TileStore] = {}
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="monitor") as pool:
            for size, members in sorted(by_size.items()):
                step = max(1, _BATCH_BYTES // (size * size * 3))
                for start in range(0, len(members), step):
                    batch = members[start : start + step]
                    new = sorted({tiles[place].slide for place in batch} - stores.keys())
                    stores.update(zip(new, pool.map(self._store, new), strict=True))
                    groups = [stores[tiles[place].slide][tiles[place].group] for place in batch]
                    read = pool.map(_read, groups, [tiles[place].index for place in batch])
                    good = [
                        (p, found)
                        for p, found in zip(batch, read, strict=True)
                        if found is not None
                    ]
                    if good:
                        places, pixels = zip(*good, strict=True)
                        yield np.array(places, dtype=np.int64), np.stack(pixels)

    def _store(self, slide: str) -> TileStore:
        return open_store(self._manifest, self._entries[slide])


def _read(group: TileGroup, index: int) -> Rgb | None:
    try:
        return group.read(index)
    except StoreError:
        if not is_committed(group.store.path):
            raise
        return None


def _look(panel: Panel, features: Rows, pairs: Rows) -> _Look:
    """Scores of features (N, F) and of embeddings of two views (P, 2, D)."""
    knn = None
    if panel.field is not None:
        bank = np.bincount(panel.labels[panel.allowed.any(axis=0)], minlength=1)
        k = int(np.clip(bank[bank > 0].min(initial=MOST_NEIGHBOURS), 1, MOST_NEIGHBOURS))
        knn = knn_accuracy(features, panel.labels, panel.allowed, k)
    scores = Scores(
        knn=knn,
        classes=len(panel.names),
        tiles=len(panel.tiles),
        alignment=alignment(pairs[:, 0], pairs[:, 1]),
        uniformity=(uniformity(pairs[:, 0]) + uniformity(pairs[:, 1])) / 2,
    )
    return _Look(panel, unit(features), scores)


@contextmanager
def _looking(*modules: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; each part goes back to the mode that it was in."""
    before = [(part, part.training) for module in modules for part in module.modules()]
    try:
        for module in modules:
            module.eval()
        with torch.no_grad():
            yield
    finally:
        for part, training in before:
            part.training = training


def _rows(values: Tensor) -> Rows:
    return values.float().cpu().numpy()
