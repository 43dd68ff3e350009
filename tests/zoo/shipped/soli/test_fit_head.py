"""Training on a tiny random backbone: learns, repeats itself, and goes on after a kill."""

import json
from dataclasses import replace

import pytest
import torch

from reelrl.rewards import make_reward
from reelrl.rewards.soli.folder import WEIGHTS, read_facts
from reelrl.zoo.shipped.soli.fit_head import RESULT, fit, load_splits, new_head, train_reward_model
from reelrl.zoo.shipped.soli.labelled_clips import load_split
from reelrl.zoo.shipped.soli.labels import passes
from reelrl.zoo.shipped.soli.states import States, load_states
from reelrl.zoo.shipped.training import Training


def quiet(text):
    pass


@pytest.fixture(scope="module")
def splits(tiny, cache):
    return load_splits(tiny(), cache, quiet)


def planted(states, config, strength=2.0):
    """The same states with the label written into one direction of every level."""
    truth = passes(states.gold, config.threshold)
    push = torch.where(truth, strength, -strength)[:, None, None].half()
    levels = [level + push * (torch.arange(level.shape[2]) == 3) for level in states.levels]
    return States(levels, states.mask, states.gold, states.sources)


@pytest.mark.parametrize(
    ("head", "loss"),
    [("hpqa", "paper"), ("hpqa", "code"), ("mean_pool", "bt"), ("last_token", "btt")],
)
def test_a_planted_direction_is_found(head, loss, tiny, splits, tmp_path):
    config = tiny(f"head={head}", f"loss={loss}", "epochs=12", "learning_rate=3e-3")
    states = planted(splits.train, config)
    truth = passes(states.gold, config.threshold)
    made = new_head(config)
    fit(made, states, truth, config, tmp_path)
    held_out = planted(splits.id, config)
    called, truth = held_out.scores(made), passes(held_out.gold, config.threshold)
    assert called[truth].mean() > called[~truth].mean() + 0.5
    assert (called[truth][:, None] > called[~truth]).float().mean() > 0.95


def test_ties_draw_the_passes_together(tiny, splits, tmp_path):
    """Of equal training, the printed loss leaves passes closer than no ties, in raw score too."""
    spread = {}
    for loss in ("bt", "paper"):
        config = tiny(f"loss={loss}", "epochs=12", "learning_rate=3e-3")
        head, states = new_head(config), planted(splits.train, config)
        truth = passes(states.gold, config.threshold)
        fit(head, states, truth, config, tmp_path / loss)
        scores = states.scores(head)
        spread[loss] = float(scores[truth].std() / (scores[truth].mean() - scores[~truth].mean()))
    assert spread["paper"] < spread["bt"]


def test_the_folder_is_a_reward_that_scores_as_examined(tiny, splits, cache, tmp_path):
    config = tiny()
    result = train_reward_model(config, tmp_path, splits=splits, report=quiet)
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == [
        "config.yaml", "head.safetensors", "metrics.jsonl", "result.json", "soli_reward.json",
    ]  # fmt: skip
    assert result == json.loads((tmp_path / RESULT).read_text())
    reward = make_reward("soli_reward", model=tmp_path)
    assert read_facts(tmp_path).training["result"]["id"] == result["id"]
    clips_folder = next((cache / "clips").iterdir())
    shard, clips = next(iter(load_split(clips_folder, config.data, "id")))
    values = reward(clips.videos.float() / 255, clips.prompts).values
    head = reward.head
    expected = splits.id.scores(head)[: shard.count]
    # Training reads states in half precision.
    torch.testing.assert_close(values, expected, atol=2e-2, rtol=1e-2)
    truth = passes(splits.id.gold, config.threshold)
    called = splits.id.scores(head) >= result["threshold"]
    assert result["id"]["accuracy"] == pytest.approx((called == truth).double().mean().item())


def weights(folder):
    return (folder / WEIGHTS).read_bytes()


def test_equal_runs_are_equal_and_seeds_differ(tiny, splits, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train_reward_model(tiny(f"seed={seed}"), tmp_path / name, splits=splits, report=quiet)
    assert weights(tmp_path / "a") == weights(tmp_path / "b") != weights(tmp_path / "c")
    assert (tmp_path / "a" / RESULT).read_text() == (tmp_path / "b" / RESULT).read_text()


@pytest.mark.parametrize("killed_at", [2, 7])
def test_a_killed_run_goes_on_bit_for_bit(killed_at, tiny, splits, tmp_path, monkeypatch):
    config = tiny()
    train_reward_model(config, tmp_path / "whole", splits=splits, report=quiet)
    update = Training.update

    def dying(self, loss):
        if self.step == killed_at:
            raise KeyboardInterrupt
        update(self, loss)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Training, "update", dying)
        train_reward_model(config, tmp_path / "killed", splits=splits, report=quiet)
    state = torch.random.get_rng_state()
    train_reward_model(config, tmp_path / "killed", splits=splits, report=quiet)
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")
    logs = [(tmp_path / n / "metrics.jsonl").read_text() for n in ("killed", "whole")]
    assert logs[0] == logs[1]
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_finished_run_is_read_and_another_one_refused(tiny, splits, tmp_path, monkeypatch):
    config = tiny()
    result = train_reward_model(config, tmp_path, splits=splits, report=quiet)
    monkeypatch.setattr("reelrl.zoo.shipped.soli.fit_head.fit", None)
    assert train_reward_model(config, tmp_path, report=quiet) == result
    with pytest.raises(ValueError, match="holds a run of other settings"):
        train_reward_model(replace(config, loss="bt"), tmp_path, report=quiet)


def test_an_untrained_yes_logit_starts_from_the_language_head(tiny, splits):
    config = tiny("head=yes_logit")
    head = new_head(config)
    assert head.yes.abs().sum() > 0 and not torch.equal(head.yes[0], head.no[0])
    assert splits.id.scores(head).std() > 0


def test_states_are_computed_once_and_keyed_by_the_question(tiny, cache, monkeypatch):
    load_states(tiny(), "id", cache, quiet)
    monkeypatch.setattr("reelrl.zoo.shipped.soli.states.compute", None)
    load_states(tiny("seed=5", "loss=bt"), "id", cache, quiet)
    for other in ("clip_fps=8", "num_frames=4", "taps=[2]", "dimension=fid"):
        with pytest.raises(TypeError):
            load_states(tiny(other), "id", cache, quiet)


def test_settings_are_checked(tiny, splits, tmp_path):
    with pytest.raises(ValueError, match="unknown key 'los'; did you mean 'loss'"):
        tiny("los=bt")
    with pytest.raises(ValueError, match="thresholds has no entry for 'phys'"):
        replace(tiny(), thresholds={"fid": 1.0})
    with pytest.raises(ValueError, match=r"noise must be in \[0, 0.5\)"):
        tiny("noise=0.5")
    with pytest.raises(ValueError, match="a batch of 500 is more than all of the 96 clips"):
        config = tiny("batch=500")
        fit(new_head(config), splits.train, torch.ones(96) > 0, config, tmp_path)


def test_the_question_is_the_judges_unless_it_is_given(tiny):
    from reelrl.rewards.judges.rubric import RUBRICS, pointwise_text

    question = tiny("dimension=align").question
    asked = question.template.replace("{prompt}", "a red circle moving up")
    rubric = RUBRICS["alignment"]
    assert asked == pointwise_text(rubric, "a red circle moving up", written=False)
    assert tiny("questions.phys='{prompt}?'").question.template == "{prompt}?"
