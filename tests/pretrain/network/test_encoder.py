"""An exported encoder is plain weights that say what they were made from, and how to feed them."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402
import torchvision  # noqa: E402
from PIL import Image  # noqa: E402

import pretrain  # noqa: E402
from pretrain.errors import CheckpointError, ConfigError  # noqa: E402
from pretrain.network.encoder import (  # noqa: E402
    EncoderInfo,
    Transform,
    is_encoder,
    load_encoder,
    save_encoder,
)
from pretrain.network.model import build_encoder  # noqa: E402
from pretrain.views.augment import draw_views, make_views  # noqa: E402
from pretrain.views.viewconfig import ViewConfig  # noqa: E402
from tests.manifests.make import tile_pixels  # noqa: E402

SMALL = "timm/test_resnet"


def info_of(**changes: Any) -> EncoderInfo:
    facts: dict[str, Any] = {
        "arch": SMALL,
        "library": "timm",
        "features": 96,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.25, 0.5),
        "image_size": 32,
        "tile_size": 64,
        "mpp": ((0.25, 0.26), (0.5, 0.5)),
        "mix": {"tiles": 3, "strata": [{"organ": "colon", "tiles": 3}]},
        "config": {"train": {"seed": 0}},
        "steps": 5,
        "averaged": False,
        "damaged_tiles": 0,
        "manifest_sha256": "0" * 64,
        "histotile": "0.1.0",
    }
    return EncoderInfo(**{**facts, **changes})


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "encoder.safetensors"
    save_encoder(path, build_encoder(SMALL), info_of())
    return path


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    expected = build_encoder(SMALL)
    save_encoder(tmp_path / "e.safetensors", expected, info_of())
    model, transform = pretrain.load_encoder(tmp_path / "e.safetensors")
    assert transform.info == info_of()
    assert not model.training
    views = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(model(views), expected.eval()(views))


def test_loading_leaves_the_global_generator_alone(saved: Path) -> None:
    state = torch.get_rng_state()
    load_encoder(saved)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_weights_load_into_plain_models(tmp_path: Path, saved: Path) -> None:
    import timm

    model = timm.create_model("test_resnet", num_classes=0)
    model.load_state_dict(safetensors.torch.load_file(saved), strict=True)
    path = tmp_path / "r.safetensors"
    save_encoder(path, build_encoder("resnet18"), info_of(arch="resnet18", library="torchvision"))
    resnet = torchvision.models.resnet18(weights=None)
    resnet.fc = torch.nn.Identity()
    resnet.load_state_dict(safetensors.torch.load_file(path), strict=True)


def test_the_same_weights_give_the_same_bytes(tmp_path: Path) -> None:
    encoder = build_encoder(SMALL)
    for name in ("a", "b"):
        save_encoder(tmp_path / name, encoder, info_of())
        encoder = encoder.to(memory_format=torch.channels_last)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


TILES = tile_pixels(3, 64)


def features_of(path: Path, tiles: Any, **settings: Any) -> Any:
    model, transform = load_encoder(path, **settings)
    with torch.no_grad():
        return model(transform(tiles))


@pytest.mark.parametrize(
    "tiles",
    [
        TILES,
        torch.from_numpy(TILES),
        torch.from_numpy(TILES).permute(0, 3, 1, 2),
        np.ascontiguousarray(TILES[:, :, ::-1])[:, :, ::-1],
    ],
    ids=["array", "tensor", "channels first", "negative strides"],
)
def test_tiles_of_any_kind_give_the_same_features(saved: Path, tiles: Any) -> None:
    expected = torch.cat([features_of(saved, Image.fromarray(tile)) for tile in TILES])
    assert expected.shape == (3, 96)
    torch.testing.assert_close(features_of(saved, tiles), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(features_of(saved, tiles[0]), expected[:1], rtol=1e-4, atol=1e-5)


def test_the_transform_is_the_arithmetic_that_it_says() -> None:
    found = Transform(info_of())(TILES)
    assert found.dtype == torch.float32
    expected = (TILES / 255.0 - [0.5, 0.5, 0.5]) / [0.5, 0.25, 0.5]
    np.testing.assert_allclose(found.permute(0, 2, 3, 1).numpy(), expected, atol=1e-6)


def test_pictures_with_a_palette_or_alpha_are_read_as_rgb() -> None:
    picture = Image.fromarray(TILES[0])
    expected = Transform(info_of())(picture)
    assert torch.equal(Transform(info_of())(picture.convert("RGBA")), expected)
    assert Transform(info_of())(picture.convert("L")).shape == expected.shape


@pytest.mark.parametrize("size", [64, 48, 24, 80])
def test_it_is_what_training_sees_where_nothing_is_drawn(size: int) -> None:
    never = {f.name: 0.0 for f in fields(ViewConfig) if f.name.endswith("_probability")}
    whole = {"crop_area": (1.0, 1.0), "crop_ratio": (1.0, 1.0), "flip": False, "turn": False}
    plain = ViewConfig(**never, **whole)  # type: ignore[arg-type]
    tiles = torch.from_numpy(TILES)
    expected = make_views(tiles, draw_views(plain, 0, np.arange(3), 0), size)
    info = info_of(std=(0.5, 0.5, 0.5))
    torch.testing.assert_close(Transform(info, size)(tiles), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("tiles", "message"),
    [
        (TILES.astype(np.float32) / 255, "in uint8, not float32"),
        ([[1, 2]], "must be an array, a tensor or a PIL image, not a list"),
        (torch.zeros(3, 8, 8), r"in uint8, not torch\.float32"),
        (TILES[0, :, :, 0], r"must have the shape .* not \(64, 64\)"),
        (np.zeros((8, 8, 4), dtype=np.uint8), r"must have the shape .* not \(8, 8, 4\)"),
        (TILES[None], r"must have the shape"),
    ],
)
def test_what_is_no_tile_is_one_sentence(tiles: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Transform(info_of())(tiles)


def test_a_transformer_gets_the_size_that_it_was_trained_at(tmp_path: Path) -> None:
    path = tmp_path / "vit.safetensors"
    encoder = build_encoder("test_vit", 48)
    save_encoder(path, encoder, info_of(arch="test_vit", image_size=48))
    assert features_of(path, TILES).shape == (3, 64)
    assert load_encoder(path)[1].size == 48
    assert load_encoder(path, size=48)[1].size == 48
    with pytest.raises(ConfigError, match="takes pictures of 48 px alone, not 64"):
        load_encoder(path, size=64)


def test_a_size_can_be_asked_of_encoders_that_take_any(saved: Path) -> None:
    _, transform = load_encoder(saved, size=40)
    assert transform(TILES).shape == (3, 3, 40, 40)


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_encoder(tmp_path / "none.safetensors")


def test_a_cut_file_is_refused(saved: Path) -> None:
    saved.write_bytes(saved.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_encoder(saved)


def test_a_flipped_bit_is_refused(saved: Path) -> None:
    data = bytearray(saved.read_bytes())
    data[-1000] ^= 1
    saved.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match="fails its checksum"):
        load_encoder(saved)


def test_foreign_weights_are_refused(saved: Path) -> None:
    assert is_encoder(saved)
    safetensors.torch.save_file({"a": torch.zeros(1)}, saved)
    assert not is_encoder(saved)
    with pytest.raises(CheckpointError, match="not written by histotile"):
        load_encoder(saved)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "are not those of an encoder"),
        ("{", "are not those of an encoder"),
        ('{"format": "histotile-encoder"}', "are not those of an encoder"),
        ('{"format": "histotile-encoder", "version": 2}', "are not those of an encoder"),
        ('{"format": "histotile-encoder", "version": 1}', "version 1; .* reads .* version 2"),
        ('{"format": "histotile-checkpoint", "version": 1}', "is histotile-checkpoint version 1"),
    ],
)
def test_odd_metadata_are_refused(saved: Path, text: str, message: str) -> None:
    safetensors.torch.save_file({"a": torch.zeros(1)}, saved, metadata={"histotile": text})
    with pytest.raises(CheckpointError, match=message):
        load_encoder(saved)


@pytest.mark.parametrize("name", [item.name for item in fields(EncoderInfo)])
def test_each_fact_must_be_there(saved: Path, name: str) -> None:
    with safetensors.safe_open(saved, framework="pt") as file:
        said = json.loads(file.metadata()["histotile"])
    del said[name]
    metadata = {"histotile": json.dumps(said)}
    safetensors.torch.save_file({"a": torch.zeros(1)}, saved, metadata=metadata)
    with pytest.raises(CheckpointError, match="are not those of an encoder"):
        load_encoder(saved)


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        (SMALL, f"does not hold the weights of a {SMALL}"),
        ("no-such-net", "cannot be used here: neither torchvision nor timm has an encoder called"),
        ("hf-hub:someone/net", "cannot be used here: neither torchvision nor timm"),
    ],
)
def test_a_missing_weight_is_an_error_and_never_a_random_one(
    tmp_path: Path, arch: str, message: str
) -> None:
    path = tmp_path / "e.safetensors"
    save_encoder(path, torch.nn.Linear(2, 2), info_of(arch=arch))
    with pytest.raises(CheckpointError, match=message):
        load_encoder(path)


@pytest.mark.parametrize("size", [0, -3, 2.5, "96"])
def test_a_size_that_is_none_is_refused(size: Any, saved: Path) -> None:
    with pytest.raises(ConfigError, match="size must be a whole number of pixels"):
        load_encoder(saved, size=size)
