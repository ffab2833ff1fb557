"""First weights of an encoder: ImageNet's, or those of a file, all of them or none.

A file is safetensors or a plain state dict of torch; nothing in it is run. Its keys may carry what
others put in front (`model.resnet.`, `module.`, ...) and layers behind the encoder (`fc.weight`);
what is left out is said. A net that is half random is never the result.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn

from pretrain.config import ARCHS
from pretrain.errors import ConfigError

RANDOM = "random"
IMAGENET = "imagenet"

_WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Where training code keeps the state dict in a file that holds more."""
_USUAL = {"module", "model", "net", "encoder", "backbone", "resnet", "encoder_q", "_orig_mod"}
"""What others put in front of keys; where a file holds several encoders, these are meant."""
_MAY_LACK = "num_batches_tracked"
"""A count that old files lack; it has no effect on what the net computes."""
_MOST_NAMED = 4

Weights = dict[str, Tensor]


def initialise(encoder: nn.Module, init: str, arch: str) -> str:
    """Give an encoder its first weights in place; says in words where they came from.

    Args:
        init: `random` leaves it as it is, `imagenet` fetches the weights that its library has
            published, anything else is a path. Published weights were made with the mean and the
            standard deviation of ImageNet, while histotile feeds -1 to 1: something to start from,
            not features to use.
        arch: the encoder's name.

    Raises:
        ConfigError: the weights cannot be had, or are not those of such an encoder.
    """
    if init == RANDOM:
        return "random weights"
    if init == IMAGENET:
        weights, name = _published(arch)
        return _adopt(encoder, weights, arch, name)
    path = Path(init)
    weights, named = read_weights(path)
    if named is not None and named != arch:
        raise ConfigError(f"{path} is an encoder {named}, not a {arch}: give --arch {named}")
    return _adopt(encoder, weights, arch, str(path))


def read_weights(path: Path) -> tuple[Weights, str | None]:
    """All tensors of a file by their keys, on the CPU; the architecture if histotile wrote it.

    Raises:
        ConfigError: it cannot be read, or holds something else than tensors.
    """
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise ConfigError(
            f"the weights {path} cannot be read ({error.strerror}); init takes {RANDOM}, "
            f"{IMAGENET} or a file"
        ) from error
    if start[8:] == b"{":
        return _safetensors(path)
    return _state_dict(path), None


def _safetensors(path: Path) -> tuple[Weights, str | None]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("histotile", "{}")
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        found = json.loads(text)
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise ConfigError(f"{path} cannot be read as safetensors ({error})") from error
    return weights, found.get("arch") if isinstance(found, dict) else None


def _state_dict(path: Path) -> Weights:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, about files that it then refuses
            found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a foreign file makes torch raise has no root
        raise ConfigError(
            f"{path} is neither safetensors nor a plain state dict of torch; if you trust who "
            "made it, run once: torch.save(torch.load(FILE, weights_only=False)['state_dict'], "
            "'plain.pt')"
        ) from error
    for name in _WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
            break
    if not isinstance(found, Mapping):
        raise ConfigError(f"{path} holds no state dict but a {type(found).__name__}")
    return {str(key): value for key, value in found.items() if isinstance(value, Tensor)}


def _published(arch: str) -> tuple[Weights, str]:
    """The weights that torchvision or timm publishes for an encoder, and what they are called."""
    try:
        return _from_torchvision(arch) if arch in ARCHS else _from_timm(arch)
    except Exception as error:  # each client for the network has its own root
        raise ConfigError(
            f"published weights of {arch} cannot be had ({type(error).__name__}): without a "
            "network, fetch a file elsewhere and give that one"
        ) from error


def _from_torchvision(arch: str) -> tuple[Weights, str]:
    listed = torchvision.models.get_model_weights(arch).DEFAULT
    # weights_only, for torch.hub itself would run what it has fetched.
    weights = listed.get_state_dict(progress=False, check_hash=True, weights_only=True)
    return weights, str(listed)


