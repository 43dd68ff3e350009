"""Breaks runs, results and settings at random, and asks whether anything wrong was believed.

```
python tests/chaos.py                        # 300 trials of all kinds, a few minutes
python tests/chaos.py --trials 1000 --only results --seed 7
```

A trial survives if its result equals the result of an undisturbed run, or if the damage was told in
one line. Each trial follows from seed, kind and number, and a failure is printed with all three.

| kind | what is done | what must hold |
|---|---|---|
| kill | kill -9 of a training, then the same command | metrics and weights of an undisturbed run |
| stop | SIGTERM of a training, then the same command | the same, and exit code 143 |
| checkpoint | a bit flipped or an end cut off, in any file | older sound numbers, or one error |
| results | the same in a folder of results | the same page, or the damage is named |
| settings | a suite or a preset, mutated | it is read, or one line at once |
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from safetensors.torch import load_file

from reelrl.algos.run.checkpoint import (
    CheckpointError,
    list_checkpoints,
    load_checkpoint,
    load_latest,
)
from reelrl.algos.run.runlog import read_metrics
from reelrl.zoo.benchmark.design import SUITES, list_suites, read_suite
from reelrl.zoo.benchmark.report.markdown import results_page
from reelrl.zoo.benchmark.report.numbers import measure
from reelrl.zoo.benchmark.report.reading import read_results
from reelrl.zoo.settings import PRESETS, TrainConfig, build, read_preset
from reelrl.zoo.train import train

ROOT = Path(__file__).resolve().parents[1]
ITERATIONS = 4
TINY = (
    "env_args.num_steps=2", "learner.prompts_per_iteration=1", "learner.group_size=2",
    "learner.rollout.last_step=0", "learner.save_every=1", "evaluation.clips=1",
)  # fmt: skip
SHARES = {"kill": 0.05, "stop": 0.03, "checkpoint": 0.3, "results": 0.3, "settings": 0.32}
"""Of the trials: a killed training costs seconds, the others a tenth of one."""
SLOWEST = 5.0
"""Seconds in which a text is read or refused."""


@dataclass(frozen=True)
class World:
    """What is broken: a run that nothing disturbed, and results."""

    root: Path
    run: Path
    seconds: float
    results: Path
    page: str


def make_world(root: Path) -> World:
    """Train once, and copy committed results."""
    with open(os.devnull, "w", encoding="utf-8") as null, contextlib.redirect_stdout(null):
        # In this process, so that whatever a training imports is there in every fork.
        train(settings=TINY, iterations=ITERATIONS, out=root / "whole", progress=False)
    started = time.monotonic()
    status = wait_for(begin(root / "again"))
    seconds = time.monotonic() - started
    wrong = f"ended with {status}" if status else differences(root / "again", root / "whole")
    assert not wrong, f"the undisturbed run {wrong}"
    results = root / "results"
    unread = shutil.ignore_patterns("*.html", "*.png", "clips", "RESULTS.md")
    shutil.copytree(ROOT / "zoo" / "results" / "quick", results, ignore=unread)
    return World(root, root / "whole", seconds, results, page_of(results))


def page_of(folder: Path) -> str:
    """The tables that a folder of results makes."""
    return results_page(measure(read_results(folder)))


def begin(folder: Path) -> int:
    """Id of a process that trains in a folder, forked from this one with everything imported."""
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    code = 1
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        torch.set_num_threads(1)
        train(settings=TINY, iterations=ITERATIONS, out=folder, progress=False)
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        os._exit(code)


def wait_for(pid: int) -> int:
    """Exit code of a process, negative for the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def differences(run: Path, whole: Path) -> str:
    """How a run differs from an undisturbed one; empty if in nothing but time."""
    curves = [
        [{k: v for k, v in row.items() if not k.startswith("time/")} for row in read_metrics(path)]
        for path in (run, whole)
    ]
    if curves[0] != curves[1]:
        return f"other metrics: {[row['iteration'] for row in curves[0]]}"
    weights = [load_file(next((path / "weights").rglob("*.safetensors"))) for path in (run, whole)]
    other = [k for k, tensor in weights[1].items() if not torch.equal(weights[0][k], tensor)]
    return f"other weights: {other[:3]}" if other else ""


def interrupt(world: World, rng: random.Random, number: int) -> str:
    """Signal a training at a random moment, once or twice, and let it go on."""
    folder = world.root / "interrupted"
    shutil.rmtree(folder, ignore_errors=True)
    for _ in range(rng.choice([1, 1, 2])):
        pid = begin(folder)
        time.sleep(rng.uniform(0, world.seconds))
        os.kill(pid, number)
        status = wait_for(pid)
        # Before the training begins, and after its end, a signal has its usual effect.
        if status not in (0, -number, 143):
            return f"ended with {status}"
    if (status := wait_for(begin(folder))) != 0:
        return f"did not go on: {status}"
    return differences(folder, world.run)


def kill(world: World, rng: random.Random) -> str:
    """See the table above."""
    return interrupt(world, rng, signal.SIGKILL)


def stop(world: World, rng: random.Random) -> str:
    """See the table above."""
    return interrupt(world, rng, signal.SIGTERM)


