"""Every code block of every page runs, is parsed by what would run it, or builds what it describes.

Pages are run from top to bottom with one set of names, as a reader would. Blocks are made smaller
(`REDUCED`) where they take minutes or need a GPU; each replacement must find what it replaces.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import warnings
from pathlib import Path

import components
import environments
import presets
import pytest

from reelrl.rewards import Reward, register_reward

spec = importlib.util.spec_from_file_location("doc_blocks", Path(__file__).with_name("blocks.py"))
blocks = sys.modules["doc_blocks"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(blocks)

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
RUN_ELSEWHERE = {"envs.md", "interop.md", "judges.md"} | {
    f"estimators/{path.name}"
    for path in (DOCS / "estimators").glob("*.md")
    if path.stem != "README"
}
"""Pages whose Python other tests run: those of the room that a page is about."""

TRAINING = [
    ("prompts_per_iteration=4", "prompts_per_iteration=2"),
    ("group_size=8", "group_size=2"),
]
REDUCED = {
    "tutorial.md": [
        ("num_envs=64", "num_envs=4"),
        ("num_envs=16", "num_envs=4"),
        ("range(16)", "range(4)"),
        ("prompts_per_iteration=4", "prompts_per_iteration=2"),
        ("group_size=16", "group_size=2"),
        ("learn(10)", "learn(1)"),
    ],
    "howto/estimator.md": [("num_envs=32", "num_envs=4"), *TRAINING],
    "howto/gpus.md": TRAINING,
    "howto/wan.md": [
        ('device="cuda"', 'device="cpu"'),
        ("a cat walks on the grass, realistic style", "a red circle moving right"),
        ("waves break on a rocky shore", "a blue square moving left fast"),
        ("num_envs=8", "num_envs=2"),
        ("num_frames=33", "num_frames=5"),
        ("height=240", "height=32"),
        ("width=416", "width=48"),
        ("num_steps=16", "num_steps=4"),
        ("last_step=7", "last_step=2"),
        ("lora_rank=32", "lora_rank=2"),
        ("group_size=8", "group_size=2"),
        ("learn(2, progress=True)", "learn(1)"),
    ],
}


def written():
    return {str(path.relative_to(DOCS)): path.read_text() for path in DOCS.rglob("*.md")}


def generated():
    return environments.pages() | components.pages() | presets.pages()


def reduced(page, text):
    for old, new in REDUCED.get(page, []):
        assert old in text, f"{page} no longer holds {old!r}"
        text = text.replace(old, new)
    return text


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    warnings.simplefilter("ignore", DeprecationWarning)
    return tmp_path


def check(page, text, folder):
    names = {"__name__": "page"}
    # Before anything refers to it: a command may stand above the file that it reads.
    for block in sorted(blocks.blocks_of(text), key=lambda block: block.language != "yaml"):
        if block.language == "python":
            if page not in RUN_ELSEWHERE:
                blocks.run_python(block, page, names)
        elif block.language in ("bash", "sh", "shell", ""):
            blocks.check_shell(block, ROOT)
        elif block.language == "yaml":
            # Suites that ship are built by tests/zoo/benchmark/test_suite, which takes a while.
            if not page.startswith("presets/bench-"):
                blocks.check_yaml(block, folder)
        elif block.language == "json":
            json.loads(block.source)
        else:
            assert block.language == "text", f"{page}:{block.line}: what runs {block.language}?"


@pytest.mark.parametrize("page", [page for page in sorted(written()) if page != "howto/wan.md"])
def test_blocks_of_written_pages(page, workplace):
    check(page, reduced(page, written()[page]), workplace)


def test_blocks_of_the_wan_page_run_on_a_random_wan(workplace, wan_folder):
    @register_reward("brightness")
    class Brightness(Reward):
        name, bounds = "brightness", (0.0, 1.0)

        def score(self, videos, prompts, infos):
            return videos.flatten(1).mean(dim=1)

    (workplace / "Wan2.1-T2V-1.3B-Diffusers").symlink_to(wan_folder)
    check("howto/wan.md", reduced("howto/wan.md", written()["howto/wan.md"]), workplace)


def test_blocks_of_generated_pages(workplace):
    for page, text in generated().items():
        check(page, text, workplace)


def test_blocks_that_need_something_say_so():
    marked = blocks.blocks_of(written()["howto/wan.md"])
    assert all("needs a GPU" in block.info for block in marked if block.language == "python")


@pytest.mark.parametrize(
    "text, error",
    [
        ("```python\nimport reelrl.nothing\n```", ImportError),
        ("```python\n>>> 1 + 1\n3\n\n```", AssertionError),
        ("```bash\nreelrl train --iteratons 3\n```", SystemExit),
        ("```bash\nreelrl train --set learner.lerning_rate=1\n```", ValueError),
        ("```bash\nmake coffee\n```", AssertionError),
        ("```\nreelrl bench nothing\n```", ValueError),
        ("```bash\nfrobnicate\n```", AssertionError),
        ("    ```yaml\n    rewards: [nothing]\n    ```", ValueError),
        ("```ruby\n1\n```", AssertionError),
    ],
)
def test_a_planted_fault_is_found(text, error, workplace, capsys):
    with pytest.raises(error):
        check("planted.md", text, workplace)
