"""Ten thousand ugly batches: a clear error or finite advantages, nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from reelrl.algos.advantages import RewardBatch, estimator_class, list_estimators, make_estimator

BATCHES = 10_000
CHUNKS = 8


def all_variants() -> list[str]:
    """Every estimator, bare and with each preset."""
    found = []
    for name in list_estimators():
        presets = estimator_class(name).presets
        found += [name, *(f"{name}@{preset}" for preset in presets)]
    return found


VARIANTS = {name: make_estimator(name) for name in all_variants()}


def ugly(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Rewards of one of many kinds, holes and infinities included."""
    kind = rng.integers(9)
    values = rng.normal(size=shape)
    if kind == 0:
        values = rng.integers(0, 2, shape).astype(float)
    elif kind == 1:
        values = values * 10.0 ** rng.integers(-320, 101)
    elif kind == 2:
        values = np.full(shape, values.flat[0] if values.size else 0.0)
    elif kind == 3:
        values = 1e8 + values * 10.0 ** rng.integers(-9, 1)
    elif kind == 4:
        values = rng.integers(-100, 100, shape)
    elif kind == 5:
        values = (values * 10.0 ** rng.integers(-3, 3)).astype(np.float16)
    elif kind == 6:
        values = (values * 1e37).astype(np.float32)
    if values.dtype.kind == "f" and rng.random() < 0.5:
        values[rng.random(shape) < rng.choice([0.1, 0.5, 1.0])] = np.nan
    if values.dtype.kind == "f" and rng.random() < 0.05:
        values[rng.random(shape) < 0.3] = rng.choice([np.inf, -np.inf])
    return values


def ugly_batch(rng: np.random.Generator, dense: bool) -> tuple[RewardBatch, bool]:
    """A batch with all extras, and whether it may be refused for its values."""
    p, g, k, t, m = (int(rng.integers(low, 5)) for low in (0, 0, 1, 1, 1))
    shape = (p, g, t, k) if dense else (p, g, k)
    rewards = ugly(rng, shape)
    ode = ugly(rng, (p, g, t + 1)).astype(float)
    features = ugly(rng, (p, g, 2)).astype(float)
    aux = ugly(rng, (p, g, m)).astype(float)
    scores = rng.integers(0, 3, (p, g))
    wins = (np.sign(scores[:, :, None] - scores[:, None, :]) + 1) / 2
    wins[rng.random(wins.shape) < 0.2] = np.nan
    extras: dict[str, Any] = {
        "ode_rewards": ode,
        "features": features,
        "aux_rewards": aux,
        "pairwise": wins,
        "rank": rng.integers(0, max(1, g), (p, g)),
        # A root and one level of leaves, or two separate levels.
        "tree_parent": np.tile([-1] + [0] * g, (p, 1)),
        "edge_logp": -rng.random((p, g + 1)),
    }
    valid = rng.random((p, g)) < 0.8 if rng.random() < 0.4 else None
    weights = rng.choice([0.0, 0.5, 1.0, 100.0], k) if rng.random() < 0.5 else None
    floats = [np.asarray(a, dtype=float) for a in (rewards, ode, features, aux)]
    bad = any(bool(np.isinf(a).any()) for a in floats)
    array: Any = rewards
    if rng.random() < 0.3:
        array = torch.from_numpy(np.ascontiguousarray(rewards))
        if rng.random() < 0.3 and array.is_floating_point():
            array = array.to(torch.bfloat16)
            bad = bad or bool(torch.isinf(array).any())
    batch = RewardBatch(
        array,
        tuple(f"r{i}" for i in range(k)),
        weights=weights,
        valid=valid,
        bounds=np.tile([-1.0, 2.0], (k, 1)),
        prompt_ids=rng.integers(0, 9, p),
        extras=extras,
        step=int(rng.integers(1000)),
    )
    huge = any(bool((np.abs(np.nan_to_num(a, posinf=0, neginf=0)) > 1e100).any()) for a in floats)
    return batch, bad or huge


def refused_by_count(name: str, batch: RewardBatch) -> bool:
    """Presets of projects that take two components, or at least two."""
    count = len(batch.names)
    return (name == "gdpo@nvlabs_verl" and count != 2) or (
        name.startswith("gdpo@nemo") and count < 2
    )


