"""The examples that train run in a reduced form, from their own command lines' settings."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import tyro

EXAMPLES = Path(__file__).parents[2] / "examples"
STYLED = (
    "best_of_n", "bring_your_own_wan", "cleanrl_style_grpo", "mo_guidance",
    "ppo_sb3_any_estimator", "ppo_sb3_guidance", "tianshou_estimator_pg",
)  # fmt: skip
SMALL = {"num_envs": 4, "group_size": 2, "num_steps": 2, "updates": 2, "batch_size": 4}


@pytest.fixture(autouse=True)
def quiet():
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="stable_baselines3")
        yield


@pytest.mark.parametrize("name", STYLED)
def test_first_line_leads_to_the_documentation(name):
    first = (EXAMPLES / f"{name}.py").read_text().splitlines()[0]
    page = re.match(r'"""Docs: (\S+)\. ', first).group(1)
    assert (EXAMPLES.parent / page).is_file()


@pytest.mark.parametrize("name", STYLED)
def test_every_setting_is_explained_on_the_command_line(load_example, name, capsys):
    module = load_example(name)
    with pytest.raises(SystemExit):
        tyro.cli(module.Args, args=["--help"])
    shown = capsys.readouterr().out
    for setting in module.Args.__dataclass_fields__:
        assert f"--{setting.replace('_', '-')}" in shown


def test_ppo_sb3_any_estimator(load_example, tmp_path, capsys):
    module = load_example("ppo_sb3_any_estimator")
    args = module.Args(estimator="taros", save=str(tmp_path / "agent"), **SMALL)
    model = module.main(args)
    assert model.num_timesteps == 16 and (tmp_path / "agent.zip").is_file()
    assert "ep_rew_mean" in capsys.readouterr().out
    assert model.rollout_buffer.signal.estimator.name == "taros"


def test_tianshou_estimator_pg(load_example, capsys):
    module = load_example("tianshou_estimator_pg")
    stats, curve = module.main(module.Args(**SMALL))
    assert stats.train_step == 16 and len(curve) == 2
    assert all(0 < mean < 1 for mean in curve)
    assert "update    2  mean reward" in capsys.readouterr().out


def test_cleanrl_style_grpo(load_example, tmp_path, monkeypatch, capsys):
    module = load_example("cleanrl_style_grpo")
    assert "reelrl.algos" not in (EXAMPLES / "cleanrl_style_grpo.py").read_text()
    monkeypatch.chdir(tmp_path)
    small = {"prompts": 2, "group_size": 2, "num_steps": 2, "minibatch_size": 3, "iterations": 2}
    curve = module.main(module.Args(**small))
    assert len(curve) == 2 and all(math.isfinite(mean) for mean in curve)
    assert list((tmp_path / "runs").glob("MovingShapesEarly-v0__cleanrl_style_grpo__0__*/events*"))
    assert "clipfrac" in capsys.readouterr().out


def test_ppo_sb3_guidance(load_example, tmp_path, capsys):
    module = load_example("ppo_sb3_guidance")
    small = {"num_envs": 4, "num_steps": 2, "updates": 2, "held_out": 4}
    small |= {"guidances": (1.0, 2.0), "noises": (0.0,), "seeds": (0, 1)}
    picture = tmp_path / "new" / "curves.png"
    result = module.main(module.Args(picture=picture, **small))
    assert picture.is_file() and len(result.agents) == 2
    for agent in result.agents:
        assert len(agent.curve) == 2 and agent.schedule.shape == (2, 3) and len(agent.scores) == 4
        assert (agent.schedule[:, 1] >= 1).all() and (agent.schedule[:, 1] <= 2).all()
    assert result.best_fixed in result.fixed and len(result.fixed) == 2
    # The same setting on the same clips is the same score: the comparison is paired.
    venv = module.make_venv(module.Args(**small))
    actions = np.full((4, 2), -1, np.float32)
    again = module.play(venv, lambda obs: actions, 4)
    np.testing.assert_allclose(again, result.fixed[1.0, 0.0], atol=1e-6)
    assert "learned, mean of 2 agents" in capsys.readouterr().out


def test_settings_that_cannot_work_are_refused(load_example):
    module = load_example("cleanrl_style_grpo")
    with pytest.raises(ValueError, match="num_steps must be at least 2, got 1"):
        module.main(module.Args(num_steps=1, track=False))
    module = load_example("best_of_n")
    for settings in ({"prompts": 200}, {"seed": -1}):
        with pytest.raises(ValueError, match=r"1 to \d+ prompts and a seed from 0, got Args"):
            module.main(module.Args(n=2, **settings))


def test_best_of_n(load_example, capsys):
    module = load_example("best_of_n")
    gold = module.main(module.Args(n=3, prompts=2, num_steps=2))
    assert gold["best by gold"] >= max(gold["any"], gold["best by proxies"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and lines[0].split()[-2:] == ["proxies", "gold"]


@pytest.mark.filterwarnings("ignore")
def test_mo_guidance(load_example, capsys):
    pytest.importorskip("mo_gymnasium")
    module = load_example("mo_guidance")
    small = {"generations": 1, "population": 2, "elite": 1, "episodes": 1, "num_steps": 2}
    vectors, front = module.main(module.Args(weights=((1.0, 0, 0), (0, 0, 1.0)), **small))
    assert vectors.shape == (2, 3) and front.any()
    assert "front over proxy_vq, proxy_mq, proxy_ta" in capsys.readouterr().out
    table = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.0], [1.0, 0.0]])
    assert module.undominated(table).tolist() == [True, True, False, True]


def test_bring_your_own_wan(load_example, wan_folder, tmp_path, capsys):
    module = load_example("bring_your_own_wan")
    args = module.Args(
        model=str(wan_folder), prompts=("a red circle moving right",), height=32, width=32,
        num_frames=5, num_steps=3, window=1, group_size=2, iterations=1, lora_rank=2,
        out=str(tmp_path / "run"),
    )  # fmt: skip
    history = module.main(args)
    assert len(history) == 1 and math.isfinite(history[0]["reward/motion"])
    assert history[0]["train/grad_norm"] > 0
    assert list((tmp_path / "run").glob("*.safetensors"))
    assert "latents (16, 2, 4, 4), 1 prompts" in capsys.readouterr().out
