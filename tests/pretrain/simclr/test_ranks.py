"""Two processes over gloo equal one: loss, gradients, running statistics and a step."""

from __future__ import annotations

import copy
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402
from torch import nn  # noqa: E402

from pretrain.errors import ConfigError, TrainingError  # noqa: E402
from pretrain.simclr.ranks import (  # noqa: E402
    GlobalBatchNorm,
    Ranks,
    gather_rows,
    join_ranks,
    synchronise_norms,
    wrap,
)
from tests.pretrain.simclr import two_ranks  # noqa: E402

ROOT = Path(__file__).parents[3]
ALONE = Ranks(0, 1, torch.device("cpu"))
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[dict[str, Any], str]]:
    """What each of two ranks computed, and what it said in the end."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                "-W",
                "error",
                "-m",
                "tests.pretrain.simclr.two_ranks",
                folder / str(rank),
            ],
            cwd=ROOT,
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(two_ranks.WORLD)
    ]
    try:
        said = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, errors) in zip(processes, said, strict=True):
        assert process.returncode == 0, errors
    return [(load_file(folder / str(rank)), out) for rank, (out, _) in enumerate(said)]


@pytest.mark.parametrize("name", two_ranks.CASES)
def test_two_processes_do_the_step_of_one(
    ended: list[tuple[dict[str, Any], str]], name: str
) -> None:
    case = two_ranks.CASES[name]
    expected = two_ranks.one_step(case.alone, case.order, ALONE)
    for found, _ in ended:
        of_case = {k.split(": ")[1]: v for k, v in found.items() if k.startswith(f"{name}: ")}
        torch.testing.assert_close(of_case, expected, rtol=1e-9, atol=1e-12)


def test_the_two_processes_stay_equal_bit_for_bit(
    ended: list[tuple[dict[str, Any], str]],
) -> None:
    (one, _), (other, _) = ended
    states = [key for key in one if ": state " in key or key.endswith(": loss")]
    assert len(states) > 10
    assert all(torch.equal(one[key], other[key]) for key in states)


def test_gathered_rows_hand_back_the_gradient_of_all_losses(
    ended: list[tuple[dict[str, Any], str]],
) -> None:
    for rank, (found, _) in enumerate(ended):
        assert found["exchange: rows"].tolist() == [[1, 2], [2, 4]]
        # Row r has the value (r + 1)(1, 2), and weighs 10^r in the first loss, 3 · 10^r in the
        # second one.
        expected = 2 * (rank + 1) * 10**rank * (1 + 3)
        assert found["exchange: row gradient"].tolist() == [[expected, 2 * expected]]


def test_ranks_agree_on_flags_and_numbers(ended: list[tuple[dict[str, Any], str]]) -> None:
    for found, _ in ended:
        assert found["exchange: any"].tolist() == [False, True, True]
        assert found["exchange: agree"].tolist() == [True, False]
        assert found["exchange: union"].tolist() == [3, 9, 2**60]
        assert found["exchange: nothing"].tolist() == []
        assert found["exchange: mean"].tolist() == [0.5, 2.0]


def test_a_rank_that_dies_ends_the_other_with_one_sentence(
    ended: list[tuple[dict[str, Any], str]],
) -> None:
    assert ended[0][1] == (
        "rank 0 of 2 lost another rank, which ended or did not answer in time; what that one says "
        "last is the cause"
    )


def test_alone_nothing_is_exchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    ranks = join_ranks("cpu")
    assert (ranks.rank, ranks.world, ranks.device.type, ranks.is_first) == (0, 1, "cpu", True)
    assert ranks.any(True)
    assert not ranks.any(False)
    assert ranks.agree(5)
    assert ranks.union([3, 1, 3]) == {1, 3}
    rows = torch.ones(2, 3)
    assert gather_rows(rows, ranks) is rows
    assert ranks.mean(rows.requires_grad_()).tolist() == rows.tolist()
    model = nn.Sequential(nn.BatchNorm1d(2))
    assert wrap(synchronise_norms(model, ranks), ranks) is model
    assert type(model[0]) is nn.BatchNorm1d
    ranks.barrier()
    ranks.close()


def test_other_errors_pass_the_guard_as_they_are() -> None:
    two = Ranks(0, 2, torch.device("cpu"))
    with pytest.raises(RuntimeError, match="shapes"), two.guard():
        raise RuntimeError("shapes do not match")
    with pytest.raises(TrainingError, match="lost another rank"), two.guard():
        raise torch.distributed.DistBackendError("NCCL communicator was aborted")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE must be a number, but it is 'two'"),
        ({"RANK": None}, "RANK must be a number, but it is not set; start with torchrun"),
        ({"RANK": "2"}, r"RANK must be 0 to WORLD_SIZE - 1 \(1\): 2"),
        ({"MASTER_ADDR": None}, "WORLD_SIZE is 2 but MASTER_ADDR is not set"),
    ],
)
def test_an_environment_that_is_not_torchruns_is_refused(
    changes: dict[str, str | None], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in (right | changes).items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        join_ranks("cpu")


def test_ranks_that_do_not_meet_say_where_they_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(*_: Any, **__: Any) -> None:
        raise torch.distributed.DistNetworkError("the client socket has timed out")

    monkeypatch.setattr(torch.distributed, "init_process_group", nobody)
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29400"}
    for name, value in ({"WORLD_SIZE": "2", "RANK": "1"} | address).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TrainingError, match=r"rank 1 of 2 .* at 127\.0\.0\.1:29400 \(the client"):
        join_ranks("cpu")


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"process 1 of this machine .* torch sees 1"):
        join_ranks("cuda")


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("training", [True, False])
def test_the_own_norm_is_torchs_batch_norm(training: bool, momentum: float | None) -> None:
    generator = torch.Generator().manual_seed(0)
    theirs = nn.BatchNorm2d(3, momentum=momentum).double().train(training)
    with torch.no_grad():
        theirs.weight.copy_(torch.randn(3, generator=generator))
        theirs.bias.copy_(torch.randn(3, generator=generator))
    ours = GlobalBatchNorm(copy.deepcopy(theirs), ALONE)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for _ in range(2):
        x = 1e3 + torch.randn(4, 3, 2, 5, generator=generator, dtype=torch.float64)
        results = [norm(x.requires_grad_()) for norm in (ours, theirs)]
        torch.testing.assert_close(*results)
        slopes = torch.randn(4, 3, 2, 5, generator=generator, dtype=torch.float64)
        gradients = [
            torch.autograd.grad(result, (x, norm.weight, norm.bias), slopes)
            for result, norm in zip(results, (ours, theirs), strict=True)
        ]
        torch.testing.assert_close(*gradients)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


def test_the_own_norm_works_in_half_precision_like_torchs() -> None:
    generator = torch.Generator().manual_seed(0)
    x = (30 + torch.randn(64, 3, generator=generator)).bfloat16()
    theirs = nn.BatchNorm1d(3)
    ours = GlobalBatchNorm(copy.deepcopy(theirs), ALONE)
    found = ours(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, theirs(x), rtol=0.02, atol=0.02)
    torch.testing.assert_close(ours.running_var, theirs.running_var)


def test_a_norm_with_its_activation_inside_keeps_it() -> None:
    norm_act = pytest.importorskip("timm.layers.norm_act")
    theirs = norm_act.BatchNormAct2d(3)
    found = synchronise_norms(
        nn.Sequential(copy.deepcopy(theirs), nn.GroupNorm(1, 3)), Ranks(0, 2, torch.device("cpu"))
    )
    assert [type(module) for module in found.children()] == [GlobalBatchNorm, nn.GroupNorm]
    ours = GlobalBatchNorm(theirs, ALONE)
    x = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(ours(x), theirs(x))
    assert ours(x).min() == 0
