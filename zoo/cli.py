"""The ``reelrl`` command: each sub-command parses its options and calls one function."""

from __future__ import annotations

import argparse
import importlib
import math
import os
import shlex
import sys
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

import reelrl
from reelrl.zoo.door import door

REPORTS = {
    "attacks": "reelrl.zoo.documents.attacks",
    "distinct-groups": "reelrl.zoo.documents.distinct_groups",
    "estimator-pages": "reelrl.zoo.documents.estimator_pages",
    "nano": "reelrl.zoo.documents.nano_page",
    "rewards": "reelrl.zoo.documents.reward_page",
    "taros-saturation": "reelrl.zoo.documents.taros_saturation",
}
"""Report name -> module; each has ``main(out: Path | None) -> None`` that prints it."""

WRITERS = {
    "suite.json": "reelrl.zoo.benchmark.report.write",
    "ablation.csv": "reelrl.zoo.shipped.soli.ablation_page",
}
"""File that tells what a folder of results holds -> module; each has ``report(folder)``, which
writes the folder's pages and returns their paths."""

LISTS = {
    "estimators": "reelrl.zoo.documents.estimator_list",
    "rewards": "reelrl.zoo.documents.reward_list",
    "models": "reelrl.zoo.documents.model_list",
    "settings": "reelrl.zoo.documents.settings_list",
}
"""Name of a list -> module with ``main()``, and with ``detail(name)`` where one entry has more to
tell than its line."""


Settings = Annotated[tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction]
"""Values of all ``--set`` options: of a plain tuple the parser keeps the last option alone."""


@dataclass(frozen=True)
class Sample:
    """Draw a clip from a caption, write GIF and PNG strip, print its gold axes."""

    prompt: str = "a red circle moving right"
    """Caption; MovingShapes words for the nano models."""
    model: str = "nano"
    """Name of a shipped model, the folder of a pipeline, or the folder of a run of reelrl train."""
    out: Path = Path("clip.gif")
    """GIF to write; the strip goes beside it with the ending .png."""
    num_steps: int | None = None
    """Denoising steps; default as in the run, or 10."""
    guidance_scale: float | None = None
    """Classifier-free guidance; default the run's, or 1, which means none."""
    seed: int = 0
    """Seed of the initial noise."""
    base: str | None = None
    """Base model of a run, if it is not where it was."""

    def run(self) -> None:
        """Write the clip and print its gold axes."""
        from reelrl.zoo.sample import sample

        sample(
            self.prompt,
            model=self.model,
            out=self.out,
            num_steps=self.num_steps,
            guidance_scale=self.guidance_scale,
            seed=self.seed,
            base=self.base,
        )


@dataclass(frozen=True)
class Eval:
    """Score a model, or a run beside its base, on clips of prompts that training leaves out."""

    model: Annotated[str, tyro.conf.Positional]
    """Name of a shipped model, the folder of a pipeline, or the folder of a run of reelrl train."""
    rewards: tuple[str, ...] = ("gold",)
    """Rewards to score by."""
    prompts: str = "moving_shapes/compositional"
    """Name of a prompt set."""
    clips: int = 64
    """Number of clips; the prompts are taken in order, each as often as the others."""
    seed: int = 0
    """Seed of the first clip's noise."""
    num_steps: int | None = None
    """Denoising steps; default as in the run, or 10."""
    guidance_scale: float | None = None
    """Classifier-free guidance; default the run's, or 1, which means none."""
    base: str | None = None
    """Base model of a run, if it is not where it was."""
    device: str = "cpu"
    """Where the model goes."""

    def run(self) -> None:
        """Print means and intervals."""
        from reelrl.zoo.arguments import check_device
        from reelrl.zoo.evaluate import evaluate

        check_device(self.device, "--device")
        print("\n".join(evaluate(**vars(self))))


@dataclass(frozen=True)
class Train:
    """Post-train a model by reinforcement, or go on with the run of a folder."""

    preset: str = "nano-quick"
    """Name of a preset, or a yaml file of the same form."""
    estimator: str | None = None
    """Advantage estimator in place of the preset's, such as taros or gdpo@trl."""
    env: str | None = None
    """Environment id in place of the preset's."""
    iterations: int | None = None
    """Iterations in all, in place of the preset's."""
    seed: int | None = None
    """Seed in place of the preset's."""
    set: Settings = ()
    """Further settings, such as learner.learning_rate=1e-4 policy.lora_rank=8; the list of all is
    below."""
    out: Path | None = None
    """Folder of the run; default runs/<preset>-<estimator>-<seed>."""

    def run(self) -> None:
        """Train, and print where the results are."""
        from reelrl.zoo.train import train

        train(
            self.preset,
            estimator=self.estimator,
            env=self.env,
            iterations=self.iterations,
            seed=self.seed,
            settings=tuple(chain(*self.set)),
            out=self.out,
        )


