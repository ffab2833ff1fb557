"""The end of a store: commit it, and draw the picture that a person checks.

`l0_` is level-0 pixels, pairs are (x, y).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from manifests.store import TileStore, is_committed
from manifests.writer import StoreWriter
from tiler.errors import SlideError
from tiler.grid import Ints


@dataclass(frozen=True, slots=True)
class FinishJob:
    """A store whose shards are all there."""

    id: str
    store: Path
    preview: Path | None
    """Where to draw the picture that a person checks; None for no picture."""
    damage: str | None = None
    """Why some of its tiles could not be read."""


def finish_store(job: FinishJob) -> None:
    """Commit a store and draw its preview; may be run again.

    Raises:
        SlideError: not one of its tiles could be read.
    """
    if not is_committed(job.store):
        writer = StoreWriter(job.store)
        unread = [writer.measured_column(group, "unread") for group in writer.layouts()]
        count = sum(map(len, unread))
        if count and all((share > 0).all() for share in unread):
            why = f": {job.damage}" if job.damage else ""
            raise SlideError(f"none of its {count} tiles can be read{why}")
        writer.commit()
    if job.preview is not None:
        draw_store_preview(job)


def draw_store_preview(job: FinishJob) -> None:
    """Draw the preview of a committed store: thumbnail, mask outline and tiles."""
    from tiler.preview import draw_preview, save_preview

    store = TileStore(job.store)
    group = store[store.groups[0]]
    size = np.asarray(group.attributes["l0_per_px"]) * group.tile_size
    l0_xy: Ints = np.stack([group.column("x"), group.column("y")], axis=1)
    l0_rects = np.concatenate([l0_xy, np.broadcast_to(size, l0_xy.shape)], axis=1)
    thumbnail = store.picture("thumbnail")
    l0_per_px_x, l0_per_px_y = store.attributes["overview_l0_per_px"]
    picture = draw_preview(
        thumbnail.astype(np.uint8),
        store.picture("tissue_mask").astype(np.bool_),
        l0_rects,
        (l0_per_px_x, l0_per_px_y),
        slide_id=job.id,
        mpp=group.mpp[0],
    )
    assert job.preview is not None
    save_preview(picture, job.preview)
