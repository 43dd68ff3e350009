"""Batches at the edge: no prompts, no members, steps, other torch settings."""

import warnings

import numpy as np
import pytest
import torch

from reelrl.algos.advantages import (
    RewardBatch,
    advantages,
    estimator_class,
    list_estimators,
    list_posts,
    make_estimator,
)

VARIANTS = [(n, p) for n in list_estimators() for p in (None, *estimator_class(n).presets)]
STEPS = [
    {},
    *({"transforms": (t,)} for t in ("rescale", "par", "ensemble", "softmin_time", "win_rate")),
    {"transforms": ("harmonic",)},
    {"transforms": ({"name": "conditioned", "component": "r0", "on": "r1", "threshold": 0.0},)},
    {"transforms": ({"name": "median_map", "medians": (0.0, 0.0), "scales": (1.0, 1.0)},)},
    {"transforms": ({"name": "tiered", "thresholds": (0.0,)},)},
    *({"post": (post,)} for post in list_posts()),
    {"credit": "return_to_go"},
]


def batch(prompts, members, steps=None, device="cpu"):
    """A batch that has everything any estimator asks for."""
    generator = torch.Generator("cpu").manual_seed(0)
    shape = (prompts, members, 2) if steps is None else (prompts, members, steps, 2)
    shapes = {
        "pairwise": (prompts, members, members),
        "rank": (prompts, members),
        "features": (prompts, members, 3),
        "aux_rewards": (prompts, members, 2),
        "ref_rewards": (prompts, 2, 2),
        "ensemble": (prompts, members, 2, 2),
        "ode_rewards": (prompts, members, (3 if steps is None else steps) + 1, 2),
        "edge_logp": (prompts, members),
        "tokens": (prompts, members),
    }

    def draw(size):
        return torch.rand(size, generator=generator, dtype=torch.float32, device="cpu").to(device)

    extras = {key: draw(size) for key, size in shapes.items()}
    extras["tree_parent"] = torch.full((prompts, members), -1, dtype=torch.int64, device="cpu")
    bounds = torch.tensor([[0.0, 1.0]] * 2, dtype=torch.float32, device=device)
    return RewardBatch(draw(shape), ("r0", "r1"), bounds=bounds, extras=extras)


@pytest.mark.parametrize("steps", [None, 3, 0])
@pytest.mark.parametrize("size", [(0, 4), (2, 0)])
@pytest.mark.parametrize(("name", "preset"), VARIANTS)
def test_nothing_in_gives_nothing_out(name, preset, size, steps):
    for settings in STEPS if preset is None else [{}]:
        try:
            output, _ = make_estimator(name, preset, **settings)(batch(*size, steps))
        except ValueError:  # some take no steps, nothing but steps, or another number of components
            continue
        assert tuple(output.advantages.shape[:2]) == size
        for key in output.diagnostics:
            assert output.diagnostics[key] is not None


@pytest.mark.parametrize("name", [n for n in list_estimators() if n != "mapo_mica"])
def test_no_estimator_waits_for_a_device(name):
    """A tensor on "meta" has no values to wait for."""
    output, _ = make_estimator(name)(batch(2, 4, device="meta"))
    assert output.advantages.device.type == "meta"


@pytest.mark.parametrize("name", ["grpo", "gdpo", "dense_grpo", "tp_grpo"])
@pytest.mark.parametrize("shape", [(3, 1, 1), (1, 8, 1), (4, 4, 4), (2, 5, 3)])
def test_diversity_scales_each_step_of_a_clip_alike(name, shape):
    prompts, members, steps = shape
    given = batch(prompts, members, steps)
    plain = make_estimator(name)(given)[0].advantages
    scaled = make_estimator(name, post=("gardo_diversity",))(given)[0].advantages
    assert scaled.shape == plain.shape == shape
    unit = torch.nn.functional.normalize(given.extras["features"].double(), dim=-1)
    for p in range(prompts):
        for g in range(members):
            others = [1 - float(unit[p, g] @ unit[p, j]) for j in range(members) if j != g]
            factor = min(others) if others else 1.0
            expected = torch.where(plain[p, g] > 0, plain[p, g] * factor, plain[p, g])
            torch.testing.assert_close(scaled[p, g], expected, rtol=1e-5, atol=1e-6)


@pytest.fixture(params=["float64", "meta", "autocast"])
def ambient(request):
    """Somebody else's torch settings."""
    before = torch.get_default_dtype()
    try:
        if request.param == "float64":
            torch.set_default_dtype(torch.float64)
            yield
        elif request.param == "meta":
            with torch.device("meta"):
                yield
        else:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                yield
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("name", list_estimators())
def test_ambient_torch_settings_change_no_advantage(name, ambient):
    steps = 3 if name == "mapo_mica" else None
    output, state = make_estimator(name)(batch(3, 4, steps))
    kept = {key: value.tolist() for key, value in state.items()}
    with torch.device("cpu"), torch.autocast("cpu", enabled=False):
        found = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        expected, wanted = make_estimator(name)(batch(3, 4, steps))
        torch.set_default_dtype(found)
        assert torch.equal(output.advantages, expected.advantages)
        assert str(kept) == str({key: value.tolist() for key, value in wanted.items()})


def test_one_line_under_ambient_settings(ambient):
    values = np.random.default_rng(0).random((8, 2)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = advantages(values, [0, 0, 0, 0, 1, 1, 1, 1], "gdpo")
    assert found.dtype == np.float32 and np.abs(found).mean() > 0.1