def spoil(path: Path, rng: random.Random) -> bytes:
    """Damage a file, and return what it was."""
    raw = path.read_bytes()
    place = rng.randrange(max(1, len(raw)))
    if rng.random() < 0.7 and raw:
        bad = bytearray(raw)
        bad[place] ^= 1 << rng.randrange(8)
    else:
        bad = bytearray(raw[:place])
    path.write_bytes(bad)
    return raw


def checkpoint(world: World, rng: random.Random) -> str:
    """See the table above."""
    root = world.run / "checkpoints"
    known = {load_checkpoint(f).iteration: load_checkpoint(f) for f in list_checkpoints(root)}
    files = sorted(path for path in root.rglob("*") if path.is_file())
    # Every bit of the small files says more than one of the large ones.
    small = [path for path in files if path.suffix != ".safetensors"]
    path = rng.choice(rng.choice([files, small]))
    before = spoil(path, rng)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = load_latest(root)
    except CheckpointError as error:
        return "" if "\n" not in str(error) else f"several lines: {error}"
    except Exception as error:
        return f"{path.name}: {type(error).__name__}: {error}"
    finally:
        path.write_bytes(before)
    expected = known.get(found.iteration)
    if expected is None or found.facts != expected.facts:
        return f"{path.name}: other facts were believed"
    if found.tensors.keys() != expected.tensors.keys():
        return f"{path.name}: other files were believed"
    for name, tensors in expected.tensors.items():
        if tensors.keys() != found.tensors[name].keys() or not all(
            torch.equal(found.tensors[name][key], tensor) for key, tensor in tensors.items()
        ):
            return f"{path.name}: other tensors were believed"
    return ""


def results(world: World, rng: random.Random) -> str:
    """See the table above."""
    path = rng.choice(sorted(path for path in world.results.iterdir() if path.is_file()))
    before = spoil(path, rng)
    try:
        found = read_results(world.results)
        told = found.damage.lines(world.results) or found.damage.remark(world.results)
        return "" if told or page_of(world.results) == world.page else f"{path.name}: not noticed"
    except ValueError as error:
        return "" if "\n" not in str(error) else f"several lines: {error}"
    except Exception as error:
        return f"{path.name}: {type(error).__name__}: {error}"
    finally:
        path.write_bytes(before)


WORDS = (
    "", "~", "-1", "0", ".nan", ".inf", "1e400", "[]", "{}", "[[", "}", ": ", "- ", "&a ", "*a",
    "!!x ", "|\n", '"', "'", "#", "\t", "\0", "---\n", "\n", "../x", "2024-01-01", "yes", "é",
    "9" * 5000,
)  # fmt: skip


def mutated(text: str, rng: random.Random) -> str:
    """A text with a few things in it changed."""
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(text) + 1)
        end = min(len(text), start + rng.choice([0, 0, 1, 3, 12, 60]))
        lines = text.splitlines(keepends=True)
        word = rng.choice([*WORDS, rng.choice(lines) if lines else "", text[start:end]])
        text = text[:start] + word + text[end:]
    return text


def settings(world: World, rng: random.Random) -> str:
    """See the table above."""
    suites = [SUITES / f"{name}.yaml" for name in list_suites()]
    source = rng.choice([*suites, *sorted(PRESETS.glob("*.yaml"))])
    path = world.root / "mutated.yaml"
    raw = mutated(source.read_text(encoding="utf-8"), rng).encode()
    path.write_bytes(raw if rng.random() < 0.8 else raw.replace(b"e", b"\xe4", 1))
    started = time.monotonic()
    try:
        if source.parent == SUITES:
            read_suite(str(path))
        else:
            build(TrainConfig, read_preset(str(path)))
    except ValueError as error:
        if len(str(error).splitlines()) > 1:
            return f"{source.stem}: several lines: {error}"
    except Exception as error:
        return f"{source.stem}: {type(error).__name__}: {error}"
    took = time.monotonic() - started
    return f"{source.stem}: took {took:.0f} s" if took > SLOWEST else ""


TRIALS: dict[str, Callable[[World, random.Random], str]] = {
    "kill": kill, "stop": stop, "checkpoint": checkpoint, "results": results, "settings": settings,
}  # fmt: skip


def run(trials: int, seed: int = 0, only: Sequence[str] = ()) -> dict[str, list[str]]:
    """Failures by kind, as they are printed, and a line for each kind.

    Args:
        trials: of all kinds.
        seed: of all that is random.
        only: kinds; all if empty.
    """
    shares = {kind: share for kind, share in SHARES.items() if not only or kind in only}
    failed: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        world = make_world(Path(folder))
        print(f"{'kind':12}{'tried':>7}{'survived':>10}{'failed':>8}")
        for kind, share in shares.items():
            count = max(1, round(trials * share / sum(shares.values())))
            failed[kind] = []
            for number in range(count):
                wrong = TRIALS[kind](world, random.Random(f"{seed} {kind} {number}"))
                if wrong:
                    failed[kind].append(f"{kind} {number} of seed {seed}: {wrong[:200]}")
            lost = len(failed[kind])
            print(f"{kind:12}{count:7}{count - lost:10}{lost:8}", flush=True)
    for lines in failed.values():
        for line in lines:
            print(line)
    return failed


def main() -> None:
    """Run what the command line asks for; exit code 1 if a trial failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=list(TRIALS), default=[])
    given = parser.parse_args()
    torch.set_num_threads(1)
    raise SystemExit(any(run(given.trials, given.seed, given.only).values()))


if __name__ == "__main__":
    main()
