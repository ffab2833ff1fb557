"""First weights: all of an encoder's, from whatever file holds them, or one sentence."""

from __future__ import annotations

import argparse
import dataclasses
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402
import torchvision  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from pretrain.config import TrainConfig  # noqa: E402
from pretrain.errors import ConfigError  # noqa: E402
from pretrain.network.model import build_encoder, build_model  # noqa: E402
from pretrain.network.weights import initialise, read_weights  # noqa: E402

Weights = dict[str, Tensor]


SMALL = "timm/test_resnet"


def resnet(arch: str = SMALL) -> Weights:
    """Weights that no fresh model has, with a classifier, as their library saves them."""
    if arch == SMALL:
        import timm

        model = timm.create_model("test_resnet", num_classes=5)
    else:
        model = torchvision.models.get_model(arch, weights=None, num_classes=5)
    return {
        key: value.clone() if key.endswith("tracked") else torch.randn_like(value)
        for key, value in model.state_dict().items()
    }


def prefixed(prefix: str, weights: Weights) -> Weights:
    return {prefix + key: value for key, value in weights.items()}


def loaded(path: Path | str, arch: str = SMALL) -> tuple[nn.Module, str]:
    model = build_model(TrainConfig(arch=arch, image_size=32, init=str(path)))
    return model.encoder, model.origin


def assert_holds(encoder: nn.Module, weights: Weights) -> None:
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, weights[key]), key


@pytest.mark.parametrize(
    "prefix",
    [
        *("", "model.resnet.", "module.", "encoder.", "backbone.", "model."),
        *("module.encoder_q.", "_orig_mod.encoder.", "net.someones_own."),
    ],
)
def test_whatever_stands_before_the_keys_the_same_weights_are_found(
    tmp_path: Path, prefix: str
) -> None:
    weights = resnet()
    torch.save({"state_dict": prefixed(prefix, weights), "epoch": 3}, tmp_path / "w.pt")
    encoder, origin = loaded(tmp_path / "w.pt")
    assert_holds(encoder, weights)
    assert origin == f"{tmp_path / 'w.pt'}, without {prefix}fc.bias, {prefix}fc.weight"


SAVERS: list[Callable[[Weights, Path], Any]] = [
    torch.save,
    lambda weights, path: torch.save({"model_state_dict": weights}, path),
    lambda weights, path: torch.save({"model": weights, "optimizer": {"lr": 1.0}}, path),
    lambda weights, path: torch.save(weights, path, _use_new_zipfile_serialization=False),
    safetensors.torch.save_file,
]


@pytest.mark.parametrize("save", SAVERS)
def test_each_kind_of_file_is_read(tmp_path: Path, save: Callable[[Weights, Path], Any]) -> None:
    weights = {key: value for key, value in resnet().items() if not key.startswith("fc.")}
    save(weights, tmp_path / "weights")
    encoder, origin = loaded(tmp_path / "weights")
    assert_holds(encoder, weights)
    assert origin == str(tmp_path / "weights")


def test_only_the_encoder_is_replaced(tmp_path: Path) -> None:
    torch.save(resnet(), tmp_path / "w.pt")
    config = TrainConfig(arch=SMALL, seed=4)
    fresh = build_model(config).head.state_dict()
    config = dataclasses.replace(config, init=str(tmp_path / "w.pt"))
    found = build_model(config).head.state_dict()
    assert all(torch.equal(fresh[key], found[key]) for key in fresh)


def test_of_several_encoders_the_usual_one_is_taken(tmp_path: Path) -> None:
    query, key = resnet(), resnet()
    both = prefixed("module.encoder_q.", query) | prefixed("module.encoder_k.", key)
    torch.save(both, tmp_path / "moco.pt")
    assert_holds(loaded(tmp_path / "moco.pt")[0], query)
    both = prefixed("model.encoder.", query) | prefixed("ema.encoder.", key)
    safetensors.torch.save_file(both, tmp_path / "ours.safetensors")
    assert_holds(loaded(tmp_path / "ours.safetensors")[0], query)


def test_which_of_several_is_never_guessed(tmp_path: Path) -> None:
    torch.save(prefixed("left.", resnet()) | prefixed("right.", resnet()), tmp_path / "w.pt")
    with pytest.raises(ConfigError, match=r"several encoders, under the prefixes left\., right\."):
        loaded(tmp_path / "w.pt")


def test_files_without_batch_counts_are_whole(tmp_path: Path) -> None:
    weights = {key: value for key, value in resnet().items() if not key.endswith("tracked")}
    torch.save(weights, tmp_path / "old.pt")
    found = loaded(tmp_path / "old.pt")[0].state_dict()
    assert torch.equal(found["conv1.0.weight"], weights["conv1.0.weight"])


