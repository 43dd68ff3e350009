from __future__ import annotations

import pytest
import torch
from torch import nn

from reelrl.algos.policies.weights import EMA, snapshot, swapped
from reelrl.envs.models.trained import load_into


@pytest.fixture
def parameters():
    return dict(nn.Linear(3, 2).named_parameters())


def test_ema_is_the_loop_over_its_updates(parameters):
    ema = EMA(parameters, 0.9)
    expected = parameters["weight"].detach().double()
    for update in range(1, 200):
        with torch.no_grad():
            parameters["weight"].add_(1.0)
        ema.update()
        decay = min(0.9, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * parameters["weight"].detach().double()
    torch.testing.assert_close(ema.average["weight"].double(), expected, atol=1e-3, rtol=1e-5)
    own = parameters["weight"].detach().clone()
    with ema.applied():
        assert torch.equal(parameters["weight"], ema.average["weight"])
    assert torch.equal(parameters["weight"], own)


@pytest.mark.parametrize("decay", [0.05, 0.5, 0.999])
def test_the_decay_is_warmed_up(parameters, decay):
    """One update of an average of decay .999 would else keep .999 of where it started."""
    ema = EMA(parameters, decay)
    start = ema.average["bias"].clone()
    with torch.no_grad():
        parameters["bias"].add_(1.0)
    kept = 1.0
    for update in range(1, 4):
        ema.update()
        kept *= min(decay, (1 + update) / (10 + update))
        torch.testing.assert_close(ema.average["bias"], start + (1 - kept), atol=1e-6, rtol=0)


def test_swapped_weights_come_back_after_an_error(parameters):
    own = snapshot(parameters)
    other = {name: tensor + 1 for name, tensor in own.items()}
    with pytest.raises(KeyError), swapped(parameters, other):
        assert torch.equal(parameters["bias"], other["bias"])
        raise KeyError
    assert torch.equal(parameters["bias"], own["bias"])


def test_weights_that_do_not_fit_are_named(parameters):
    weights = {"weight": torch.zeros(2, 4), "bias": torch.zeros(2)}
    with pytest.raises(ValueError, match=r"weight \(expected \(2, 3\), got \(2, 4\)\)"):
        load_into(parameters, weights)
    with pytest.raises(ValueError, match=r"decay must be in \[0, 1\), got 1"):
        EMA(parameters, 1)
