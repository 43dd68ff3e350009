"""Stage 1: the VAE, trained to reconstruct clips, the statistics of its latents, its decoder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.tensorboard import SummaryWriter
from tqdm import trange

from reelrl.rewards.moving_shapes.world import BACKGROUND, sample_clips
from reelrl.zoo.pictures import save_sheet
from reelrl.zoo.shipped.nano.architecture import build_vae
from reelrl.zoo.shipped.training import LOG_EVERY, NanoConfig, Training, generator_for

KL_WEIGHT = 1e-6
MSE_WEIGHT = 4.0
STATISTICS_CLIPS = 2048


def to_pixels(videos: Tensor) -> Tensor:
    """Clips (N, F, H, W, 3) in [0, 1] as the VAE's (N, 3, F, H, W) in [-1, 1]."""
    return videos.permute(0, 4, 1, 2, 3) * 2 - 1


def psnr(reconstruction: Tensor, target: Tensor) -> float:
    """Peak signal-to-noise ratio in dB over a batch, for pixels in [-1, 1]."""
    return float(10 * torch.log10(4 / functional.mse_loss(reconstruction, target)))


def reconstruction_loss(vae: AutoencoderKLWan, pixels: Tensor, noise: torch.Generator) -> Tensor:
    """L1 plus weighted squared error of a sampled reconstruction, plus a faint KL to the prior."""
    posterior = vae.encode(pixels).latent_dist
    sample = posterior.sample(generator=noise)
    output = vae.decode(sample).sample
    error = functional.l1_loss(output, pixels) + MSE_WEIGHT * functional.mse_loss(output, pixels)
    prior: Tensor = posterior.kl().mean()
    return error + KL_WEIGHT * prior


def held_out_psnr(vae: AutoencoderKLWan, config: NanoConfig, folder: Path | None = None) -> float:
    """PSNR in dB on 64 clips with captions never trained on; writes a sheet if given a folder."""
    clips = sample_clips(64, generator_for(config, 9), "compositional")
    pixels = to_pixels(clips.videos)
    with torch.no_grad():
        output = vae.decode(vae.encode(pixels).latent_dist.mode()).sample
    if folder is not None:
        pairs = torch.stack([pixels[:6], output[:6]], dim=1).flatten(0, 1)
        save_sheet(folder / "vae.png", pairs.permute(0, 2, 3, 4, 1) * 0.5 + 0.5)
    return psnr(output, pixels)


def relative_error(vae: AutoencoderKLWan, pixels: Tensor) -> Tensor:
    """Squared error of decoded posterior means over the energy of the motion, mean over clips.

    It is the square of the error that ``fid`` of the gold score is made of: a small object counts
    as much as a large one.
    """
    with torch.no_grad():
        latent = vae.encode(pixels).latent_dist.mode()
    decoded: Tensor = vae.decode(latent).sample
    error = (decoded - pixels).square().flatten(1).sum(1)
    energy = (pixels - (2 * BACKGROUND - 1)).square().flatten(1).sum(1)
    return (error / energy).mean()


def _train(
    title: str,
    config: NanoConfig,
    vae: AutoencoderKLWan,
    training: Training,
    loss_of: Callable[[Tensor, torch.Generator], Tensor],
    log: SummaryWriter,
) -> None:
    """Train the model of ``training`` on fresh clips to the end, logging and saving on the way."""
    progress = training.progress(title)
    for step in progress:
        stream = generator_for(config, 1, step)
        pixels = to_pixels(sample_clips(config.vae_batch, stream).videos)
        loss = loss_of(pixels, stream)
        training.update(loss)
        if training.step % LOG_EVERY == 0 or training.step == 1:
            log.add_scalar(f"{title}/loss", loss.item(), training.step)
        if training.step % config.eval_every == 0 or training.step == training.total:
            with training.average.applied():
                quality = held_out_psnr(vae, config, config.out)
            log.add_scalar(f"{title}/psnr_held_out", quality, training.step)
            progress.write(f"{title} {training.step}: loss {loss.item():.4f}, {quality:.2f} dB")
            training.save()
    training.finished()


def train_vae(config: NanoConfig, log: SummaryWriter) -> AutoencoderKLWan:
    """Train the VAE, or go on where a killed run stopped; returns it with averaged weights."""
    torch.manual_seed(config.seed)  # module initialisation knows no generator argument
    vae = build_vae()
    training = Training(
        vae, config.out / "vae.state", total=config.vae_steps, lr=config.vae_lr, ema=config.ema
    )
    _train("vae", config, vae, training, lambda x, noise: reconstruction_loss(vae, x, noise), log)
    return vae


def finish_decoder(vae: AutoencoderKLWan, config: NanoConfig, log: SummaryWriter) -> None:
    """Train the decoder on, in place, for the latents as they are: the encoder stays frozen."""
    decoder = nn.ModuleDict({"decoder": vae.decoder, "post_quant_conv": vae.post_quant_conv})
    decoder.requires_grad_(True)
    training = Training(
        decoder,
        config.out / "decoder.state",
        total=config.decoder_steps,
        lr=config.decoder_lr,
        ema=config.ema,
    )
    _train("decoder", config, vae, training, lambda x, _: relative_error(vae, x), log)


@torch.no_grad()
def encode_dataset(vae: AutoencoderKLWan, config: NanoConfig) -> tuple[Tensor, list[str]]:
    """Posterior means (N, C, T', H', W') and captions of the clips the generator is trained on."""
    latents, captions = [], []
    for start in trange(0, config.dataset_clips, 500, desc="Encoding"):
        count = min(500, config.dataset_clips - start)
        clips = sample_clips(count, generator_for(config, 2, start))
        latents.append(vae.encode(to_pixels(clips.videos)).latent_dist.mode())
        captions += clips.captions
    return torch.cat(latents), captions


def with_statistics(vae: AutoencoderKLWan, latents: Tensor) -> AutoencoderKLWan:
    """The same VAE with mean and standard deviation of its latents, per channel, in its config."""
    few = latents[:STATISTICS_CLIPS]
    dims = (0, 2, 3, 4)
    rebuilt = build_vae(few.mean(dims).tolist(), few.std(dims).tolist())
    rebuilt.load_state_dict(vae.state_dict())
    return rebuilt.eval().requires_grad_(False)
