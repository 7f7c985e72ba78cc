"""Scaled gradients of fp16, by torch's own scaler: what overflows is left out, what is lost is said."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from include.training.optimizer import AdamW
from include.training.precision import Precision
from tests.gpu import needs_gpus

if TYPE_CHECKING:
    from include.spec.training import PrecisionName

CPU = torch.device("cpu")


def made(name: PrecisionName) -> tuple[Precision, torch.nn.Linear, AdamW]:
    torch.manual_seed(0)
    network = torch.nn.Linear(4, 1)
    optimizer = AdamW(list(network.parameters()), learning_rate=0.1, weight_decay=0)
    return Precision(name, device=CPU), network, optimizer


def learn(precision: Precision, network: torch.nn.Linear, optimizer: AdamW, *, factor: float = 1.0) -> torch.Tensor:
    """Take one step and return the weights after it."""
    with precision.autocast():
        raw = network(torch.ones(8, 4))
    precision.backward(raw.float().mean() * factor)
    precision.step(optimizer)
    optimizer.forget_gradients()
    return network.weight.detach().clone()


@pytest.mark.parametrize(("name", "kind"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_the_network_computes_in_it_and_its_weights_do_not(name: PrecisionName, kind: torch.dtype) -> None:
    precision, network, _ = made(name)
    with precision.autocast():
        assert network(torch.ones(8, 4)).dtype == kind
    assert network.weight.dtype == torch.float32


def test_scaled_gradients_move_the_weights_as_others_do() -> None:
    wanted = learn(*made("fp32"), factor=0.1)
    assert torch.allclose(learn(*made("fp16"), factor=0.1), wanted, atol=1e-3)


def test_a_step_whose_gradients_overflow_is_left_out_and_the_next_is_scaled_less() -> None:
    precision, network, optimizer = made("fp16")
    before = network.weight.detach().clone()
    assert torch.equal(learn(precision, network, optimizer, factor=1e4), before)
    assert precision.state_dict()["scale"] == 2.0**15
    assert network.weight.grad is None
    assert not torch.equal(learn(precision, network, optimizer, factor=0.1), before)


def test_gradients_that_overflow_at_every_scale_are_lost() -> None:
    precision, network, optimizer = made("fp16")
    for _ in range(30):
        assert not precision.is_lost
        learn(precision, network, optimizer, factor=float("inf"))
    learn(precision, network, optimizer, factor=float("inf"))
    assert precision.is_lost


def test_the_scale_is_part_of_a_checkpoint() -> None:
    one, other = made("fp16"), made("fp16")[0]
    learn(*one, factor=1e4)
    assert other.state_dict() != one[0].state_dict()
    other.load_state_dict(one[0].state_dict())
    assert other.state_dict() == one[0].state_dict()
    assert made("bf16")[0].state_dict() == {}


@needs_gpus()
@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_a_gpu_learns_in_it(name: PrecisionName) -> None:
    device = torch.device("cuda", 0)
    network = torch.nn.Linear(4, 1).to(device)
    optimizer = AdamW(list(network.parameters()), learning_rate=0.1, weight_decay=0)
    precision, before = Precision(name, device=device), network.weight.detach().clone()
    with precision.autocast():
        raw = network(torch.ones(8, 4, device=device))
    precision.backward(raw.float().mean())
    precision.step(optimizer)
    assert not torch.equal(network.weight, before)
