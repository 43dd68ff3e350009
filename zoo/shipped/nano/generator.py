r"""Stage 2: transformer and text encoder, trained together with the rectified-flow loss.

With clip latents :math:`x_0`, noise :math:`\epsilon` and level :math:`\sigma`, the model sees
:math:`(1-\sigma) x_0 + \sigma \epsilon` and predicts :math:`\epsilon - x_0` (Liu et al. 2022).
Levels are uniform before the schedule's shift, so training visits the levels of sampling.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.tensorboard import SummaryWriter

from reelrl.rewards.moving_shapes.world import captions as captions_of
from reelrl.zoo.shipped.nano.architecture import (
    SHIFT,
    build_text_encoder,
    build_tokenizer,
    build_transformer,
    embed,
)
from reelrl.zoo.shipped.training import LOG_EVERY, NanoConfig, Training, generator_for

OnEvaluation = Callable[["Generator", int], str]


class Generator(nn.Module):
    """Transformer and text encoder as one module: they are trained, averaged and saved together."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = build_transformer()
        self.text_encoder = build_text_encoder()


@dataclass(frozen=True)
class Dataset:
    """Normalised latents of the train clips, and their captions as token tables.

    Attributes:
        latents: (M, C, T', H', W'), zero mean and unit variance per channel.
        caption_ids: (M,) row of the caption in the token table; the last row is the empty caption.
        tokens: (Q + 1, L) token ids of the Q train captions and the empty one.
        mask: (Q + 1, L) attention mask.
    """

    latents: Tensor
    caption_ids: Tensor
    tokens: Tensor
    mask: Tensor

    @classmethod
    def of(cls, latents: Tensor, captions: list[str]) -> Dataset:
        """Build the token table and look every caption up in it."""
        known = captions_of("train")
        row = {caption: index for index, caption in enumerate(known)}
        table = build_tokenizer()([*known, ""], padding="max_length", return_tensors="pt")
        ids = torch.tensor([row[caption] for caption in captions])
        return cls(latents, ids, table.input_ids, table.attention_mask)


def flow_loss(
    model: Generator, data: Dataset, config: NanoConfig, stream: torch.Generator
) -> Tensor:
    """Mean squared velocity error of one random batch."""
    picks = torch.randint(len(data.latents), (config.batch,), generator=stream)
    clean = data.latents[picks]
    rows = data.caption_ids[picks]
    dropped = torch.rand(config.batch, generator=stream) < config.caption_dropout
    rows = torch.where(dropped, len(data.tokens) - 1, rows)
    level = torch.rand(config.batch, generator=stream)
    sigma = SHIFT * level / (1 + (SHIFT - 1) * level)
    noise = torch.randn(clean.shape, generator=stream)
    weight = sigma[:, None, None, None, None]
    embedding = embed(model.text_encoder, data.tokens[rows], data.mask[rows])
    velocity = model.transformer(
        hidden_states=(1 - weight) * clean + weight * noise,
        timestep=sigma * 1000,
        encoder_hidden_states=embedding,
        return_dict=False,
    )[0]
    return functional.mse_loss(velocity, noise - clean)


def train_generator(
    config: NanoConfig,
    data: Dataset,
    log: SummaryWriter,
    on_evaluation: OnEvaluation,
) -> Generator:
    """Train transformer and text encoder, or go on where a killed run stopped.

    Args:
        config: the run's settings.
        data: the encoded train clips.
        log: TensorBoard writer.
        on_evaluation: called with the averaged weights in place every ``config.eval_every`` updates
            and at the end.

    Returns:
        The generator holding its averaged weights.
    """
    torch.manual_seed(config.seed + 1)  # module initialisation knows no generator argument
    model = Generator()
    path = config.out / "generator.state"
    training = Training(model, path, total=config.steps, lr=config.lr, ema=config.ema)
    if config.compile:
        model.transformer.compile()
    progress = training.progress("Generator")
    for step in progress:
        loss = flow_loss(model, data, config, generator_for(config, 3, step))
        training.update(loss)
        if training.step % LOG_EVERY == 0 or training.step == 1:
            log.add_scalar("generator/loss", loss.item(), training.step)
            progress.set_postfix(loss=f"{loss.item():.4f}")
        if training.step % config.eval_every == 0 or training.step == training.total:
            with training.average.applied():
                summary = on_evaluation(model, training.step)
            progress.write(f"Generator {training.step}: loss {loss.item():.4f}, {summary}")
            training.save()
    training.finished()
    return model
