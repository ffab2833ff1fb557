"""Tile specs: what is refused, and what makes one spec another."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import pytest

from manifests.codec import TileCodec
from manifests.files import canonical_json, spec_hash
from tiler.errors import TilerError
from tiler.options import TileSpec

SPEC = TileSpec((0.5,), max_tiles=100)


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("mpps", [(0.0,), (-0.5,), (math.nan,), (math.inf,), (0.5, 1001.0), (0.0099,)]),
        ("tile_size", [0, -1, 8193]),
        ("stride", [0, -256]),
        ("edge", ["keep", ""]),
        ("min_tissue", [-0.01, 1.01, math.nan]),
        ("max_tiles", [0, -1]),
        ("seed", [-1, 2**63]),
        ("mpp_tolerance", [-0.001, 0.5, math.nan]),
        ("shard_tiles", [0, 65537]),
    ],
)
def test_a_value_out_of_range_is_refused_by_the_name_of_its_option(
    option: str, values: list[Any]
) -> None:
    flag = "--" + option.removesuffix("s" if option == "mpps" else "").replace("_", "-")
    for value in values:
        with pytest.raises(TilerError, match=rf"^{flag} "):
            replace(SPEC, **{option: value})


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("mpps", [(), (0.01,), (1000.0,)]),
        ("tile_size", [1, 8192]),
        ("stride", [None, 1, 10_000]),
        ("min_tissue", [0, 1]),
        ("max_tiles", [None, 1]),
        ("seed", [0, 2**63 - 1]),
        ("mpp_tolerance", [0, 0.499]),
        ("shard_tiles", [1, 65536]),
    ],
)
def test_the_ends_of_each_range_are_allowed(option: str, values: list[Any]) -> None:
    for value in values:
        assert getattr(replace(SPEC, **{option: value}), option) == value


def test_resolutions_are_ascending_and_named_once() -> None:
    assert TileSpec((1.0, 0.25, 0.5, 0.25)).mpps == (0.25, 0.5, 1.0)


def test_resolutions_that_would_share_a_group_are_refused() -> None:
    with pytest.raises(TilerError, match=r"--mpp 0\.25 and 0\.25000001 are too close"):
        TileSpec((0.25, 0.25000001))


def test_the_step_is_the_tile_size_unless_a_stride_is_given() -> None:
    assert (TileSpec((1.0,), 224).step, TileSpec((1.0,), 224, stride=100).step) == (224, 100)
    assert TileSpec((1.0,), 224).to_json() == TileSpec((1.0,), 224, stride=224).to_json()


OTHER: dict[str, Any] = {
    "mpps": (0.25,),
    "tile_size": 224,
    "stride": 128,
    "edge": "pad",
    "min_tissue": 0.25,
    "tissue": False,
    "max_tiles": 99,
    "seed": 1,
    "mpp_tolerance": 0.02,
    "allow_upsample": True,
    "shard_tiles": 256,
    "codec": TileCodec("jpeg", quality=80),
    "quality": False,
    "exact": True,
    "native": True,
    "reader": "openslide",
}


@pytest.mark.parametrize("option", [field.name for field in fields(TileSpec)])
def test_every_option_that_changes_tiles_changes_the_hash(option: str) -> None:
    assert spec_hash(replace(SPEC, **{option: OTHER[option]}).to_json()) != spec_hash(
        SPEC.to_json()
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (TileSpec((0.5,), seed=1), TileSpec((0.5,), seed=2)),
        (TileSpec((0.5,), tissue=False, min_tissue=0.1), TileSpec((0.5,), tissue=False)),
        (
            TileSpec((0.5,), codec=TileCodec("zstd", quality=50)),
            TileSpec((0.5,), codec=TileCodec("zstd", quality=90)),
        ),
    ],
)
def test_an_option_without_effect_does_not_change_the_hash(one: TileSpec, other: TileSpec) -> None:
    assert canonical_json(one.to_json()) == canonical_json(other.to_json())