@dataclass(frozen=True)
class TrainReward:
    """Train a SoliReward model on Pass/Fail labels, or run its ablations."""

    preset: str = "rewards/solireward"
    """Name of a preset, or a yaml file of the same form."""
    backbone: str | None = None
    """Folder of the frozen model under the head, in place of the preset's."""
    dimension: Literal["fid", "phys", "align"] | None = None
    """Gold axis to judge, in place of the preset's."""
    head: Literal["hpqa", "mean_pool", "last_token", "yes_logit"] | None = None
    """Head in place of the preset's."""
    loss: Literal["bt", "paper", "code", "btt"] | None = None
    """Loss in place of the preset's."""
    seed: int | None = None
    """Seed in place of the preset's."""
    set: Settings = ()
    """Further settings, such as epochs=20 data.train=4096."""
    ablation: Literal["heads", "losses", "all"] | None = None
    """Compare heads, losses or both instead; what is in the results is not run again."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of an ablation."""
    out: Path | None = None
    """Folder of the reward model, or of an ablation's models; default below runs/solireward."""
    results: Path = Path("runs/solireward/results")
    """Folder of an ablation's table and page."""

    def run(self) -> None:
        """Train, and print the held-out numbers or where the page is."""
        from reelrl.zoo.shipped.soli.command import train_reward

        given = {key: getattr(self, key) for key in ("backbone", "head", "loss", "seed")}
        train_reward(
            self.preset,
            given | {"dimension": self.dimension},
            settings=tuple(chain(*self.set)),
            ablation=self.ablation,
            seeds=self.seeds,
            out=self.out,
            results=self.results,
        )


@dataclass(frozen=True)
class Bench:
    """Run a benchmark: estimators against each other, by scenario and paired seed."""

    suite: Annotated[str, tyro.conf.Positional] = "quick"
    """Name of a suite (quick, standard, full, learning, pilot, solireward), or a yaml file of the
    same form."""
    out: Path | None = None
    """Folder of the runs; default runs/bench/<suite>. A killed benchmark goes on from there."""
    results: Path | None = None
    """Folder of tables and report; default <out>/results. Runs that are in it are not repeated."""
    jobs: int | None = None
    """Runs at a time, one core each; default all cores."""

    def run(self) -> None:
        """Run what is missing, and print where the report is."""
        from reelrl.algos.run.signals import telling
        from reelrl.zoo.benchmark.design import read_suite
        from reelrl.zoo.benchmark.report.write import report, summary
        from reelrl.zoo.benchmark.runner import bench
        from reelrl.zoo.folders import writable

        suite = read_suite(self.suite)
        out = self.out or Path("runs") / "bench" / suite.name
        results = self.results or out / "results"
        command = f"{_program()} bench {shlex.quote(self.suite)}"
        going_on = telling(f"stopped; the same command goes on from {out}")
        with writable(out), writable(results), going_on:
            failures = bench(suite, out, results, jobs=self.jobs, command=command)
        for run, error in failures:
            print(f"failed: {run.path}: {error}", file=sys.stderr)
        paths = report(results)
        print("\n".join(summary(results)))
        for path in paths:
            print(f"wrote {path}")
        if failures:
            raise SystemExit(1)


@dataclass(frozen=True)
class Report:
    """Print a generated table, or write the pages of a benchmark into its folder of results."""

    name: Annotated[str, tyro.conf.Positional]
    """Folder of results, such as zoo/results/quick, or one of: attacks, distinct-groups,
    estimator-pages, nano, rewards, taros-saturation. If a part of the results is damaged, the pages
    have the rest, and the exit code is 1."""
    out: Path | None = None
    """Folder to write a table to, besides printing."""

    def run(self) -> None:
        """Write the pages, or print the table."""
        if self.name in REPORTS:
            importlib.import_module(REPORTS[self.name]).main(self.out)
            return
        if not Path(self.name).is_dir():
            shipped = "; committed results are in a checkout, below zoo/results, and in no wheel"
            raise ValueError(
                f"unknown report {self.name!r}: no folder of results, and none of "
                f"{', '.join(REPORTS)}{shipped if 'results' in self.name else ''}"
            )
        if self.out is not None:
            raise ValueError("a benchmark's pages go beside its numbers; leave out --out")
        for path in write_pages(Path(self.name)):
            print(f"wrote {path}")
        if _is_damaged(Path(self.name)):
            raise SystemExit(1)


