"""The house rules that a machine can check: floors, docstrings, light imports, a clean checkout."""

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import reelrl

ROOT = Path(__file__).resolve().parents[1]
FLOORS = ("rewards", "envs", "algos", "zoo")


def imported_floors(source: str) -> set[str]:
    """Floors that a module's source imports from, at the top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            parts = name.split(".")
            if parts[0] == "reelrl" and len(parts) > 1 and parts[1] in FLOORS:
                found.add(parts[1])
    return found


def climbs(floor: str, source: str) -> set[str]:
    """Floors above ``floor`` that the source imports."""
    return imported_floors(source) & set(FLOORS[FLOORS.index(floor) + 1 :])


@pytest.mark.parametrize("floor", FLOORS)
def test_imports_only_go_down(floor):
    files = list((ROOT / floor).rglob("*.py"))
    assert files
    bad = {str(f.relative_to(ROOT)): climbs(floor, f.read_text()) for f in files}
    assert {name: up for name, up in bad.items() if up} == {}


def test_a_planted_climb_is_caught():
    assert climbs("rewards", "def f():\n    from reelrl.envs.models import VideoModel") == {"envs"}
    assert climbs("envs", "import reelrl.algos.advantages") == {"algos"}
    assert climbs("algos", "from reelrl import zoo") == {"zoo"}
    assert climbs("zoo", "import reelrl.rewards") == set()


WINGS = ("benchmark.report", "benchmark", "shipped", "documents", "speed")
"""Sub-packages of zoo, an inner one before the one it lies in."""


def sources():
    """Module name -> source of every file of the floors."""
    found = {}
    for floor in FLOORS:
        for path in (ROOT / floor).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            found[".".join(("reelrl", *parts))] = path.read_text()
    return found


def imports(found):
    """Module -> the modules it imports, at the top or inside of a function, for types or to run."""
    graph = {}
    for module, source in found.items():
        named = set()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    named.add(inner if inner in found else node.module)
        graph[module] = (named & set(found)) - {module}
    return graph


def circles(graph):
    """Sets of nodes that reach each other."""
    reach = {node: set(after) for node, after in graph.items()}
    changed = True
    while changed:
        changed = False
        for after in reach.values():
            more = set().union(*(reach.get(other, set()) for other in after)) - after
            changed |= bool(more)
            after |= more
    return {
        frozenset(other for other in after if node in reach.get(other, ()))
        for node, after in reach.items()
        if node in after
    }


def wings(graph):
    """The graph of zoo's sub-packages; its loose files are the roof over them."""

    def wing_of(module):
        inside = module.removeprefix("reelrl.zoo.") + "."
        return next((w for w in WINGS if inside.startswith(f"{w}.")), None)

    found = {wing: set() for wing in WINGS}
    for module, others in graph.items():
        wing = wing_of(module)
        if module.startswith("reelrl.zoo.") and wing:
            ours = {wing_of(o) for o in others if o.startswith("reelrl.zoo.")}
            found[wing] |= ours - {wing, None}
    return found


def test_no_modules_import_each_other_in_a_circle():
    assert circles(imports(sources())) == set()


def test_no_wings_of_the_zoo_import_each_other_in_a_circle():
    graph = wings(imports(sources()))
    assert graph["benchmark.report"] == {"benchmark"} and graph["shipped"]
    assert circles(graph) == set()


def test_a_planted_circle_is_caught():
    found = {
        "reelrl.envs": "",
        "reelrl.envs.a": "from reelrl.envs import b",
        "reelrl.envs.b": "def f():\n    import reelrl.envs.c",
        "reelrl.envs.c": "from reelrl.envs.a import g\nfrom reelrl.envs.d import h",
        "reelrl.envs.d": "import torch",
        "reelrl.zoo.benchmark.runner": "from reelrl.zoo.benchmark.report.write import report",
        "reelrl.zoo.benchmark.report.write": "from reelrl.zoo.shipped.page import write",
        "reelrl.zoo.shipped.page": "from reelrl.zoo.benchmark.design import Suite",
        "reelrl.zoo.benchmark.design": "",
    }
    graph = imports(found)
    assert circles(graph) == {frozenset(f"reelrl.envs.{name}" for name in "abc")}
    # No two of these modules import each other, and their packages do.
    assert circles(wings(graph)) == {frozenset({"benchmark", "benchmark.report", "shipped"})}
    assert circles({"x": {"x"}, "y": {"x"}}) == {frozenset({"x"})}


