"""Suites: every one that ships is made of runs that can start, and a typo is an error."""

from __future__ import annotations

import pytest
import yaml

from reelrl.algos.advantages import make_estimator
from reelrl.rewards.spec import build_reward
from reelrl.zoo.benchmark.columns import GOLD_AXES
from reelrl.zoo.benchmark.design import ExaminationConfig, list_suites, read_suite
from reelrl.zoo.benchmark.report.compare import PREDICTED


def name_of(spec):
    """Of a component; of one whose model a command has to make first, the folder."""
    made = isinstance(spec, dict) and "/" in spec.get("model", "")
    return spec["model"] if made else build_reward(spec).name


@pytest.mark.parametrize("name", list_suites())
def test_a_suite_that_ships_can_start(name):
    suite = read_suite(name)
    runs = list(suite.runs())
    assert len({run.path for run in runs}) == len({run.digest for run in runs}) == len(runs)
    assert suite.baseline in suite.methods and suite.control in (None, *suite.methods)
    for scenario in suite.scenarios.values():
        names = [name_of(spec) for spec in scenario.rewards]
        assert len(set(names)) == len(names) and scenario.prediction and scenario.about
        # A bent axis under the axis's own name would be measured in its place.
        truth = {name for name in names if name in GOLD_AXES}
        assert truth <= {spec for spec in scenario.rewards if isinstance(spec, str)}
        assert set(scenario.expect) <= set(PREDICTED)
        for kind, entries in scenario.expect.items():
            pairs = [[entry] * 2 if kind in ("rises", "falls") else entry for entry in entries]
            assert all(isinstance(name, str) for pair in pairs for name in pair)
            assert all(len(pair) == 2 for pair in pairs)
    for run in runs:
        make_estimator(run.config.estimator)
        clips = run.config.learner.prompts_per_iteration * run.config.learner.group_size
        assert run.config.learner.rollout.keep_videos == clips
        assert run.config.learner.seed == run.seed


def test_methods_differ_in_what_their_line_says_and_in_nothing_else():
    suite = read_suite("learning")
    plain, held = (suite.run("proxies", method, 3).config for method in ("grpo", "grpo_kl"))
    assert held.learner.loss.kl_weight > 0 == plain.learner.loss.kl_weight
    assert held.estimator == plain.estimator == "grpo"
    assert held.env_args == plain.env_args and held.iterations == plain.iterations


def test_the_scenario_of_the_learned_judge_can_start(write):
    suite = read_suite(write(scenarios=["judge"]))
    rewards = [build_reward(spec) for spec in suite.scenarios["judge"].rewards]
    assert [r.name for r in rewards] == [
        f"vlm_judge_{k}" for k in ("visual", "motion", "alignment")
    ]
    assert all(r.num_frames == 9 and r.folder.is_dir() for r in rewards)


def test_runs_go_seed_by_seed():
    suite = read_suite("learning")
    seeds = [run.seed for run in suite.runs()]
    assert seeds == sorted(seeds)


@pytest.fixture
def write(tmp_path):
    def write(**changes):
        values = {
            "title": "t", "seeds": [0], "scenarios": ["gold"], "methods": ["grpo"],
            "base": {"iterations": 2},
        } | changes  # fmt: skip
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    return write


def test_a_suite_of_ones_own(write):
    described = {"title": "x", "about": "y", "rewards": ["gold"], "prediction": "z"}
    path = write(
        scenarios={"mine": described},
        methods={"slow": {"estimator": "gdpo@trl", "set": {"learner.learning_rate": 1e-6}}},
    )
    (run,) = read_suite(str(path)).runs()
    assert run.config.estimator == "gdpo@trl" and run.config.learner.learning_rate == 1e-6
    assert run.config.env_args["rewards"] == ["gold"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scenarios": ["onest"]}, "unknown scenario 'onest'; did you mean 'honest'"),
        ({"methods": ["tarros"]}, "unknown method 'tarros'; did you mean 'taros'"),
        ({"sedes": [1]}, "unknown key 'sedes'; did you mean 'seeds'"),
        ({"base": {"iteration": 3}}, "unknown key 'iteration'; did you mean 'iterations'"),
        ({"methods": {"a": {"sett": {}}}}, "unknown key 'methods.a.sett'; did you mean 'set'"),
        ({"examined": {"clip": 3}}, "unknown key 'examined.clip'; did you mean 'clips'"),
    ],
)
def test_typos(write, changes, message):
    with pytest.raises(ValueError, match=message):
        read_suite(str(write(**changes)))


def test_splits_share_no_noise_and_unseen_may_be_the_larger_one():
    examined = ExaminationConfig(clips=3, unseen=7, seed=100)
    seeds = [examined.noise_seeds(split) for split in ("seen", "unseen", "open")]
    assert [len(s) for s in seeds] == [3, 7, 3]
    assert len({seed for s in seeds for seed in s}) == 13
    alike = ExaminationConfig(clips=3, seed=100)
    assert [alike.noise_seeds(s).start for s in ("seen", "unseen", "open")] == [100, 103, 106]


def test_fewer_unseen_clips_than_others_are_refused():
    with pytest.raises(ValueError, match=r"at least examined\.clips = 4, got 2"):
        ExaminationConfig(clips=4, unseen=2)


def test_unknown_suites_name_the_nearest():
    with pytest.raises(ValueError, match="unknown suite 'quik'; did you mean 'quick'"):
        read_suite("quik")


def test_reward_models_of_a_suite_are_those_the_ablation_leaves():
    from reelrl.zoo.shipped.soli.ablation import Plan
    from reelrl.zoo.shipped.soli.config import read_config
    from reelrl.zoo.shipped.soli.fit_head import ROOT

    made = {str(ROOT / "models" / run.name) for run in Plan(seeds=(0,)).runs(read_config())}
    suite = read_suite("solireward")
    used = {
        method: {
            spec["model"] for spec in suite.run("solireward", method, 0).config.env_args["rewards"]
        }
        for method in suite.methods
    }
    assert set.union(*used.values()) == made
    assert {len(models) for models in used.values()} == {3} and len(used) == len(made) / 3
    for method, models in used.items():
        assert all(f"-{method.removeprefix('soli_')}-" in model for model in models)
