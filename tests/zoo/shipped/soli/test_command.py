"""The command: one reward model, an ablation, and what it says to bad input."""

import pytest

from reelrl.rewards import make_reward
from reelrl.zoo.cli import main
from reelrl.zoo.shipped.soli.ablation import TABLE
from reelrl.zoo.shipped.soli.ablation_page import RESULTS
from reelrl.zoo.shipped.soli.command import train_reward


@pytest.mark.slow
def test_one_reward_model(backbone, tiny_settings, cache, tmp_path, capsys):
    given = {"backbone": str(backbone), "dimension": "phys", "head": "mean_pool", "loss": None}
    train_reward(given=given, settings=tiny_settings, out=tmp_path / "model", cache=cache)
    printed = capsys.readouterr().out
    assert "id clips" in printed and "ood clips" in printed and str(tmp_path / "model") in printed
    reward = make_reward("soli_reward", model=tmp_path / "model")
    assert reward.name == "soli_reward_phys" and reward.facts.head.name == "mean_pool"


def test_an_ablation_of_one_dimension(backbone, tiny_settings, cache, tmp_path):
    given = {"backbone": str(backbone), "dimension": "phys"}
    train_reward(
        given=given, settings=[*tiny_settings, "epochs=1"], ablation="heads", seeds=(0,),
        cache=cache, out=tmp_path / "models", results=tmp_path / "results",
    )  # fmt: skip
    assert sorted(p.name for p in (tmp_path / "models").iterdir()) == [
        "phys-hpqa-paper-0", "phys-last_token-paper-0", "phys-mean_pool-paper-0",
        "phys-yes_logit-paper-0",
    ]  # fmt: skip
    names = {path.name for path in (tmp_path / "results").iterdir()}
    assert names == {TABLE, RESULTS, "settings.json"}
    assert "`phys`" in (tmp_path / "results" / RESULTS).read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "epoch=3"], "unknown key 'epoch'; did you mean 'epochs'"),
        (["--preset", "rewards/soli"], "unknown preset 'rewards/soli'"),
        (["--backbone", "nowhere"], "'nowhere' is no folder"),
    ],
)
def test_bad_input_ends_with_one_line(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["train-reward", *arguments])
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert words in message and len(message.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
