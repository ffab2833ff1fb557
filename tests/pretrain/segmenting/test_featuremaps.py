"""Feature maps: several strides of any network, each where the picture has it."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from pretrain.errors import ConfigError  # noqa: E402
from pretrain.network.model import find_backbone  # noqa: E402
from pretrain.segmenting.featuremaps import FeatureMaps  # noqa: E402


@pytest.mark.parametrize(
    ("arch", "size", "sides", "channels"),
    [
        ("resnet18", 96, (24, 12, 6, 3), (64, 128, 256, 512)),
        ("resnet18", 90, (23, 12, 6, 3), (64, 128, 256, 512)),
        ("tf_efficientnet_lite0", 64, (16, 8, 4, 2), (144, 240, 672, 1280)),
        ("test_vit", 160, (10,), (64,)),
        ("test_convnext", 64, (16, 8, 4, 2), (24, 32, 48, 64)),
    ],
)
def test_maps_of_every_stride_from_4_on(
    arch: str, size: int, sides: tuple[int, ...], channels: tuple[int, ...]
) -> None:
    maps = FeatureMaps(find_backbone(arch, size).model.eval(), size)
    assert (maps.sides, maps.channels) == (sides, channels)
    with torch.no_grad():
        found = maps(torch.rand(3, 3, size, size))
    shapes = [(3, count, side, side) for count, side in zip(channels, sides, strict=True)]
    assert [tuple(one.shape) for one in found] == shapes


def test_the_last_map_is_what_the_features_are_the_mean_of() -> None:
    model = find_backbone("resnet18", 64).model.eval()
    pictures = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        coarsest = FeatureMaps(model, 64)(pictures)[-1]
        torch.testing.assert_close(coarsest.mean(dim=(2, 3)), model(pictures))


def test_tokens_lie_where_their_patches_do() -> None:
    """A patch that changes alone changes its own token most."""
    model = find_backbone("test_vit", 160).model.eval()
    maps = FeatureMaps(model, 160)
    before, after = torch.zeros(2, 1, 3, 160, 160)
    after[:, :, 16 * 7 : 16 * 8, 16 * 2 : 16 * 3] = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        moved = (maps(after)[0] - maps(before)[0]).norm(dim=1)[0]
    assert divmod(int(moved.argmax()), 10) == (7, 2)


def test_maps_with_channels_last_and_windows_come_out_the_same_way() -> None:
    class Windows(nn.Module):
        """As a Swin transformer: windows as a batch, maps (B, h, h, C), attention (B, C, T, T)."""

        def __init__(self) -> None:
            super().__init__()
            self.fine, self.attn, self.coarse = nn.Identity(), nn.Identity(), nn.Identity()

        def forward(self, pictures: Tensor) -> Tensor:
            small = nn.functional.avg_pool2d(pictures, 4).permute(0, 2, 3, 1)
            self.attn(torch.zeros(len(pictures), 2, 5, 5))
            self.fine(small)
            coarse: Tensor = self.coarse(small[:, ::2, ::2])
            return coarse.mean(dim=(1, 2))

    pictures = torch.rand(1, 3, 16, 16)
    fine, coarse = FeatureMaps(Windows(), 16)(pictures)
    expected = nn.functional.avg_pool2d(pictures, 4)
    torch.testing.assert_close(fine, expected)
    torch.testing.assert_close(coarse, expected[:, :, ::2, ::2])


def test_a_network_without_maps_is_refused() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4))
    with pytest.raises(ConfigError, match="a Sequential keeps no map of a picture"):
        FeatureMaps(flat, 16)


def test_the_network_is_left_as_it_was() -> None:
    model = find_backbone("test_vit", 160).model.train()
    maps = FeatureMaps(model, 160)
    assert all(module.training for module in model.modules())
    with torch.no_grad():
        maps(torch.rand(1, 3, 160, 160))
    assert not any(module._forward_hooks for module in model.modules())
