"""The code blocks of a Markdown page, and what it takes to run one of each kind."""

from __future__ import annotations

import doctest
import re
import shlex
import textwrap
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import yaml

from reelrl.envs.scoring import RewardList
from reelrl.zoo import cli
from reelrl.zoo.benchmark.check import check
from reelrl.zoo.benchmark.design import list_suites, read_suite
from reelrl.zoo.settings import TrainConfig, build, override, read_preset

FENCE = re.compile(
    r"^(?P<indent> *)(?P<fence>`{3,}|~{3,})(?P<language>[\w-]*)(?P<info>[^\n]*)\n"
    r"(?P<body>.*?)^(?P=indent)(?P=fence) *$",
    re.MULTILINE | re.DOTALL,
)
FILE = re.compile(r"# ([\w-]+\.yaml)\b")
COMMANDS = ("reelrl", "make", "accelerate", "python", "source", "hf", "pip", "tensorboard")


@dataclass(frozen=True)
class Block:
    language: str
    info: str
    source: str
    line: int


def blocks_of(text):
    return [
        Block(
            match["language"],
            match["info"].strip(),
            textwrap.dedent(match["body"]),
            text.count("\n", 0, match.start()) + 1,
        )
        for match in FENCE.finditer(text)
    ]


def run_python(block, page, names):
    """Run it as it stands, or as the session that it shows; names live on from block to block."""
    where = f"{page}:{block.line}"
    if block.source.lstrip().startswith(">>>"):
        flags = doctest.NORMALIZE_WHITESPACE
        test = doctest.DocTestParser().get_doctest(block.source, names, where, page, block.line)
        report = []
        runner = doctest.DocTestRunner(optionflags=flags)
        runner.run(test, out=report.append, clear_globs=False)
        # The parser runs on a copy of the names.
        names.update(test.globs)
        assert not runner.failures, "".join(report)
        return
    exec(compile(block.source, where, "exec", dont_inherit=True), names)


def check_shell(block, root):
    """Every line is a command that exists, with arguments that it takes."""
    source = block.source.replace("\\\n", " ")
    for line in source.splitlines():
        words = shlex.split(line, comments=True)
        if words and words[0].removeprefix(".venv/bin/") in COMMANDS:
            words[0] = words[0].removeprefix(".venv/bin/")
            check_command(words, root)
        elif words:
            assert not block.language, f"unknown command: {line}"


def check_command(words, root):
    match words:
        case ["reelrl", *arguments]:
            check_reelrl(arguments)
        case ["make", *targets]:
            rules = (root / "Makefile").read_text()
            assert targets and all(f"\n{target}: " in rules for target in targets), words
        case ["accelerate", "launch", *rest]:
            from accelerate.commands.launch import launch_command_parser

            split = rest.index("-m")
            launch_command_parser().parse_args([*rest[:split], "-m", "reelrl"])
            assert rest[split + 1] == "reelrl"
            check_reelrl(rest[split + 2 :])
        case ["python", path, *_] if path.endswith(".py"):
            assert (root / path).is_file(), words
        case ["python", "-m", module, *_]:
            assert module.startswith("reelrl"), words
        case ["python", "-c", code, *_]:
            compile(code, "-c", "exec")
        case _:
            assert words[0] in ("source", "hf", "pip", "tensorboard"), words


def check_reelrl(arguments):
    """The real parser takes the line; what it would run is built and not run."""
    seen = []
    originals = {
        kind: kind.run
        for kind in vars(cli).values()
        if isinstance(kind, type) and "run" in vars(kind)
    }
    assert originals
    try:
        for kind in originals:
            kind.run = lambda self: seen.append(self)
        cli.main(arguments)
    finally:
        for kind, run in originals.items():
            kind.run = run
    (command,) = seen
    if isinstance(command, cli.Train):
        build(TrainConfig, override(read_preset(command.preset), tuple(chain(*command.set))))
    if isinstance(command, cli.Bench) and command.suite not in list_suites():
        read_suite(command.suite)


def check_yaml(block, folder: Path):
    """A file that the block names is written; whatever it describes can be built."""
    values = yaml.safe_load(block.source)
    name = FILE.match(block.source)
    path = folder / (name[1] if name else "unnamed.yaml")
    path.write_text(block.source)
    if not isinstance(values, dict):
        return
    if "seeds" in values:
        suite = read_suite(str(path))
        assert list(suite.runs())
        check(suite, suite.runs())
    elif "learner" in values or "estimator" in values:
        build(TrainConfig, values)
    elif set(values) == {"rewards"}:
        assert RewardList(values["rewards"]).names