def _from_timm(arch: str) -> tuple[Weights, str]:
    import timm

    name = arch.removeprefix("timm/")
    model = timm.create_model(name, pretrained=True, num_classes=0)
    published = timm.get_pretrained_cfg(name, allow_unregistered=True)
    tag = published.tag if published is not None else None
    return model.state_dict(), f"timm {name}" + (f".{tag}" if tag and "." not in name else "")


def _adopt(encoder: nn.Module, weights: Weights, arch: str, source: str) -> str:
    """Load the encoder's part of `weights`, wherever it lies among them."""
    own = encoder.state_dict()
    prefix = _prefix(own, weights, arch, source)
    part = {key: weights[prefix + key] for key in own if prefix + key in weights}
    broken = [key for key, value in part.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise ConfigError(f"{source} holds weights that are no numbers, {broken[0]} for one")
    encoder.load_state_dict({**own, **part}, strict=True)
    ignored = sorted(weights.keys() - {prefix + key for key in part})
    return f"{source}, without {_some(ignored)}" if ignored else source


def _prefix(own: Weights, weights: Weights, arch: str, source: str) -> str:
    """What stands before the encoder's keys in a file."""
    prefixes = [prefix for prefix in _candidates(own, weights) if _fits(own, weights, prefix)]
    usual = [prefix for prefix in prefixes if _USUAL.issuperset(prefix.split(".")[:-1])]
    chosen = usual or prefixes
    if len(chosen) == 1:
        return chosen[0]
    if chosen:
        names = ", ".join(prefix or "none" for prefix in chosen)
        raise ConfigError(
            f"{source} holds several encoders, under the prefixes {names}: keep one of them"
        )
    other = _recognised(weights)
    if other is not None and other != arch:
        raise ConfigError(f"{source} holds a {other}, not a {arch}: give --arch {other}")
    raise ConfigError(f"{source} does not hold the weights of a {arch}: {_misfit(own, weights)}")


def _candidates(own: Weights, weights: Weights) -> list[str]:
    """What stands in front wherever the encoder's first key ends a key of the file."""
    first = next(iter(own))
    ends = (key.removesuffix(first) for key in weights if key.endswith(first))
    return sorted(prefix for prefix in ends if not prefix or prefix.endswith("."))


def _fits(own: Weights, weights: Weights, prefix: str) -> bool:
    """Whether each weight is there in its shape, and no further layer of the same stages.

    A ResNet-34 has all that a ResNet-18 has, and more: it is another net all the same.
    """
    if any(_shape(weights.get(prefix + key)) != value.shape for key, value in _needed(own)):
        return False
    stages = {prefix + key.partition(".")[0] + "." for key in own}
    expected = {prefix + key for key in own}
    return not any(key.startswith(tuple(stages)) and key not in expected for key in weights)


def _needed(own: Weights) -> list[tuple[str, Tensor]]:
    return [(key, value) for key, value in own.items() if not key.endswith(_MAY_LACK)]


def _shape(value: Tensor | None) -> torch.Size | None:
    return None if value is None else value.shape


def _recognised(weights: Weights) -> str | None:
    """Which of torchvision's ResNets a file holds, if one."""
    for arch in ARCHS:
        with torch.device("meta"):
            model = torchvision.models.get_model(arch, weights=None)
        model.fc = nn.Identity()
        own = model.state_dict()
        if any(_fits(own, weights, prefix) for prefix in _candidates(own, weights)):
            return arch
    return None


def _misfit(own: Weights, weights: Weights) -> str:
    """What is amiss, in words, where the file comes closest."""
    prefixes = _candidates(own, weights) or [""]
    needed = dict(_needed(own))

    def lacking(prefix: str) -> list[str]:
        return [key for key in needed if prefix + key not in weights]

    best = min(prefixes, key=lambda prefix: len(lacking(prefix)))
    if missing := lacking(best):
        return f"it lacks {_some(missing)}"
    for key, value in needed.items():
        if weights[best + key].shape != value.shape:
            found, wanted = tuple(weights[best + key].shape), tuple(value.shape)
            return f"{key} has the shape {found} instead of {wanted}"
    return "it has further layers"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more