@pytest.mark.parametrize("wrong", ["resnet34", "resnet50"])
def test_the_file_of_another_backbone_is_named(tmp_path: Path, wrong: str) -> None:
    # All that a ResNet-18 has is in a ResNet-34, in the same shape.
    torch.save(prefixed("module.", resnet(wrong)), tmp_path / "w.pt")
    with pytest.raises(ConfigError, match=f"holds a {wrong}, not a resnet18: give --arch {wrong}"):
        loaded(tmp_path / "w.pt", "resnet18")


def test_a_missing_weight_is_never_left_random(tmp_path: Path) -> None:
    weights = resnet()
    del weights["layer4.0.bn2.running_var"]
    torch.save(weights, tmp_path / "w.pt")
    with pytest.raises(ConfigError, match=r"it lacks layer4\.0\.bn2\.running_var$"):
        loaded(tmp_path / "w.pt")


def test_a_weight_of_another_shape_is_refused(tmp_path: Path) -> None:
    weights = {**resnet(), "conv1.0.weight": torch.zeros(9, 1, 7, 7)}
    torch.save(weights, tmp_path / "w.pt")
    with pytest.raises(ConfigError, match=r"conv1\.0\.weight has the shape \(9, 1, 7, 7\) instead"):
        loaded(tmp_path / "w.pt")


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    weights = resnet()
    weights["layer1.0.conv1.weight"][0, 0, 0, 0] = torch.nan
    torch.save(weights, tmp_path / "w.pt")
    with pytest.raises(ConfigError, match=r"no numbers, layer1\.0\.conv1\.weight for one"):
        loaded(tmp_path / "w.pt")


def test_nothing_is_changed_by_weights_that_do_not_fit(tmp_path: Path) -> None:
    torch.save({**resnet(), "layer4.0.bn1.bias": torch.zeros(1)}, tmp_path / "w.pt")
    encoder = build_encoder(SMALL)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    with pytest.raises(ConfigError):
        initialise(encoder, str(tmp_path / "w.pt"), SMALL)
    assert_holds(encoder, before)


def test_objects_beside_tensors_are_not_run_but_explained(tmp_path: Path) -> None:
    file = tmp_path / "lightning.ckpt"
    torch.save({"state_dict": resnet(), "hyper_parameters": argparse.Namespace(lr=1)}, file)
    with pytest.raises(ConfigError, match="if you trust who made it, run once: torch"):
        loaded(file)


@pytest.mark.parametrize("content", [b"", b"hello, this is text", b"\x10\0\0\0\0\0\0\0{nonsense"])
def test_a_file_of_something_else_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(ConfigError, match=r"neither safetensors nor|cannot be read as safetensors"):
        loaded(tmp_path / "w")


def test_a_missing_file_is_one_sentence_with_the_choices(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read .* random, imagenet or a file"):
        loaded(tmp_path / "none.pt")


def test_without_a_network_imagenet_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **named: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    with pytest.raises(ConfigError, match="published weights of resnet18 cannot be had"):
        loaded("imagenet", "resnet18")


def test_imagenet_weights_come_from_torchvision_without_running_anything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights = resnet("resnet18")

    def fetch(url: str, **named: Any) -> Weights:
        assert url.startswith("https://download.pytorch.org/models/resnet18-")
        assert named["weights_only"]
        assert named["check_hash"]
        return weights

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fetch)
    encoder, origin = loaded("imagenet", "resnet18")
    assert_holds(encoder, weights)
    assert origin == "ResNet18_Weights.IMAGENET1K_V1, without fc.bias, fc.weight"


def test_timms_weights_are_asked_for_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    real, given = timm.create_model, build_encoder("test_resnet", 32)

    def create(name: str, *, pretrained: bool, **named: Any) -> nn.Module:
        assert name == "test_resnet"
        model: nn.Module = given if pretrained else real(name, pretrained=False, **named)
        return model

    monkeypatch.setattr(timm, "create_model", create)
    encoder, origin = loaded("imagenet", "timm/test_resnet")
    assert_holds(encoder, given.state_dict())
    assert origin == "timm test_resnet.r160_in1k"


def test_a_pickle_is_refused_without_a_word_from_torch(tmp_path: Path) -> None:
    file = tmp_path / "plain.pt"
    file.write_bytes(pickle.dumps({"a": argparse.Namespace()}, protocol=4))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with pytest.raises(ConfigError, match="neither safetensors nor a plain state dict"):
            read_weights(file)
    assert not said
