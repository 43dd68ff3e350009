"""On torchvision's own RAFT, wherever torchvision can be imported."""

import importlib
import re
import sys

import pytest
import torch

from reelrl.rewards import make_reward


def import_flow_models():
    """torchvision's module of flow models; the rest of torchvision is not asked for.

    A wheel made for another build of torch lacks the compiled operators, and its import ends at
    the first one that it wants to describe. RAFT uses none: declaring them lets the import pass.
    """
    library = torch.library.Library("torchvision", "FRAGMENT")
    for _ in range(20):
        try:
            return library, importlib.import_module("torchvision.models.optical_flow")
        except RuntimeError as error:
            missing = re.search(r"operator torchvision::(\w+) does not exist", str(error))
            if not missing:
                raise
            library.define(f"{missing[1]}(Tensor x) -> Tensor")
            for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
                del sys.modules[name]
    raise ImportError("torchvision lacks more than twenty operators")


@pytest.fixture(scope="module")
def flow_models():
    """The module, with the library that must outlive it."""
    try:
        library, module = import_flow_models()
    except Exception as error:
        pytest.skip(f"torchvision cannot be imported: {error}")
    yield module
    del library


@pytest.fixture(scope="module")
def small(flow_models, tmp_path_factory):
    """A folder with a random RAFT, and the model itself."""
    torch.manual_seed(0)
    model = flow_models.raft_small(weights=None, progress=False).eval()
    folder = tmp_path_factory.mktemp("raft")
    torch.save(model.state_dict(), folder / "raft_small.pth")
    return folder, model


def textured(height, width, frames=3, seed=0):
    coarse = torch.rand(1, 3, 9, 9, generator=torch.Generator().manual_seed(seed))
    picture = torch.nn.functional.interpolate(coarse, size=(height, width + 40), mode="bicubic")
    views = [picture[..., 8 * t : 8 * t + width] for t in range(frames)]
    return torch.cat(views).clamp(0, 1).movedim(1, -1)[None]


def test_the_flow_is_torchvisions(small):
    folder, model = small
    reward = make_reward("raft_dynamic_degree", model=folder)
    clip = textured(128, 136)
    before, after = clip[0, :-1], clip[0, 1:]
    flow = reward.flow(before, after)
    assert flow.shape == (2, 2, 128, 136)
    with torch.no_grad():
        a, b = (x.movedim(-1, 1) * 2 - 1 for x in (before, after))
        expected = model(a, b, num_flow_updates=20)[-1]
    torch.testing.assert_close(flow.movedim(0, 1), expected, atol=1e-3, rtol=1e-3)
    assert flow.abs().max() > 0.1


def test_the_large_model_is_told_by_its_weights(flow_models, tmp_path):
    model = flow_models.raft_large(weights=None, progress=False)
    torch.save(model.state_dict(), tmp_path / "raft_large.pth")
    reward = make_reward("raft_dynamic_degree", model=tmp_path)
    assert type(reward.module) is type(model)
    assert sum(p.numel() for p in reward.module.parameters()) > 5_000_000


def test_sizes_that_do_not_divide_are_padded_and_small_ones_stretched(small):
    reward = make_reward("raft_dynamic_degree", model=small[0])
    odd = textured(130, 141)
    assert reward.flow(odd[0, :-1], odd[0, 1:]).shape == (2, 2, 130, 141)
    # Stretching by 4 and back: the displacement counts original pixels.
    tiny = textured(32, 32, frames=2)
    large = torch.nn.functional.interpolate(
        tiny[0].movedim(-1, 1), size=(128, 128), mode="bilinear"
    ).movedim(1, -1)[None]
    torch.testing.assert_close(reward.speeds(tiny), reward.speeds(large) / 4, atol=1e-3, rtol=1e-3)


def test_scores_are_zero_or_one_and_nan_for_a_single_frame(small):
    reward = make_reward("raft_dynamic_degree", model=small[0])
    clip = textured(32, 40)
    assert reward(clip, ["a"]).values.item() in (0, 1)
    assert not reward(clip[:, :1], ["a"]).valid.any()
    with pytest.raises(ValueError, match="fps must be positive"):
        make_reward("raft_dynamic_degree", model=small[0], fps=0)
