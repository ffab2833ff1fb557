"""An encoder's name says whose weights it has; what is fed to it is what those were made for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import timm  # noqa: E402

from pretrain.embedding.encoders import (  # noqa: E402
    Encoder,
    check_mpp,
    named_apart,
    open_encoder,
    weights_digest,
)
from pretrain.errors import CheckpointError, ConfigError  # noqa: E402
from pretrain.network.encoder import load_encoder, save_encoder  # noqa: E402
from pretrain.network.model import build_encoder  # noqa: E402
from tests.manifests.make import tile_pixels  # noqa: E402
from tests.pretrain.network.test_encoder import SMALL, info_of  # noqa: E402


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    path = tmp_path / "colon" / "encoder.safetensors"
    path.parent.mkdir()
    save_encoder(path, build_encoder(SMALL), info_of())
    return path


def foreign_file(folder: Path) -> Path:
    path = folder / "theirs.pth"
    torch.save({"state_dict": timm.create_model("test_resnet", num_classes=4).state_dict()}, path)
    return path


@pytest.mark.parametrize("size", [None, 24])
def test_our_encoder_sees_what_its_transform_makes(ours: Path, size: int | None) -> None:
    encoder = open_encoder(str(ours), size=size)
    model, transform = load_encoder(ours, size=size)
    tiles = tile_pixels(3, 32)
    prepared = encoder.prepare(torch.from_numpy(tiles))
    assert torch.equal(prepared, transform(tiles))
    with torch.inference_mode():
        assert torch.equal(encoder.model(prepared), model(transform(tiles)))
    assert (encoder.name, encoder.mpp) == ("colon", ((0.25, 0.26), (0.5, 0.5)))


def test_a_name_holds_no_folder_but_that_of_a_run(ours: Path, tmp_path: Path) -> None:
    other = tmp_path / "mine.safetensors"
    other.write_bytes(ours.read_bytes())
    assert open_encoder(str(other)).name == "mine.safetensors"
    theirs = open_encoder(f"timm:test_resnet={foreign_file(tmp_path)}")
    assert theirs.name == "timm:test_resnet=theirs.pth"
    assert str(tmp_path) not in str(theirs.to_json())


def test_a_file_of_foreign_weights_is_used_with_its_librarys_mean(tmp_path: Path) -> None:
    encoder = open_encoder(f"timm:test_resnet={foreign_file(tmp_path)}")
    published = timm.get_pretrained_cfg("test_resnet")
    assert published is not None
    assert (encoder.mean, encoder.std) == (published.mean, published.std)
    model = timm.create_model("test_resnet", num_classes=0).eval()
    weights = torch.load(tmp_path / "theirs.pth", weights_only=True)["state_dict"]
    model.load_state_dict({k: v for k, v in weights.items() if not k.startswith("fc.")})
    x = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(encoder.model(x), model(x))


def test_torchvisions_weights_get_the_mean_of_imagenet(tmp_path: Path) -> None:
    path = tmp_path / "resnet18.pth"
    torch.save(build_encoder("resnet18").state_dict(), path)
    assert open_encoder(f"torchvision:resnet18={path}").mean == (0.485, 0.456, 0.406)
    assert open_encoder("random:resnet18").mean == (0.5, 0.5, 0.5)


def test_random_weights_follow_the_seed_and_leave_torchs_generator_alone() -> None:
    state = torch.random.get_rng_state()
    first, again, other = (open_encoder("random:test_resnet", seed=s) for s in (3, 3, 4))
    assert first.sha256 == again.sha256 != other.sha256
    assert torch.equal(state, torch.random.get_rng_state())


def test_an_encoder_of_one_size_brings_tiles_to_it() -> None:
    encoder = open_encoder("random:test_vit")
    tiles = torch.from_numpy(tile_pixels(2, 32))
    assert encoder.prepare(tiles).shape == (2, 3, 160, 160)
    assert encoder.model(encoder.prepare(tiles)).shape == (2, encoder.features)


def test_the_digest_sees_every_weight() -> None:
    model = build_encoder(SMALL)
    before = weights_digest(model)
    with torch.no_grad():
        next(iter(model.parameters())).view(-1)[0] += 1
    assert weights_digest(model) != before


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nothing.safetensors", r"'nothing.safetensors' is not there: give FILE, random:ARCH"),
        ("random:", "not named as it should be"),
        ("random:resnet18=x.pth", "not named as it should be"),
        ("timm:test_resnet", "not named as it should be"),
        ("timm:test_resnet=nothing.pth", "weights 'nothing.pth' of timm:test_resnet are not there"),
        ("torchvision:vgg16=nothing.pth", "histotile knows resnet18"),
        ("random:resnet19", "did you mean resnet18"),
    ],
)
def test_a_wrong_name_is_told(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        open_encoder(text)


def test_a_folder_and_a_strange_file_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder"):
        open_encoder(str(tmp_path))
    strange = tmp_path / "strange.safetensors"
    strange.write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        open_encoder(str(strange))


@pytest.fixture(scope="module")
def at_half() -> Encoder:
    return replace(open_encoder("random:test_resnet"), name="run-1", mpp=((0.5, 0.5),))


def test_tiles_of_another_resolution_are_refused_unless_told(at_half: Encoder) -> None:
    check_mpp(at_half, [(0.5, 0.5), (0.46, 0.54)])
    check_mpp(at_half, [(2.0, 2.0)], any_mpp=True)
    with pytest.raises(ConfigError, match=r"run-1 was trained on tiles of 0\.5 µm/px, .* have 1:"):
        check_mpp(at_half, [(0.5, 0.5), (1.0, 1.0)])
    with pytest.raises(ConfigError, match=r"have 0\.5"):
        check_mpp(at_half, [(0.5, 1.0)])


def test_what_an_unknown_encoder_was_trained_on_is_not_guessed(at_half: Encoder) -> None:
    check_mpp(replace(at_half, mpp=()), [(8.0, 8.0)])


def test_two_encoders_of_one_name_are_refused(at_half: Encoder) -> None:
    named_apart([at_half, replace(at_half, name="run-2")])
    with pytest.raises(ConfigError, match="run-1 is there twice"):
        named_apart([at_half, at_half])
    with pytest.raises(ConfigError, match="two of that name"):
        named_apart([at_half, replace(at_half, sha256="0")])


def test_prepared_tiles_are_normalised_by_the_given_numbers(at_half: Encoder) -> None:
    encoder = replace(at_half, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 4.0), size=None)
    tiles = tile_pixels(2, 8)
    expected = (tiles / 255 - [0.1, 0.2, 0.3]) / [1.0, 2.0, 4.0]
    found = encoder.prepare(torch.from_numpy(tiles)).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)