@dataclass(frozen=True)
class List:
    """List what is registered."""

    # The choices are known at run time only, which a checker cannot follow.
    what: Annotated[Literal[tuple(LISTS)], tyro.conf.Positional]  # type: ignore[valid-type]
    """Name of a registry; ``settings`` lists the settings of a training run."""
    name: Annotated[str | None, tyro.conf.Positional] = None
    """An estimator, whose settings are printed, or a preset, whose values the settings have."""

    def run(self) -> None:
        """Print the list, or the details of one entry."""
        module = importlib.import_module(LISTS[self.what])
        if self.name is None:
            module.main()
        elif hasattr(module, "detail"):
            module.detail(self.name)
        else:
            raise ValueError(f"list {self.what} takes no name, got {self.name!r}")


def _program() -> str:
    """How this command was started: by its name, or by a script that registers its own things."""
    script = Path(sys.argv[0])
    return (
        "reelrl" if script.stem in ("reelrl", "__main__") else f"python {shlex.quote(script.name)}"
    )


def _is_damaged(folder: Path) -> bool:
    """True if a part of a benchmark's results is not as it was written."""
    from reelrl.zoo.benchmark.columns import SUITE
    from reelrl.zoo.benchmark.seals import find_damage, read_facts

    return (folder / SUITE).is_file() and bool(
        find_damage(folder, read_facts(folder)).lines(folder)
    )


def _parse(arguments: list[str]) -> Any:
    """The command with its options; a call for help ends here."""
    try:
        return tyro.extras.subcommand_cli_from_dict(
            {
                "train": Train,
                "train-reward": TrainReward,
                "sample": Sample,
                "eval": Eval,
                "bench": Bench,
                "report": Report,
                "list": List,
            },
            prog="reelrl",
            description="Text-to-video generation as a Gymnasium environment with vector rewards.",
            args=arguments,
        )
    except SystemExit as stop:
        if stop.code and arguments[:1] == ["train"]:
            _hint_at_settings(arguments)
        if not stop.code and arguments[:1] == ["train"]:
            # Here and not in the option's help: only who asks for it waits for torch to load.
            from reelrl.zoo.documents.settings_list import help_text

            print(help_text(_preset(arguments)))
        raise


def _preset(arguments: list[str]) -> str:
    """The preset that a call for help names, or the default one."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--preset", default=Train.preset)
    return str(parser.parse_known_args(arguments)[0].preset)


def write_pages(folder: Path) -> list[Path]:
    """Write the pages of a folder of results and return them.

    Raises:
        ValueError: if the folder holds no results.
    """
    for file, module in WRITERS.items():
        if (folder / file).is_file():
            paths: list[Path] = importlib.import_module(module).report(folder)
            return paths
    raise ValueError(f"{folder} is no results folder: it has none of {', '.join(WRITERS)}")


def _check_numbers(command: Any) -> None:
    for name, value in vars(command).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"--{name.replace('_', '-')} must be finite, got {value}")


def _hint_at_settings(arguments: list[str]) -> None:
    """Tell who gives a setting as an option of its own how it is set."""
    from reelrl.zoo.settings import TrainConfig, find_setting

    for argument in arguments:
        name = argument.partition("=")[0].removeprefix("--").replace("-", "_")
        key = find_setting(TrainConfig, name) if argument.startswith("--") else ""
        if key and name not in Train.__dataclass_fields__:
            print(
                f"reelrl: {argument.partition('=')[0]} is set by --set {key}=VALUE", file=sys.stderr
            )


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and run it; a bad value ends with one line and exit code 2."""
    # Read when transformers is imported: a bar per loaded component would drown what we print.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    with door() as streams:
        arguments = sys.argv[1:] if argv is None else argv
        if arguments == ["--version"]:
            print(f"reelrl {reelrl.__version__}")
            return
        command = _parse(arguments)
        _check_numbers(command)
        command.run()
        if isinstance(command, List):
            # Nothing but printing was asked for.
            streams.check()
