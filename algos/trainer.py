"""Post-training of a video generator, readable from top to bottom.

One iteration: collect P groups of G clips, let the estimator turn their reward vectors into
advantages, and let the learner move the weights by them. Estimator and learner are swapped by name.

All that is random in iteration i follows from (seed, i); there is no generator whose state a
checkpoint could forget.
"""

from __future__ import annotations

import math
import shutil
import signal
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from reelrl.algos.adaptation import Adaptation
from reelrl.algos.advantages import AdvantageEstimator, AdvantageOutput, make_estimator
from reelrl.algos.callbacks import Callback, read_numbers, wants_to_end
from reelrl.algos.collect.collector import check_batch, collect
from reelrl.algos.collect.plan import make_plan
from reelrl.algos.collect.rollout import Rollout
from reelrl.algos.config import TrainerConfig, check_weights, config_from_dict
from reelrl.algos.evaluation import Examination
from reelrl.algos.learners.base import LEARNERS, Learner, Numbers, make_learner
from reelrl.algos.learners.update import LearnerWarning, TrainingError, Updater
from reelrl.algos.metrics import advantage_metrics, rollout_metrics
from reelrl.algos.policies.flow import FlowPolicy
from reelrl.algos.run.checkpoint import (
    Checkpoint,
    CheckpointWarning,
    list_checkpoints,
    load_latest,
    save_checkpoint,
    set_aside,
)
from reelrl.algos.run.console import progress_bar
from reelrl.algos.run.distributed import ALONE, Ranks
from reelrl.algos.run.ownership import owned_by
from reelrl.algos.run.resume import (
    check_branch,
    check_frozen,
    check_same_environment,
    check_same_policy,
    environment_facts,
    shift_of,
)
from reelrl.algos.run.runlog import METRICS, RunLog
from reelrl.algos.run.signals import Stopped, interruptible
from reelrl.algos.silence import NothingLearned, Silence, check_group_of_one
from reelrl.algos.supply import check_supply, rollout_for
from reelrl.ambient import own_settings, undisturbed
from reelrl.envs.protocol import denoising_batch
from reelrl.envs.rebuild import describe_env, rebuild_env
from reelrl.envs.sampling import initial_noise
from reelrl.envs.scoring import RewardError, RewardFacts, read_weights
from reelrl.envs.wrappers.action import takes_latents
from reelrl.envs.wrappers.scalar import scalar_weights_of

if TYPE_CHECKING:
    from jaxtyping import Float, Int

CHECKPOINTS = "checkpoints"
POLICY_GRADIENT = "policy_gradient"
"""The learner of checkpoints from before there were others."""
FACTS = ("config", "policy", "estimator", "env", "rewards", "best")
"""Facts that every checkpoint has, whatever its version."""
SHOWN = 4
"""Clips of a rollout in its picture."""


