"""One registry for all that is found by name, and one hint for a misspelt name."""

import subprocess
import sys

import pytest

from reelrl.envs import kernels
from reelrl.envs.prompts import PROMPT_SETS, register_prompts, resolve_prompts
from reelrl.naming import Registry, nearest

DROPPED = {
    "reelrl.rewards": ("reelrl.rewards.base", "REWARDS"),
    "reelrl.rewards.image": ("reelrl.rewards.base", "REWARDS"),
    "reelrl.algos.advantages.methods": ("reelrl.algos.advantages.registry", "ESTIMATORS"),
    "reelrl.algos.learners": ("reelrl.algos.learners.base", "LEARNERS"),
    "reelrl.envs.models": ("reelrl.envs.models.base", "PIPELINES"),
}
"""Package -> module and name of the registry that finds a file in it."""


def test_the_hint_names_the_nearest_and_all_that_are_known():
    assert nearest("gropo", ["rloo", "grpo"]) == "; did you mean 'grpo'? Known: grpo, rloo"
    assert nearest("zzz", ["rloo", "grpo"]) == "; known: grpo, rloo"
    assert nearest("zzz", []) == "; known: none"


def test_a_registry_lists_by_name_and_refuses_a_taken_one():
    shapes = Registry("shape")

    @shapes.register("square")
    class Square:
        pass

    @shapes.register("circle")
    class Circle:
        pass

    assert list(shapes) == ["circle", "square"] and len(shapes) == 2
    assert shapes.find("square") is shapes["square"] is Square
    assert shapes.register("square")(Square) is Square
    with pytest.raises(ValueError, match=r"shape name 'square' is taken by .*Square"):
        shapes.register("square")(Circle)
    with pytest.raises(ValueError, match=r"unknown shape 'squar'; did you mean 'square'\? Known"):
        shapes.find("squar")


def test_an_isolated_registry_forgets_what_it_registered():
    shapes = Registry("shape")
    shapes.register("square")(int)
    shapes.register("circle")(str)
    with shapes.isolated(lambda entry: entry is int):
        shapes.register("line")(float)
        assert list(shapes) == ["line", "square"]
    assert list(shapes) == ["circle", "square"]


def test_every_file_of_a_registry_s_package_is_found(tmp_path):
    """A file with an entry, and one that is private and cannot be imported, in each package."""
    extend, read = [], []
    for number, (package, (module, registry)) in enumerate(DROPPED.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        text = f"from {module} import {registry}\n{registry}.register('dropped{number}')(int)\n"
        (folder / "dropped.py").write_text(text)
        (folder / "_private.py").write_text("raise ImportError('a library that is not there')")
        extend.append(f"import {module}, {package}; {package}.__path__.append({str(folder)!r})")
        read.append(f"assert 'dropped{number}' in {module}.{registry}, list({module}.{registry})")
    code = "\n".join(extend + read)
    subprocess.run([sys.executable, "-c", code], check=True, cwd="/")


def test_a_name_of_the_library_is_taken_before_the_library_is_read():
    code = """
from reelrl.rewards.base import Reward, register_reward
try:
    register_reward("gold")(type("Mine", (Reward,), {}))
except ValueError as error:
    assert "reward name 'gold' is taken by" in str(error), error
else:
    raise SystemExit("no error")
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd="/")


def test_a_package_that_fails_halfway_is_read_again(tmp_path, monkeypatch):
    package = tmp_path / "half_read"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "broken.py").write_text("raise RuntimeError('half')")
    monkeypatch.syspath_prepend(str(tmp_path))
    names = Registry("name", "half_read")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="half"):
            list(names)


def test_a_kernel_and_a_prompt_set_of_ones_own():
    with kernels.KERNELS.isolated(), PROMPT_SETS.isolated():

        @kernels.register_kernel("still")
        class Still(kernels.ODE):
            pass

        register_prompts("two")(lambda: ["a red circle", "a blue square"])
        assert type(kernels.make_kernel("still")) is Still
        assert resolve_prompts("two") == ("a red circle", "a blue square")
    assert "still" not in kernels.KERNELS and "two" not in PROMPT_SETS


def test_a_class_that_is_defined_again_replaces_itself_and_no_other():
    registry = Registry("thing")

    def define():
        class Mine:
            pass

        return Mine

    first, again = define(), define()
    registry.register("mine")(first)
    registry.register("mine")(again)
    assert registry["mine"] is again
    with pytest.raises(ValueError, match="thing name 'mine' is taken by"):
        registry.register("mine")(int)


@pytest.mark.parametrize(
    "read", [lambda r: r.find("a"), lambda r: r["a"], list, len], ids=["find", "get", "iter", "len"]
)
def test_a_package_is_imported_when_its_names_are_first_asked_for(tmp_path, monkeypatch, read):
    package = tmp_path / "shelf_of_names"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from reelrl.naming import Registry\nSHELF = Registry('thing', __name__)\n"
    )
    (package / "one.py").write_text("from shelf_of_names import SHELF\nSHELF.register('a')('A')\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.startswith("shelf_of_names")]:
        monkeypatch.delitem(sys.modules, name)
    from shelf_of_names import SHELF

    assert "shelf_of_names.one" not in sys.modules
    assert read(SHELF) in ("A", ["a"], 1)
    assert list(SHELF) == ["a"]