def twins(paths):
    """File names that occur more than once."""
    counts = Counter(path.name for path in paths)
    return {n for n, c in counts.items() if c > 1 and n not in ("__init__.py", "base.py")}


@pytest.mark.parametrize("floor", FLOORS)
def test_a_file_name_occurs_once_on_a_floor(floor):
    assert twins((ROOT / floor).rglob("*.py")) == set()


def test_planted_twins_are_caught():
    paths = ["a/train.py", "b/train.py", "a/base.py", "b/base.py", "a/__init__.py", "a/b.py"]
    assert twins(map(Path, paths)) == {"train.py"}


def modules():
    for info in pkgutil.walk_packages(reelrl.__path__, "reelrl."):
        if not info.name.endswith("__main__"):
            yield info.name
    for floor in FLOORS:
        package = importlib.import_module(f"reelrl.{floor}")
        yield package.__name__
        for info in pkgutil.walk_packages(package.__path__, f"reelrl.{floor}."):
            yield info.name


def undocumented(module):
    """Public classes, functions and methods defined in ``module`` that have no docstring."""
    if not module.__doc__:
        yield module.__name__
    for name, item in vars(module).items():
        if name.startswith("_") or getattr(item, "__module__", None) != module.__name__:
            continue
        if not (inspect.isclass(item) or inspect.isfunction(item)):
            continue
        if not inspect.getdoc(item):
            yield f"{module.__name__}.{name}"
        if inspect.isclass(item):
            for method, value in vars(item).items():
                function = getattr(value, "__func__", getattr(value, "fget", value))
                public = not method.startswith("_") and inspect.isfunction(function)
                if public and not inspect.getdoc(getattr(item, method)):
                    yield f"{module.__name__}.{name}.{method}"


@pytest.mark.parametrize("name", sorted(set(modules())))
def test_every_public_name_has_a_docstring(name):
    assert list(undocumented(importlib.import_module(name))) == []


def test_importing_reelrl_loads_neither_torch_nor_diffusers():
    code = (
        "import sys, reelrl; "
        "heavy = {'torch', 'diffusers', 'transformers'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd="/")


def test_importing_the_rewards_loads_no_model_library():
    code = (
        "import sys, reelrl.rewards; "
        "heavy = {'transformers', 'diffusers', 'PIL', 'safetensors', 'peft'} & set(sys.modules); "
        "assert not heavy, heavy; "
        "assert {'videoalign', 'vlm_judge', 'openai_judge'} <= set(reelrl.rewards.list_rewards())"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd="/")


def test_every_package_folder_is_installed():
    import tomllib

    listed = set(
        tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    )
    on_disk = {"reelrl"}
    for floor in FLOORS:
        for init in (ROOT / floor).rglob("__init__.py"):
            on_disk.add("reelrl." + ".".join(init.parent.relative_to(ROOT).parts))
    assert on_disk == listed


def test_no_machine_paths_in_the_repository():
    listing = subprocess.run(
        [
            "git",
            "ls-files",
            "*.py",
            "*.md",
            "*.toml",
            "*.txt",
            "*.yaml",
            "*.json",
            "Makefile",
            ".ci/run",
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    if listing.returncode:
        pytest.skip("not a git checkout")
    needles = ("/tmp" + "/w/", "/wo" + "rk/", "/ro" + "ot/")
    bad = [
        f
        for f in listing.stdout.split()
        if any(n in (ROOT / f).read_text(errors="ignore") for n in needles)
    ]
    assert bad == []
