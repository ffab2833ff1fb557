"""Encoders by name, heads as their papers' code has them, weights that follow from the seed."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from pretrain.config import ARCHS, HEADS, TrainConfig  # noqa: E402
from pretrain.errors import ConfigError  # noqa: E402
from pretrain.network.model import (  # noqa: E402
    build_encoder,
    build_model,
    feature_count,
    find_backbone,
    library_of,
    projection_head,
)


def config_of(**settings: Any) -> TrainConfig:
    return TrainConfig(**{"arch": "timm/test_resnet", "image_size": 32, **settings})


@pytest.mark.parametrize(
    ("arch", "features"),
    [("resnet18", 512), ("resnet34", 512), ("resnet50", 2048), ("resnet101", 2048)],
)
def test_torchvisions_resnets_give_what_torchvision_says(arch: str, features: int) -> None:
    import torchvision

    assert arch in ARCHS
    with torch.device("meta"):
        model = torchvision.models.get_model(arch)
    assert model.fc.in_features == features
    if arch != "resnet101":  # the slow one
        assert feature_count(arch) == features


@pytest.mark.parametrize("size", [32, 48])
@pytest.mark.parametrize("arch", ["test_vit", "test_convnext", "test_efficientnet", "test_resnet"])
def test_timms_encoders_give_as_many_features_as_timm_says(arch: str, size: int) -> None:
    import timm

    found = find_backbone(arch, size)
    assert found.features == timm.create_model(arch, num_classes=0).num_features
    assert found.model(torch.zeros(2, 3, size, size)).shape == (2, found.features)
    assert found.any_size == (arch != "test_vit")


def test_a_transformer_without_a_size_has_its_published_one() -> None:
    found = find_backbone("test_vit")
    assert found.model(torch.zeros(1, 3, 160, 160)).shape == (1, found.features)


def test_a_prefix_means_timms_model_where_both_have_the_name() -> None:
    assert [library_of(a) for a in ("resnet18", "timm/resnet18")] == ["torchvision", "timm"]
    ours, timms = (
        build_encoder("resnet18").state_dict(),
        build_encoder("timm/resnet18").state_dict(),
    )
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in timms.items()}


@pytest.mark.parametrize(
    ("arch", "hint"),
    [
        ("resnet81", "neither torchvision nor timm .* 'resnet81'; did you mean .*resnet18"),
        ("zzzzzzzzzzz", "called 'zzzzzzzzzzz'$"),
        ("hf-hub:someone/else", "neither torchvision nor timm"),
        ("resnet18.none", "timm cannot build resnet18.none: Invalid pretrained tag"),
    ],
)
def test_an_unknown_name_is_one_sentence(arch: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=hint):
        build_encoder(arch, 32)


def test_a_size_that_an_encoder_does_not_take_is_one_sentence() -> None:
    with pytest.raises(
        ConfigError,
        match=r"does not take views of 40 px \(.*\): give --image-size 160, or another --arch",
    ):
        find_backbone("test_maxvit", 40)


def test_building_leaves_the_encoder_in_training_mode_with_fresh_statistics() -> None:
    encoder = build_encoder("test_resnet", 32)
    assert all(module.training for module in encoder.modules())
    counts = [v for k, v in encoder.state_dict().items() if k.endswith("num_batches_tracked")]
    assert counts
    assert not any(counts)


def layers_of(head: nn.Module) -> list[str]:
    return [type(layer).__name__ for layer in head.children()]


def test_the_papers_head_is_two_layers_with_biases_and_no_norm() -> None:
    head = projection_head("paper", 24, 8)
    assert layers_of(head) == ["Linear", "ReLU", "Linear"]
    assert [tuple(p.shape) for p in head.parameters()] == [(24, 24), (24,), (8, 24), (8,)]


@pytest.mark.parametrize(("kind", "depth"), [("simclr", 2), ("simclr2", 3)])
def test_simclrs_heads_have_a_norm_after_every_layer(kind: str, depth: int) -> None:
    head = projection_head(kind, 24, 8)
    hidden = ["Linear", "BatchNorm1d", "ReLU"] * (depth - 1)
    assert layers_of(head) == [*hidden, "Linear", "BatchNorm1d"]
    assert not any(m.bias is not None for m in head.modules() if isinstance(m, nn.Linear))
    embeddings = head(torch.randn(16, 24, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(embeddings.mean(dim=0), torch.zeros(8), atol=1e-5, rtol=0)
    embeddings.square().sum().backward()
    learning = [m.bias for m in head.modules() if isinstance(m, nn.BatchNorm1d)]
    assert [bias.grad is not None for bias in learning] == [True] * (depth - 1) + [False]


@pytest.mark.parametrize("head", HEADS)
def test_embeddings_have_the_width_asked_for(head: str) -> None:
    model = build_model(config_of(head=head, projection_dim=24))
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 24)


@pytest.mark.parametrize("arch", ["resnet18", "test_vit"])
def test_weights_depend_on_the_seed_and_leave_the_global_generator_alone(arch: str) -> None:
    state = torch.get_rng_state()
    one, same, other = (
        build_model(config_of(arch=arch, seed=seed)).state_dict() for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(1)
    again = build_model(config_of(arch=arch, seed=1)).state_dict()
    for name, weight in one.items():
        assert torch.equal(weight, same[name])
        assert torch.equal(weight, again[name])
    for name in ("encoder.conv1.weight", "encoder.patch_embed.proj.weight", "head.0.weight"):
        assert name not in one or not torch.equal(one[name], other[name])


def test_a_fresh_model_says_that_its_weights_are_random() -> None:
    assert build_model(config_of()).origin == "random weights"


def test_a_name_that_both_libraries_have_is_suggested_once() -> None:
    with pytest.raises(ConfigError) as caught:
        build_encoder("resnet1801")
    assert str(caught.value).count("resnet101 or") == 1
