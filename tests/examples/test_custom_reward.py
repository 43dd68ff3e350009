"""The example of a user's own reward runs, and its reward is what it says."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import torch

from reelrl.rewards import make_reward

EXAMPLE = Path(__file__).parents[2] / "examples" / "custom_reward.py"


@pytest.fixture(scope="module")
def example():
    return runpy.run_path(str(EXAMPLE))


def test_it_prints_a_vector_with_the_new_component_last(example, capsys):
    example["main"]()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [
        "prompt:", "proxy_vq", "proxy_mq", "proxy_ta", "stillness"
    ]  # fmt: skip
    assert -1 <= float(lines[-1].split()[1]) <= 0


def test_the_reward_is_what_it_says(example):
    reward = make_reward("stillness")
    still = torch.rand(1, 1, 8, 8, 3).expand(1, 5, 8, 8, 3)
    blinking = torch.arange(5.0).remainder(2).view(1, 5, 1, 1, 1).expand(1, 5, 8, 8, 3)
    output = reward(torch.cat([still, blinking]), ["", ""])
    assert output.values.tolist() == [0, -1]
    assert output.valid.all()


def test_it_takes_ten_lines():
    body = re.search(r"@register_reward.*?\n\n\n", EXAMPLE.read_text(), re.DOTALL)
    assert len([line for line in body.group().splitlines() if line.strip()]) <= 10