def check(name: str, batch: RewardBatch, may_fail: bool) -> bool:
    """Run one variant; True if it gave advantages."""
    estimator = VARIANTS[name]
    try:
        output, _ = estimator(batch)
    except ValueError as error:
        assert len(str(error)) > 20, error
        few = refused_by_count(name, batch)
        taus = name.startswith("taros@") and "tau must" in str(error)
        assert may_fail or few or taus, f"{name} refused a good batch: {error}"
        return False
    advantages = np.asarray(torch.as_tensor(output.advantages).double())
    assert advantages.shape[:2] == tuple(batch.rewards.shape[:2]), name
    assert np.isfinite(advantages).all(), f"{name}: {advantages}"
    if batch.valid is not None:
        assert not advantages[~np.asarray(batch.valid)].any(), name
    return True


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_ugly_batches(chunk: int) -> None:
    names, done = sorted(VARIANTS), 0
    for i in range(chunk, BATCHES, CHUNKS):
        rng = np.random.default_rng(i)
        name = names[i // CHUNKS % len(names)]
        needs = VARIANTS[name].requires
        dense = "dense" in needs
        if not dense and not needs & {"features", "pairwise", "rank", "tree_parent"}:
            dense = bool(rng.random() < 0.3)
        done += check(name, *ugly_batch(rng, dense))
    assert done > BATCHES / CHUNKS / 2  # most are fine; refusing everything would be no test


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_diagnostics_of_ugly_batches_are_numbers(name: str) -> None:
    """nan is allowed only where there is nothing to average, as before any threshold is known."""
    needs = VARIANTS[name].requires
    for seed in range(6):
        batch, may_fail = ugly_batch(np.random.default_rng(seed), "dense" in needs)
        if may_fail or refused_by_count(name, batch) or 0 in batch.rewards.shape:
            continue
        try:
            output, _ = VARIANTS[name](batch)
        except ValueError as error:
            assert "tau must" in str(error)
            continue
        for key, value in output.diagnostics.items():
            value = torch.as_tensor(value).double()
            assert torch.isfinite(value).all(), f"{name}: {key} = {value}"


BAD = {
    "shape": ({"rewards": np.zeros((2, 3))}, ValueError, r"\(P, G, K\)"),
    "no component": ({"rewards": np.zeros((2, 3, 0)), "names": ()}, ValueError, "at least one"),
    "names": (
        {"rewards": np.zeros((2, 3, 1)), "names": ("a", "b")},
        ValueError,
        "1 different names",
    ),
    "same names": ({"rewards": np.zeros((2, 3, 2)), "names": ("a", "a")}, ValueError, "different"),
    "weights": ({"weights": np.ones(3)}, ValueError, r"weights must have shape \(2,\)"),
    "nan weight": ({"weights": np.array([1, np.nan])}, ValueError, "weights must be finite"),
    "valid": ({"valid": np.ones((2, 4), bool)}, ValueError, r"\(2, 3\), got \(2, 4\)"),
    "bounds": ({"bounds": np.array([[0, 1], [1, 1]])}, ValueError, "low < high"),
    "extras": ({"extras": {"feature": np.ones(1)}}, ValueError, "unknown extras"),
    "strings": ({"rewards": np.array([[["a", "b"]]])}, TypeError, "real numbers"),
    "complex": ({"rewards": np.zeros((2, 3, 2), complex)}, TypeError, "real numbers"),
    "ragged": ({"rewards": [[[1.0, 2.0]], [[1.0]]]}, TypeError, "rectangular"),
}


@pytest.mark.parametrize("key", sorted(BAD))
def test_malformed_batches_say_what_is_wrong(key: str) -> None:
    change, error, message = BAD[key]
    good: dict[str, Any] = {"rewards": np.zeros((2, 3, 2)), "names": ("a", "b")}
    with pytest.raises(error, match=message):
        RewardBatch(**{**good, **change})


def test_infinity_is_an_error_that_says_where() -> None:
    r = np.zeros((2, 3, 2))
    r[1, 2, 0] = np.inf
    for name in ("grpo", "gdpo", "taros"):
        batch = RewardBatch(r, ("a", "b"), bounds=np.array([[0, 1], [0, 1]]))
        with pytest.raises(ValueError, match=r"inf at index \(1, 2, 0\)"):
            make_estimator(name)(batch)
        with pytest.raises(ValueError, match="rewards must be finite"):
            batch.validate()


@pytest.mark.parametrize("name", ["grpo", "gdpo", "taros", "dr_grpo", "rloo", "advantage_sum"])
def test_degenerate_groups(name: str) -> None:
    r = np.random.default_rng(0).random((4, 3, 2))
    r[0] = 0.1 + 0.2  # constant
    r[1] = [[0.1, 0.1]] * 3  # float noise in the mean
    r[2, 1:] = np.nan  # one member left
    output, _ = make_estimator(name)(
        RewardBatch(r, ("a", "b"), bounds=np.array([[0.0, 1.0], [0.0, 1.0]]))
    )
    assert not output.advantages[:3].any()
    assert output.advantages[3].any()
    assert output.diagnostics["small_group_count"] == 1
    assert output.diagnostics["effective_group_count"] == 1
    np.testing.assert_allclose(output.diagnostics["zero_std_frac"], 2 / 3)
    assert output.diagnostics["nan_frac"] == pytest.approx(2 / 12)
