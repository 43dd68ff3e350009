"""The environment over real diffusers Wan models: the shipped one, and a folder of one's own."""

from __future__ import annotations

import doctest
import json
import shutil
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from diffusers import WanPipeline
from gymnasium.utils.env_checker import check_env

from reelrl.envs import text_to_video, vector
from reelrl.envs.models import VideoModel, WanVideoModel
from reelrl.envs.wrappers import VectorGuidanceAction, action, reward, scalar

GOLD = "reelrl:reelrl/MovingShapesGold-v0"


@pytest.fixture(scope="module")
def nano():
    return WanVideoModel.from_pretrained("nano")


def loaded(model):
    return {"transformer", "vae", "text_encoder"} & set(vars(model))


def test_the_environment_never_loads_a_transformer():
    envs = gym.make_vec(GOLD, num_envs=2, num_steps=1)
    model = envs.unwrapped.model
    envs.reset(seed=0)
    assert loaded(model) == set()
    envs.step(envs.action_space.sample())
    assert loaded(model) == {"vae"}


def test_guidance_lets_the_shared_model_act(nano):
    envs = gym.make_vec(GOLD, num_envs=2, num_steps=2, model=nano)
    envs = VectorGuidanceAction(envs)
    envs.reset(seed=0)
    for _ in range(2):
        observations, *_ = envs.step(envs.action_space.sample())
    assert envs.unwrapped.model is nano
    assert "transformer" in loaded(nano)
    assert np.isfinite(observations["latent"]).all()


def test_the_batch_earns_what_single_environments_earn(nano):
    envs = gym.make_vec(GOLD, num_envs=3, num_steps=1, model=nano, rewards=["gold", "proxy_vq"])
    env = gym.make(GOLD, num_steps=1, model=nano, rewards=["gold", "proxy_vq"])
    batch, _ = envs.reset(seed=5)
    actions = (0.5 * batch["latent"]).astype(np.float32)
    _, rewards, _, _, infos = envs.step(actions)
    for i in range(3):
        alone, _ = env.reset(seed=5 + i)
        assert (alone["latent"] == batch["latent"][i]).all()
        _, single, _, _, info = env.step(actions[i])
        np.testing.assert_allclose(rewards[i], single, atol=1e-5)
        assert abs(infos["video"][i].astype(int) - info["video"]).max() <= 1


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["", "Early", "Gold", "Flat"])
def test_the_registered_environments_pass_check_env(name):
    check_env(gym.make(f"reelrl:reelrl/MovingShapes{name}-v0", num_steps=2).unwrapped)


def test_unknown_words_are_refused_before_anything_is_made():
    with pytest.raises(ValueError, match="does not know: zebra"):
        gym.make(GOLD, prompts=["a red zebra moving right"])


@pytest.mark.parametrize(
    "module", [text_to_video, vector, action, reward, scalar], ids=lambda m: m.__name__
)
def test_examples_in_the_docstrings(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


def test_any_local_wan_folder_is_an_environment(wan_folder, reward_types):
    envs = gym.make_vec(
        "reelrl:reelrl/TextToVideo-v0",
        num_envs=2,
        model=str(wan_folder),
        prompts=["a red circle moving right"],
        rewards=[reward_types["brightness"]()],
        num_steps=2,
        num_frames=5,
        height=32,
        width=48,
        observe_embedding=True,
    )
    envs = VectorGuidanceAction(envs)
    observations, _ = envs.reset(seed=0)
    assert observations["latent"].shape == (2, 16, 2, 4, 6)
    assert observations["prompt_embedding"].shape == (2, 16, 16)
    for _ in range(2):
        _, rewards, _, _, infos = envs.step(envs.action_space.sample())
    assert infos["video"].shape == (2, 5, 32, 48, 3)
    assert np.isfinite(rewards).all()


@pytest.fixture(params=["published", "other"])
def moments_folder(wan_folder, tmp_path, request):
    """The folder with the latent moments of Wan 2.1, and with others."""
    if request.param == "published":
        return wan_folder
    folder = shutil.copytree(wan_folder, tmp_path / "moments")
    path = folder / "vae" / "config.json"
    changed = {"latents_mean": [0.5] * 16, "latents_std": [0.25 + i / 16 for i in range(16)]}
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    return folder


def test_t32_decoding_is_that_of_the_stock_pipeline_in_float32(moments_folder):
    pipeline = WanPipeline.from_pretrained(moments_folder)
    pipeline.set_progress_bar_config(disable=True)
    model = WanVideoModel(moments_folder, dtype=torch.bfloat16)
    noise = torch.randn(1, *model.latent_shape(5, 32, 48), generator=torch.Generator())

    def drawn(kind):
        return pipeline(
            prompt="a red circle moving right", latents=noise, num_frames=5, height=32, width=48,
            num_inference_steps=2, guidance_scale=1.0, max_sequence_length=16, output_type=kind,
        ).frames  # fmt: skip

    latents, expected = drawn("latent"), drawn("pt").permute(0, 1, 3, 4, 2)
    assert model.vae.dtype == torch.float32 and not model.vae.use_tiling
    assert expected.std() > 0.01
    torch.testing.assert_close(model.decode(latents), expected, atol=1e-5, rtol=0)


def test_t35_embeddings_are_those_of_the_stock_pipeline_padded_with_zeros(wan_folder):
    pipeline, model = WanPipeline.from_pretrained(wan_folder), WanVideoModel(wan_folder)
    prompts = ["a red circle moving right", "a blue square moving up fast"]
    expected, unconditional = pipeline.encode_prompt(
        prompts, do_classifier_free_guidance=True, max_sequence_length=16
    )
    torch.testing.assert_close(model.encode(prompts), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(model.encode([""] * 2), unconditional, atol=1e-6, rtol=0)
    assert expected[0, 6:].eq(0).all() and expected[0, :6].ne(0).any()


def test_t44_a_wan_2_2_folder_is_refused(wan_folder, tmp_path):
    index = json.loads((wan_folder / "model_index.json").read_text())
    index["transformer_2"] = ["diffusers", "WanTransformer3DModel"]
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"Wan 2\.2 .* expected Wan 2\.1 with one transformer"):
        gym.make(
            "reelrl:reelrl/TextToVideo-v0", model=str(tmp_path), prompts=["x"], rewards=["gold"]
        )


def test_a_pickled_model_opens_its_folder_again():
    import pickle

    nano = VideoModel.from_pretrained("nano")
    nano.decode(torch.zeros(1, 8, 5, 8, 8))
    data = pickle.dumps(nano)
    again = pickle.loads(data)
    assert len(data) < 10_000
    assert loaded(again) == set()
    latent = torch.randn(1, 8, 5, 8, 8, generator=torch.Generator().manual_seed(0))
    assert (again.decode(latent) == nano.decode(latent)).all()
    assert isinstance(again, VideoModel)
    assert "diffusers" in sys.modules


def test_examples_in_the_documentation():
    page = Path(__file__).parents[2] / "docs" / "envs.md"
    result = doctest.testfile(str(page), module_relative=False)
    assert result.attempted > 0
    assert result.failed == 0
