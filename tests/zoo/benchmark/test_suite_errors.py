"""A suite that makes no benchmark is one line with file and key."""

from __future__ import annotations

import pytest
import yaml

from reelrl.zoo.benchmark.design import read_suite

GOOD = {
    "title": "t", "seeds": [0], "scenarios": ["gold"], "methods": ["grpo"],
    "base": {"iterations": 2},
}  # fmt: skip
OWN = {"title": "x", "about": "y", "rewards": ["gold"], "prediction": "z"}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "mine.yaml"


def refused(path):
    with pytest.raises(ValueError) as error:
        read_suite(str(path))
    message = str(error.value)
    assert message.startswith(str(path)) and len(message.splitlines()) == 1
    return message.removeprefix(str(path))


@pytest.mark.parametrize(
    "text",
    [
        "", "~", "5", "[a]", "\ttitle: x", "a: 1\n---\nb: 2", "a: \0", "!!python/name:os.system ''",
        "!mine {}", "[a]: 1", "[" * 5000, "title: t",
    ],
    ids=lambda text: repr(text)[:12],
)  # fmt: skip
def test_what_is_no_suite(path, text):
    path.write_text(text, encoding="utf-8")
    refused(path)


@pytest.mark.parametrize("key", ["title", "seeds", "scenarios", "methods", "base"])
def test_a_missing_key_is_named(path, key):
    path.write_text(yaml.safe_dump({k: v for k, v in GOOD.items() if k != key}), encoding="utf-8")
    assert f"missing key '{key}'" in refused(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": "grpo"}, ": methods must hold names, or names with settings, got 'grpo'"),
        ({"methods": None}, ": methods must hold names, or names with settings, got None"),
        ({"methods": []}, ": methods must hold names"),
        ({"methods": [["grpo"]]}, ": methods must be a name of letters"),
        ({"methods": ["grpo", "grpo"]}, ": methods must hold every name once, got 'grpo' again"),
        ({"methods": {"grpo": 5}}, ": methods.grpo must hold keys and values, got 5"),
        ({"methods": {"grpo": {"set": None}}}, ": methods.grpo.set must be dict"),
        ({"scenarios": [1]}, ": scenarios must be a name of letters"),
        ({"scenarios": {"goodhart": 5}}, ": scenarios.goodhart must hold keys and values, got 5"),
        ({"scenarios": {"mine": {"rewards": ["gold"]}}}, ": missing key 'scenarios.mine.title'"),
        ({"scenarios": {"mine": OWN | {"rewards": []}}}, "mine.rewards must hold one reward or mo"),
        ({"scenarios": {"mine": OWN | {"rewards": [5]}}}, "mine.rewards must hold names, or keys"),
        ({"scenarios": {"mine": OWN | {"methods": []}}}, "scenarios.mine.methods must hold names"),
        ({"base": {"env_args": [1]}}, ": base.env_args must hold keys and values, got [1]"),
        ({"base": None}, ": base must be dict"),
        ({"methods": {"a": {"set": {"learner.learning_rate": "2024-01-01"}, "estimator": "grpo"}}},
         "learner.learning_rate must be float, got '2024-01-01'"),
        ({"seeds": [-1]}, ": seeds must be one or more different numbers from 0 to 2147483647"),
        ({"seeds": [10**30]}, ": seeds must be one or more different numbers from 0 to 214748364"),
        ({"seeds": []}, ": seeds must be one or more different numbers from 0 to 2147483647"),
        ({"seeds": [0, 0]}, ": seeds must be one or more different numbers from 0 to 2147483647"),
        ({"seeds": 3}, ": seeds must be list, got 3"),
        ({"margin": float("nan")}, ": margin must be finite, got nan"),
        ({"margin": float("inf")}, ": margin must be finite, got inf"),
        ({"margin": -1}, ": margin must be at least 0, got -1"),
        ({"best_of": -3}, ": best_of must be at least 0, got -3"),
        ({"examined": {"clips": -5}}, ": examined.clips must be at least 2, got -5"),
        ({"examined": {"clips": 0}}, ": examined.clips must be at least 2, got 0"),
        ({"examined": {"every": 0}}, ": examined.every must be at least 1, got 0"),
        ({"imports": 5}, ": imports must be a list of modules or .py files, got 5"),
        ({"imports": ["no_such_module"]}, ": imports: no_such_module cannot be imported"),
        ({"imports": ["no_such_file.py"]}, "no_such_file.py cannot be imported"),
    ],
)  # fmt: skip
def test_values_that_make_no_benchmark(path, changes, message):
    path.write_text(yaml.safe_dump(GOOD | changes), encoding="utf-8")
    assert message in refused(path)


@pytest.mark.parametrize(
    ("expect", "message"),
    [
        ({"better": [["a"]]}, "expect.better must hold a list of two methods each, got ['a']"),
        ({"better": [["grpo", "grpo"]]}, "must hold a list of two methods each"),
        ({"better": [["nope", "grpo"]]}, "expect.better: unknown method 'nope'"),
        ({"rises": [["grpo"]]}, "expect.rises must hold the name of a method each, got ['grpo']"),
        ({"falls": "grpo"}, "expect.falls must be a list, got 'grpo'"),
        ({"bettr": []}, "unknown key 'scenarios.mine.expect.bettr'; did you mean 'better'?"),
        ({"bogus": 1}, "unknown key 'scenarios.mine.expect.bogus'"),
        (5, "scenarios.mine.expect must be dict"),
    ],
)
def test_predictions_that_could_never_be_tested(path, expect, message):
    values = GOOD | {"scenarios": {"mine": OWN | {"expect": expect}}}
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    assert message in refused(path)


@pytest.mark.parametrize(
    "name",
    ["/somewhere/ESC", "..", "../../x", "", "a\0b", ".hidden", "a b", "ü", "suite", "best_of_n",
     "clips", "results", "Results", "x" * 101, "a\n"],
    ids=repr,
)  # fmt: skip
@pytest.mark.parametrize("kind", ["scenarios", "methods"])
def test_names_are_no_paths(path, kind, name):
    given = OWN if kind == "scenarios" else {"estimator": "grpo"}
    path.write_text(yaml.safe_dump(GOOD | {kind: {name: given}}), encoding="utf-8")
    assert f": {kind} must " in refused(path)


def test_a_suite_that_is_not_there_says_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError) as error:
        read_suite("mine.yaml")
    assert str(error.value) == f"there is no file mine.yaml in {tmp_path}"


def test_imports_register_what_a_suite_names(path, tmp_path):
    (tmp_path / "of_my_own.py").write_text(
        "from reelrl.algos.advantages import make_estimator, register_estimator\n"
        "Plain = type('Plain', (type(make_estimator('grpo')),), {'__module__': __name__})\n"
        "register_estimator('of_my_own')(Plain)\n",
        encoding="utf-8",
    )
    values = GOOD | {"imports": ["of_my_own.py"], "methods": ["grpo", "of_my_own"]}
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    suite = read_suite(str(path))
    assert suite.imports == (str(tmp_path / "of_my_own.py"),)
    assert list(suite.methods) == ["grpo", "of_my_own"]