class Trainer:
    """The loop around a learner: collect, estimate, learn, adapt, log, save.

    ```python
    trainer = Trainer(env, FlowPolicy(env.unwrapped.model), "taros", folder="runs/a")
    trainer.learn(100)
    ```

    Args:
        env: the native batch with ``autoreset_mode="Disabled"``.
        policy: over the same model.
        estimator: a name for :func:`~reelrl.algos.advantages.make_estimator`, or an instance.
        learner: a name for :func:`~reelrl.algos.learners.make_learner`, built with ``config.loss``,
            or an instance.
        config: settings.
        folder: gets checkpoints, ``metrics.jsonl`` and TensorBoard files; None writes nothing.
        evaluation: examined before an iteration every so often, under ``eval/`` in the metrics.
        callbacks: look at every rollout, evaluation and update, add numbers to the metrics, and may
            end the run; see :class:`~reelrl.algos.callbacks.Callback`.
        ranks: processes that train together, each with a trainer of the same arguments and an
            environment of its own; from :func:`~reelrl.algos.run.distributed.launched`.

    Attributes:
        iteration: iterations done.
        learner: moves the weights.
        updater: optimizer steps, and the average of the weights.
        stopped_by: number of the signal that ended the last :meth:`learn` early; 0 if none did.

    Raises:
        ValueError: if estimator, learner and environment do not fit together, actions of the
            environment are no latents, the prompts cannot be shared out evenly, or the weights to
            train are below float32.
        TypeError: if the environment is not the batch of this library, or the settings belong to
            another learner.
    """

    Config: ClassVar[type[TrainerConfig]] = TrainerConfig

    @undisturbed
    def __init__(
        self,
        env: Any,
        policy: FlowPolicy,
        estimator: str | AdvantageEstimator = "grpo",
        learner: str | Learner = POLICY_GRADIENT,
        config: TrainerConfig | None = None,
        *,
        folder: str | Path | None = None,
        evaluation: Examination | None = None,
        callbacks: Sequence[Callback] = (),
        ranks: Ranks = ALONE,
    ) -> None:
        takes_latents(env)
        self.env, self.policy = env, policy.bind(env)
        self.evaluation, self.callbacks = evaluation, tuple(callbacks)
        self.config, self.ranks = config or self.Config(), ranks
        self.learner = (
            make_learner(learner, self.config.loss) if isinstance(learner, str) else learner
        )
        self._check_learner()
        self.config = replace(self.config, loss=self.learner.config)
        self.ranks.part(self.config.prompts_per_iteration, "prompts_per_iteration")
        self.estimator_name = estimator if isinstance(estimator, str) else None
        self.estimator: Any = make_estimator(estimator) if isinstance(estimator, str) else estimator
        self.folder = None if folder is None else Path(folder)
        base = denoising_batch(env)
        self.names = list(base.reward_names)
        given: Any = self.config.reward_weights
        if isinstance(given, Mapping):
            weights = tuple(read_weights(given, self.names).tolist())
            self.config = replace(self.config, reward_weights=weights)
        check_weights(self.config.reward_weights, self.names)
        self.estimator_state = self.estimator.init_state(self.names)
        self.adaptation = Adaptation(base.reward_components)
        self.learner.check(self.estimator, self.config.rollout)
        check_supply(self.estimator, self.config.rollout)
        clips = self.config.prompts_per_iteration * self.config.group_size
        self.rollout_config = self.learner.rollout(
            rollout_for(
                self.estimator,
                self.config.rollout,
                keep_all=clips if self.adaptation.learning else None,
            )
        )
        self._check_fit(env)
        self.learner.begin(policy)
        self.updater = Updater(policy, self.config, self.ranks)
        static = self.config.reward_weights
        counted = [True] * len(self.names) if static is None else [w != 0 for w in static]
        self.silence = Silence(self.names, counted, self.config.max_skipped)
        self.iteration = 0
        self.best = -math.inf
        self.stopped_by = 0
        self._resumed = False

    def _check_learner(self) -> None:
        """Refuse an instance that a checkpoint could not name, or whose settings are not these."""
        kind, config = type(self.learner), self.learner.config
        if LEARNERS.get(getattr(kind, "name", "")) is not kind:
            raise ValueError(
                f"expected a learner of a registered class, got a {kind.__name__}: put "
                "@register_learner on it, so that a checkpoint can name it"
            )
        if self.config.loss not in (None, config):
            raise ValueError(
                f"expected config.loss to be None or the settings of the learner, {config}, got "
                f"{self.config.loss}"
            )

    def _check_fit(self, env: Any) -> None:
        """Refuse settings that cannot fit the environment, before anything is drawn."""
        if (weights := scalar_weights_of(env)) is not None:
            raise ValueError(
                f"the environment weighs its rewards ({weights}), and a learner reads the vector: "
                "give the weights as learner.reward_weights, and none to the environment"
            )
        if self.config.group_size == 1:
            check_group_of_one(self.estimator, self.names, self.config.prompts_per_iteration)
        stochastic = self.policy.table.stochastic.tolist()
        plan = make_plan(self.rollout_config, stochastic, self.config.group_size, 0, 0)
        check_batch(
            env, self.config.prompts_per_iteration, self.config.group_size, plan, self.ranks
        )
        if "bounds" in self.estimator.requires and self.facts.signed_bounds() is None:
            raise ValueError(
                f"estimator {self.estimator.name!r} needs rewards with finite bounds, got "
                f"{dict(zip(self.names, self.facts.bounds, strict=True))}"
            )

    def learn(self, iterations: int, *, progress: bool = False) -> list[dict[str, float]]:
        """Train for some iterations more.

        Ctrl-C lets the iteration finish, saves and returns. SIGTERM, SIGHUP and SIGUSR1 do the same
        and raise :class:`~reelrl.algos.run.signals.Stopped`, which ends a script with exit code
        143. A second signal stops at once. A callback that returns False ends the run as Ctrl-C
        does.

        Args:
            iterations: how many.
            progress: show a bar with the time left and the mean rewards.

        Returns:
            One dict of metrics per iteration done, the same on every process.

        Raises:
            TrainingError: if nothing is learned (see :class:`~reelrl.algos.silence.Silence`), if
                more than ``max_skipped`` updates in a row had to be skipped, or if the policy
                cannot act any longer. The checkpoints from before are intact.
            FolderInUse: if another process trains in the folder.
            ValueError: if this run is a new one and the folder holds checkpoints of another.
            Stopped: after a signal that is not Ctrl-C.
        """
        with owned_by(self.ranks, self.folder), own_settings(gradients=True):
            return self._learn(iterations, progress)

    def _learn(self, iterations: int, progress: bool) -> list[dict[str, float]]:
        self._refuse_a_used_folder()
        self._begin()
        log = RunLog(self.folder if self.ranks.is_main else None, self.iteration)
        history, self.stopped_by = [], 0
        with interruptible() as interruption:
            for _ in (bar := progress_bar(iterations, progress and self.ranks.is_main)):
                metrics, ending = self._iterate_or_save(log)
                history.append(metrics)
                means = {name: f"{metrics[f'reward/{name}']:.3f}" for name in self.names}
                bar.set_postfix(means)
                # A signal may reach one process an iteration earlier than another.
                found = self.ranks.exchange((interruption.number, ending))
                self.stopped_by = max(number for number, _ in found)
                ending = bool(self.stopped_by) or any(asked for _, asked in found)
                self._save_if_due(metrics, ending, len(history) == iterations)
                if ending:
                    break
            # One that came during the last save.
            self.stopped_by = self.stopped_by or max(self.ranks.exchange(interruption.number))
        log.close()
        if self.stopped_by not in (0, signal.SIGINT):
            raise Stopped(self.stopped_by)
        return history

    def _begin(self) -> None:
        """Leave the branch that the run no longer follows, and say whose weights it starts from."""
        model = self.policy.model
        if model.trained_by not in (None, self.policy.token) and not self._resumed:
            warnings.warn(
                f"the weights of {model.name!r} were trained in this process by another policy, "
                "and this run goes on from them: open the model anew, or make each policy over a "
                "copy.deepcopy of it",
                LearnerWarning,
                stacklevel=4,
            )
        model.trained_by = self.policy.token
        if self.folder is None or not self.ranks.is_main:
            return
        root = self.folder / CHECKPOINTS
        if root.is_dir() and (aside := set_aside(root, self.iteration)):
            if (self.folder / METRICS).is_file():
                shutil.copy2(self.folder / METRICS, aside / METRICS)
            warnings.warn(
                f"going on from iteration {self.iteration}: newer checkpoints are in {aside} now",
                CheckpointWarning,
                stacklevel=4,
            )

    def _refuse_a_used_folder(self) -> None:
        """Of two runs in one folder the newer loses its checkpoints, and the older is resumed."""
        if self.folder is None or self.iteration or self._resumed:
            return
        if used := list_checkpoints(self.folder / CHECKPOINTS):
            raise ValueError(
                f"{self.folder} holds a run, with {used[-1].name} the last of {len(used)} "
                f"checkpoints: {type(self).__name__}.load it, or use another folder"
            )

    def _iterate_or_save(self, log: RunLog) -> tuple[dict[str, float], bool]:
        """An iteration; a run that ends in the middle of it keeps the iterations before."""
        state = self.estimator_state
        try:
            return self._iterate(log)
        except (NothingLearned, RewardError):
            # A reward may fail on one process alone, and the others would wait for it.
            if self.folder is not None and self.iteration and self.ranks.count == 1:
                self.estimator_state = state
                self.save(self.folder / CHECKPOINTS)
            raise

    def _iterate(self, log: RunLog) -> tuple[dict[str, float], bool]:
        """Numbers of an iteration, and whether a callback wants to end the run."""
        held_out = {}
        ending = False
        if self.evaluation and self.iteration % self.evaluation.every == 0:
            held_out = self.evaluation.metrics(self.policy, self.updater.ema)
            ending = wants_to_end([c.on_evaluation(self, held_out) for c in self.callbacks])
        started = time.perf_counter()
        rollout = self.collect()
        collected = time.perf_counter()
        output = self.estimate(rollout)
        estimated = time.perf_counter()
        metrics = rollout_metrics(rollout, self.names) | advantage_metrics(output, self.names)
        for callback in self.callbacks:
            metrics |= read_numbers(callback.on_rollout(self, rollout, output))
        observed = time.perf_counter()
        metrics |= self.update(rollout, output)
        updated = time.perf_counter()
        metrics |= self.adapt(rollout)
        finished = time.perf_counter()
        metrics |= held_out | {
            "time/rollout": collected - started,
            "time/estimate": estimated - collected,
            "time/update": updated - observed,
            "time/adapt": finished - updated,
        }
        metrics = self.ranks.mean(metrics)
        log.scalars(self.iteration, metrics)
        log.histogram(self.iteration, "advantage/values", torch.as_tensor(output.advantages))
        for k, name in enumerate(self.names):
            log.histogram(self.iteration, f"reward/values/{name}", rollout.rewards[:, k])
        shown = min(SHOWN, self.config.rollout.keep_videos)
        if rollout.videos is not None and shown:
            log.video(self.iteration, "rollout/clips", rollout.videos[:shown])
        self._check_policy()
        self.iteration += 1
        ended = wants_to_end([c.on_update(self, metrics) for c in self.callbacks])
        return metrics, ending or ended

    @torch.no_grad()
    def _check_policy(self) -> None:
        """Stop before weights that no clip can be made with become the newest checkpoint."""
        base = denoising_batch(self.env)
        noise = initial_noise(base.latent_shape, [0]).to(self.policy.model.device)
        level = torch.ones(1, dtype=torch.float32, device="cpu")
        prompt = torch.zeros(1, dtype=torch.int64, device="cpu")
        if not bool(self.policy.velocity(noise, level, prompt).isfinite().all()):
            raise TrainingError(
                f"the update of iteration {self.iteration} left a policy that cannot act: its "
                f"velocity is not finite (learning_rate is {self.config.learning_rate:g}); the "
                "last checkpoint is from before"
            )

    def collect(self) -> Rollout:
        """Clips of this iteration's prompts, by the weights that the learner draws with."""
        with self.learner.sampling(self.policy):
            return collect(
                self.env,
                self.policy,
                self.prompt_ids(self.iteration),
                self.config.group_size,
                self.rollout_config,
                seed=self.config.seed,
                iteration=self.iteration,
                ranks=self.ranks,
            )

    @undisturbed
    def estimate(self, rollout: Rollout) -> AdvantageOutput:
        """Advantages of a rollout; moves the estimator's state on."""
        batch = rollout.reward_batch(self.facts, weights=self._weights(), step=self.iteration)
        output: AdvantageOutput
        output, self.estimator_state = self.estimator(batch, self.estimator_state)
        return output

    @property
    def facts(self) -> RewardFacts:
        """Meaning of the K numbers of a reward vector."""
        return denoising_batch(self.env).reward_facts

    def _weights(self) -> Float[Tensor, " K"] | None:
        """(K,) float64 static weights, if there are any."""
        static = self.config.reward_weights
        return None if static is None else torch.tensor(static, dtype=torch.float64, device="cpu")

    def update(self, rollout: Rollout, output: AdvantageOutput) -> dict[str, float]:
        """Optimizer steps on a rollout, up to ``updates_per_iteration`` in each epoch."""
        with own_settings(gradients=True):
            return self._update(rollout, output)

    def _update(self, rollout: Rollout, output: AdvantageOutput) -> dict[str, float]:
        config = self.config
        # A callback may have examined the policy in another environment.
        self.policy.bind(self.env)
        objective = self.learner.objective(
            self.policy, rollout, output, self.estimator, seed=(config.seed, self.iteration)
        )
        active = objective.active()
        # Items without a signal count in the average and cost no forward pass.
        base = denoising_batch(self.env)
        # Where signals are short the remaining updates count for the missing ones; items are not.
        total = objective.weight() / min(config.updates_per_iteration, objective.num_items)
        self.silence(self.iteration, rollout, output, len(active), base.reward_failures)
        rate = self.updater.begin(self.iteration)
        seen: list[Numbers] = []
        first: list[Numbers] = []
        norms = []
        due = self.estimator.needs_component_gradients and self.estimator.solve_due(self.iteration)
        for epoch in range(config.epochs):
            order = active[self._shuffle(len(active), epoch)]
            for chunk in _parts(order, config.updates_per_iteration):
                feedback = self._feedback if due and not seen else None
                norm, parts = self.updater(objective, objective.own(chunk), total, feedback)
                self.learner.after_update(self.policy)
                norms.append(norm)
                first = first or parts
                seen += parts
        self.learner.after_iteration(self.policy)
        return objective.metrics(seen, first) | {
            "health/skipped_updates": float(self.updater.skipped),
            "health/micro_batch": float(self.updater.gradients.micro_batch),
            "train/active": len(active) / objective.num_items,
            "train/grad_norm": float(np.mean(norms)) if norms else 0.0,
            "train/learning_rate": rate,
            "train/updates": float(self.updater.updates),
        }

    def adapt(self, rollout: Rollout) -> dict[str, float]:
        """Let the rewards that learn along learn from a rollout.

        The estimator forgets the scale of each reward whose version changes, because a threshold or
        a mean over scores of two versions fits neither of them.
        """
        prompts = denoising_batch(self.env).prompts
        metrics, columns = self.adaptation(rollout, prompts, self.config.seed, self.iteration)
        changed = [self.names[column] for column in sorted(columns)]
        if changed:
            self.estimator_state = self.estimator.reset(self.estimator_state, self.names, changed)
        return metrics

    def prompt_ids(self, iteration: int) -> list[int]:
        """Prompts of an iteration: every pass over all of them is one shuffle."""
        count, wanted = len(denoising_batch(self.env).prompts), self.config.prompts_per_iteration
        places = range(iteration * wanted, (iteration + 1) * wanted)
        passes = {p: self._permutation(p, count) for p in {place // count for place in places}}
        return [int(passes[place // count][place % count]) for place in places]

    def save(self, folder: str | Path, *, best: bool = False) -> Path:
        """Write a checkpoint below ``folder`` and return its own folder.

        All processes must call it. The checkpoint does not depend on their number: the run goes on
        with any other.
        """
        tensors, facts = self.updater.state()
        learned, settled = self.learner.state()
        state = self.estimator.state_dict(self.estimator_state)
        tensors |= {
            "weights": self.policy.state_dict(),
            "reference": self.policy.reference_weights,
            "estimator": {name: torch.from_numpy(np.array(v)) for name, v in state.items()},
            "rewards": self.adaptation.state(),
            "learner": learned,
        }
        facts |= {
            "learner": {**settled, "name": self.learner.name},
            "config": asdict(self.config),
            "policy": self.policy.settings(),
            "estimator": self.estimator_name,
            "env": describe_env(self.env),
            "environment": environment_facts(self.env),
            "frozen": self.policy.frozen,
            "threads": torch.get_num_threads(),
            "silence": [self.silence.iterations, self.silence.unscored],
            "shift": denoising_batch(self.env).shift,
            "rewards": self.names,
            "best": self.best if math.isfinite(self.best) else None,
        }
        checkpoint = Checkpoint(self.iteration, tensors, facts)
        if self.ranks.is_main:
            save_checkpoint(Path(folder), checkpoint, keep=self.config.keep, best=best)
        self.ranks.barrier()
        return Path(folder) / checkpoint.folder_name

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        env: Any = None,
        policy: FlowPolicy | None = None,
        estimator: AdvantageEstimator | None = None,
        log_folder: str | Path | None = None,
        evaluation: Examination | None = None,
        callbacks: Sequence[Callback] = (),
        ranks: Ranks = ALONE,
        allow_changes: bool = False,
    ) -> Self:
        """Go on where a checkpoint left off; bit for bit the same run on as many CPU threads.

        If ``folder`` is one checkpoint of several, its newer ones are set aside as soon as the run
        goes on: they belong to another branch.

        Args:
            folder: of :meth:`save`, of a run, or one checkpoint; the newest readable one is taken.
            env: needed if the run's own cannot be made from its id and plain arguments.
            policy: built from the stored settings on the environment's model if not given.
            estimator: needed if the run had one that was given as an instance.
            log_folder: see ``folder`` of the constructor.
            evaluation: see there.
            callbacks: see there.
            ranks: see there.
            allow_changes: go on in an environment with another model, prompts, schedule or rewards
                of the same names.

        Raises:
            CheckpointError: if no checkpoint can be read.
            ValueError: if something is needed that was not given, or the environment is not the
                run's.
        """
        root = Path(folder)
        root = root / CHECKPOINTS if (root / CHECKPOINTS).is_dir() else root
        checkpoint = load_latest(root, needed=FACTS)
        facts = checkpoint.facts
        learner = facts.get("learner", {"name": POLICY_GRADIENT})["name"]
        config = config_from_dict(cls.Config, facts["config"], LEARNERS.find(learner).Config)
        if env is None:
            clips = config.prompts_per_iteration * config.group_size
            env = rebuild_env(facts["env"], clips // ranks.count, shift=shift_of(facts))
        if estimator is None and facts["estimator"] is None:
            raise ValueError("the run's estimator was given as an instance: pass estimator=")
        trainer = cls._with(
            learner,
            env,
            policy or FlowPolicy(env.unwrapped.model, **facts["policy"]),
            estimator or facts["estimator"],
            config=config,
            folder=log_folder,
            evaluation=evaluation,
            callbacks=callbacks,
            ranks=ranks,
        )
        check_same_environment(facts, trainer.env, allow_changes=allow_changes)
        check_frozen(facts, trainer.policy.frozen)
        if not allow_changes:
            check_same_policy(facts, trainer.policy.settings())
        if log_folder is not None:
            check_branch(Path(log_folder) / CHECKPOINTS, root)
        trainer._restore(checkpoint)
        return trainer

    @classmethod
    def _with(
        cls,
        learner: str,
        env: Any,
        policy: FlowPolicy,
        estimator: str | AdvantageEstimator,
        **kwargs: Any,
    ) -> Self:
        """A trainer with the learner of that name; a class for one learner refuses others."""
        return cls(env, policy, estimator, learner, **kwargs)

    def _restore(self, checkpoint: Checkpoint) -> None:
        facts, tensors = checkpoint.facts, checkpoint.tensors
        threads = facts.get("threads", torch.get_num_threads())
        if self.policy.model.device.type == "cpu" and threads != torch.get_num_threads():
            warnings.warn(
                f"the run was made with {threads} CPU threads and goes on with "
                f"{torch.get_num_threads()}: numbers differ in their last digits; "
                f"OMP_NUM_THREADS={threads} keeps them",
                LearnerWarning,
                stacklevel=3,
            )
        self.silence.iterations, self.silence.unscored = facts.get("silence", (0, None))
        self.policy.load_state_dict(dict(tensors["weights"]), dict(tensors["reference"]))
        self.updater.restore(tensors, facts)
        arrays = {name: tensor.numpy() for name, tensor in tensors["estimator"].items()}
        self.estimator_state = self.estimator.load_state_dict(arrays, self.names)
        self.adaptation.restore(tensors.get("rewards", {}))
        self.learner.restore(tensors.get("learner", {}), facts.get("learner", {}))
        self.iteration, self._resumed = checkpoint.iteration, True
        self.best = -math.inf if facts["best"] is None else facts["best"]

    def _feedback(self, gram: Float[Tensor, "K K"]) -> Float[Tensor, " K"]:
        """Tell the estimator how the components' gradients lie to each other."""
        self.estimator_state = self.estimator.feedback(
            self.estimator_state, gram=gram, weights=self._weights()
        )
        return self.estimator_state["alphas"]

    def _save_if_due(self, metrics: dict[str, float], interrupted: bool, last: bool) -> None:
        due = self.iteration % self.config.save_every == 0
        if self.folder is None or not (due or interrupted or last):
            return
        best = self._is_best(metrics)
        self.save(self.folder / CHECKPOINTS, best=best)

    def _is_best(self, metrics: dict[str, float]) -> bool:
        """Whether the weighted mean rewards are the highest so far.

        Only what has stayed the same reward counts; an iteration in which one of them was never
        scored is comparable to no other.
        """
        static = self.config.reward_weights
        weights = np.array(self.facts.signs) * (1.0 if static is None else np.array(static))
        fixed = [k for k, w in enumerate(weights) if w and k not in self.adaptation.columns]
        means = np.array([metrics[f"reward/{self.names[k]}"] for k in fixed])
        score = float(np.sum(means * weights[fixed])) if fixed else -math.inf
        best = score > self.best  # Never with a nan.
        self.best = score if best else self.best
        return best

    def _shuffle(self, count: int, epoch: int) -> Int[Tensor, " M"]:
        rng = np.random.default_rng([self.config.seed, self.iteration, epoch, 1])
        return torch.from_numpy(rng.permutation(count))

    def _permutation(self, number: int, count: int) -> np.ndarray:
        return np.random.default_rng([self.config.seed, number, 2]).permutation(count)


def _parts(order: Int[Tensor, " M"], count: int) -> Sequence[Tensor]:
    """Up to ``count`` parts of ``order`` (M,) that differ in length by at most one."""
    return order.tensor_split(min(count, len(order))) if len(order) else ()
