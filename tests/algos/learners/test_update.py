"""Optimizer steps against AdamW written out, and the rows of skipped ones that stop a run."""

from __future__ import annotations

import pytest
import torch

from reelrl.algos.config import TrainerConfig
from reelrl.algos.learners.component_gradients import balanced, gram_matrix
from reelrl.algos.learners.update import LearnerWarning, Updater
from reelrl.algos.policies import FlowPolicy


class Pull:
    """Item i pulls every weight by i + 1, unless there is a planted number of its own."""

    components, has_penalty = 0, False

    def __init__(self, parameters, strength=1.0):
        self.parameters, self.strength = parameters, strength

    def __call__(self, index, total, only=None, kl=True):
        assert torch.equal(index, index.sort().values), "items come sorted"
        pull = self.strength * (index + 1).double().sum() / total
        loss = sum(parameter.double().sum() for parameter in self.parameters) * pull
        return loss, {"item": index.double()}


@pytest.fixture
def make_updater(tiny_types):
    def make(**changes):
        policy = FlowPolicy(tiny_types["model"]())
        return Updater(policy, TrainerConfig(**{"learning_rate": 0.01, **changes}))

    return make


def test_updates_are_adamw_of_the_shortened_gradient(make_updater):
    settings = {"betas": (0.5, 0.75), "weight_decay": 0.25, "max_grad_norm": 3.0, "micro_batch": 2}
    updater = make_updater(**settings)
    parameter = updater.parameters[0]
    count = sum(p.numel() for p in updater.parameters)
    expected = parameter.detach().double()
    first = second = torch.zeros_like(expected)
    index, total = torch.tensor([4, 0, 2]), torch.tensor(2.0)
    for t, strength in enumerate((1.0, 0.01, 5.0), start=1):
        length, numbers = updater(Pull(updater.parameters, strength), index, total)
        pull = strength * (5 + 1 + 3) / 2
        assert length == pytest.approx(pull * count**0.5, rel=1e-5)
        assert [part["item"].tolist() for part in numbers] == [[0, 4], [2]]
        gradient = torch.full_like(expected, min(pull, 3.0 / count**0.5))
        torch.testing.assert_close(parameter.grad.double(), gradient, atol=1e-6, rtol=1e-4)
        first = 0.5 * first + 0.5 * gradient
        second = 0.75 * second + 0.25 * gradient**2
        width = (second / (1 - 0.75**t)).sqrt() + 1e-8
        expected = expected * (1 - 0.01 * 0.25) - 0.01 * first / (1 - 0.5**t) / width
        torch.testing.assert_close(parameter.detach().double(), expected, atol=1e-5, rtol=1e-4)


def run(updater, *lengths):
    """That many bad updates, then a good one, and so on; ends with bad ones."""
    index, total = torch.arange(2), torch.tensor(1.0)
    for place, count in enumerate(lengths):
        if place:
            updater(Pull(updater.parameters), index, total)
        for _ in range(count):
            with pytest.warns(LearnerWarning, match="update skipped"):
                updater(Pull(updater.parameters, torch.nan), index, total)


def test_ten_skips_a_good_update_and_ten_more_go_on(make_updater):
    updater = make_updater(max_skipped=10)
    run(updater, 10, 10, 10)
    assert (updater.updates, updater.skipped) == (2, 30)
    with pytest.raises(RuntimeError, match="11 updates in a row had a loss or gradient"):
        run(updater, 1)


def test_a_row_of_skips_goes_on_after_a_resume(make_updater):
    updater = make_updater(max_skipped=3, ema_decay=0.9)
    run(updater, 1, 2)
    again = make_updater(max_skipped=3, ema_decay=0.9)
    again.restore(*updater.state())
    assert (again.updates, again.skipped, again.ema.updates) == (1, 3, 1)
    run(again, 1)
    with pytest.raises(RuntimeError, match="4 updates in a row"):
        run(again, 1)


def test_a_skipped_update_leaves_weights_and_average(make_updater):
    updater = make_updater(ema_decay=0.9)
    run(updater, 0, 0)
    weights = [p.detach().clone() for p in updater.parameters]
    average = {name: tensor.clone() for name, tensor in updater.ema.average.items()}
    run(updater, 2)
    assert all(torch.equal(a, b) for a, b in zip(weights, updater.parameters, strict=True))
    assert all(torch.equal(average[n], tensor) for n, tensor in updater.ema.average.items())
    assert updater.ema.updates == 1


@pytest.mark.parametrize("dead", ["zero", "infinite"])
def test_a_component_without_a_gradient_has_no_part_in_the_balance(dead):
    generator = torch.Generator().manual_seed(0)
    gradients = [[torch.randn(4, generator=generator)] for _ in range(3)]
    gradients[1] = [torch.zeros(4) if dead == "zero" else torch.full((4,), torch.inf)]
    alphas = torch.tensor([0.3, 0.2, 0.5], dtype=torch.float64)
    (found,) = balanced(gradients, alphas, gram_matrix(gradients))
    a, _, b = (gradient[0].double() for gradient in gradients)
    expected = (0.3 * a / a.norm() + 0.5 * b / b.norm()) * (a.norm() + b.norm()) / 2
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-5)
