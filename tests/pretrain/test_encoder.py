"""An exported encoder is plain torchvision weights that say what they were made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402
import torchvision  # noqa: E402

import pretrain  # noqa: E402
from pretrain.config import ARCHS  # noqa: E402
from pretrain.encoder import EncoderInfo, load_encoder, save_encoder  # noqa: E402
from pretrain.errors import CheckpointError  # noqa: E402
from pretrain.model import FEATURES, SimClr, build_encoder, seeded_model  # noqa: E402


def info_of(**changes: Any) -> EncoderInfo:
    facts: dict[str, Any] = {
        "arch": "resnet18",
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "image_size": 32,
        "tile_size": 64,
        "mpp": ((0.25, 0.26), (0.5, 0.5)),
        "mix": {"tiles": 3, "strata": [{"organ": "colon", "tiles": 3}]},
        "config": {"train": {"seed": 0}},
        "steps": 5,
        "damaged_tiles": 0,
        "manifest_sha256": "0" * 64,
        "histotile": "0.1.0",
    }
    return EncoderInfo(**{**facts, **changes})


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "encoder.safetensors"
    save_encoder(path, seeded_model("resnet18", 8, seed=1).encoder, info_of())
    return path


def test_what_is_saved_is_what_is_loaded(saved: Path) -> None:
    model, info = pretrain.load_encoder(saved)
    assert info == info_of()
    assert not model.training
    expected = seeded_model("resnet18", 8, seed=1).encoder.eval()
    views = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(model(views), expected(views))


def test_the_weights_load_into_a_plain_torchvision_model(saved: Path) -> None:
    model = torchvision.models.resnet18(weights=None)
    model.fc = torch.nn.Identity()
    model.load_state_dict(safetensors.torch.load_file(saved), strict=True)


def test_the_same_weights_give_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    other = tmp_path / "again.safetensors"
    encoder = seeded_model("resnet18", 8, seed=1).encoder.to(memory_format=torch.channels_last)
    save_encoder(other, encoder, info_of())
    assert saved.read_bytes() == other.read_bytes()


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_encoder(tmp_path / "none.safetensors")


def test_a_cut_file_is_refused(saved: Path) -> None:
    saved.write_bytes(saved.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_encoder(saved)


def test_foreign_weights_are_refused(saved: Path) -> None:
    safetensors.torch.save_file({"a": torch.zeros(1)}, saved)
    with pytest.raises(CheckpointError, match="not written by histotile"):
        load_encoder(saved)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "are not those of an encoder"),
        ("{", "are not those of an encoder"),
        ('{"format": "histotile-encoder"}', "are not those of an encoder"),
        ('{"format": "histotile-encoder", "version": 2}', "version 2"),
    ],
)
def test_odd_metadata_are_refused(saved: Path, text: str, message: str) -> None:
    safetensors.torch.save_file({"a": torch.zeros(1)}, saved, metadata={"histotile": text})
    with pytest.raises(CheckpointError, match=message):
        load_encoder(saved)


def test_an_unknown_architecture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "e.safetensors"
    save_encoder(path, torch.nn.Linear(2, 2), info_of(arch="vit"))
    with pytest.raises(CheckpointError, match="unknown architecture 'vit'"):
        load_encoder(path)


def test_a_missing_weight_is_an_error_and_never_a_random_one(tmp_path: Path) -> None:
    path = tmp_path / "e.safetensors"
    save_encoder(path, torch.nn.Linear(2, 2), info_of())
    with pytest.raises(CheckpointError, match="does not hold the weights of a resnet18"):
        load_encoder(path)


@pytest.mark.parametrize("arch", ARCHS)
def test_encoders_give_the_features_that_the_head_expects(arch: str) -> None:
    with torch.device("meta"):
        encoder = build_encoder(arch)
        features = encoder(torch.zeros(2, 3, 32, 32))
    assert features.shape == (2, FEATURES[arch])


def test_embeddings_have_the_width_asked_for() -> None:
    assert SimClr("resnet18", 24)(torch.zeros(2, 3, 32, 32)).shape == (2, 24)


def test_weights_depend_on_the_seed_and_leave_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    one, same, other = (seeded_model("resnet18", 8, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["encoder.conv1.weight"], other["encoder.conv1.weight"])
