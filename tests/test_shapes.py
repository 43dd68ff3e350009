"""The check of shape annotations: it sees a wrong shape, dtype and letter, and it is at work."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
import types

import numpy as np
import pytest
import shapes
import torch

from reelrl.algos.learners import losses
from reelrl.algos.learners.signal import ItemSignal

SOURCE = """
from __future__ import annotations
from dataclasses import dataclass
from functools import cached_property
import numpy as np
import torch
from torch import Tensor

def joined(left: Float[Tensor, "N C"], right: Float[Tensor, "N D"] | None) -> Float[Tensor, "N E"]:
    return left if right is None else torch.cat([left, right], dim=1)

def transposed(matrix: Float[Tensor, "N C"]) -> Float[Tensor, "N C"]:
    return matrix.T

def pair(x: Float[Tensor, " N"]) -> tuple[Float[Tensor, " N"], Int[Tensor, " N"]]:
    return x, x.sort().values

def strict(x: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    if x.ndim != 1:
        raise ValueError("expected one axis")
    return x

def counted(ids: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
    return ids

def plain(x: Tensor) -> Tensor:
    return x

@dataclass(frozen=True)
class Row:
    values: Float[Tensor, " N"]
    names: Int[Tensor, " N"] | None = None

class Thing:
    @property
    def size(self) -> Float[Tensor, " N"]:
        return torch.zeros(1, 1)

    @cached_property
    def width(self) -> Float[Tensor, " N"]:
        return torch.zeros(1, 1)

    @classmethod
    def make(cls, x: Float[Tensor, " N"]) -> Thing:
        return cls()
"""


@pytest.fixture
def module():
    made = types.ModuleType("planted")
    sys.modules["planted"] = made
    exec(compile(SOURCE, "planted.py", "exec"), vars(made))
    made.count = shapes.wrap_module(made)
    yield made
    del sys.modules["planted"]


def test_what_has_a_shape_is_checked_and_nothing_else(module):
    assert module.count == 9
    assert not hasattr(module.plain, "__wrapped__")


def test_fitting_tensors_pass(module):
    assert module.joined(torch.zeros(2, 3), torch.zeros(2, 4)).shape == (2, 7)
    assert module.joined(torch.zeros(2, 3), None).shape == (2, 3)
    assert module.Row(torch.zeros(3)).names is None
    assert module.counted(np.arange(3)).shape == (3,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.joined(torch.zeros(3), None), r"joined\(left\): expected .*'N C'.* \(3,\)"),
        (lambda m: m.joined(None, None), r"joined\(left\): expected .*, got None"),
        (lambda m: m.transposed(torch.zeros(2, 3)), r"transposed\(\) ->: expected .* \(3, 2\)"),
        (lambda m: m.transposed(torch.ones(2, 2).long()), "expected Float.*got torch.int64"),
        (lambda m: m.pair(torch.zeros(2)), r"pair\(\) ->\[1\]: expected Int.* got torch.float32"),
        (lambda m: m.counted(np.zeros((2, 1), int)), r"counted\(ids\): expected .* \(2, 1\)"),
        (lambda m: m.counted(np.zeros(2)), r"counted\(ids\): expected Int.* float64"),
        (lambda m: m.Row(torch.zeros(2, 1)), r"Row\.values: expected"),
        (lambda m: m.Row(torch.zeros(2), torch.zeros(3).long()), r"Row\.names: expected .* \(3,\)"),
        (lambda m: m.Thing().size, r"Thing\.size\(\) ->: expected"),
        (lambda m: m.Thing().width, r"Thing\.width\(\) ->: expected"),
        (lambda m: m.Thing.make(torch.zeros(2, 2)), r"Thing\.make\(x\): expected"),
    ],
)
def test_what_does_not_fit_is_named(module, call, message):
    with pytest.raises((shapes.ShapeError, AttributeError), match=message):
        call(module)


def test_a_function_refuses_in_its_own_words(module):
    with pytest.raises(ValueError, match="expected one axis"):
        module.strict(torch.zeros(2, 2))


def test_the_library_is_checked_in_every_test():
    for package in map(importlib.import_module, shapes.PACKAGES):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    assert sum(shapes.checked.values()) > 260
    assert shapes.checked["reelrl.algos.learners.signal"] > 1
    zero = torch.zeros(2)
    # Broadcasting would make a number of it.
    with pytest.raises(shapes.ShapeError, match=r"clipped_loss\(advantages\): .* \(1,\)"):
        losses.clipped_loss(zero, torch.zeros(1), 0.1)
    with pytest.raises(shapes.ShapeError, match=r"ItemSignal\.kl_gate: expected .*'M'.*\(3,\)"):
        ItemSignal(zero, None, None, torch.zeros(3), zero)


def test_the_library_itself_runs_without_the_package_of_the_annotations():
    code = (
        "import sys; sys.modules['jaxtyping'] = None; "
        "import reelrl.algos.trainer, reelrl.envs.vector; "
        "from reelrl.algos.advantages import list_estimators; list_estimators()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd="/")
