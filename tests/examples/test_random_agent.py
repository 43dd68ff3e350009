"""The example of an agent that is no video model runs."""

from __future__ import annotations

import runpy
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "random_agent.py"


def test_it_prints_a_mean_reward_vector(capsys):
    main = runpy.run_path(str(EXAMPLE))["main"]
    main(["--episodes", "4", "--num-envs", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["proxy_vq", "proxy_mq", "proxy_ta"]
    assert all(0 <= float(line.split()[1]) <= 1 for line in lines)
