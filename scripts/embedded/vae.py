"""Training the embedded autoencoder, and normalising its latents to unit variance."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn

from scripts.embedded.compose import draw_procedural, place
from scripts.embedded.recipe import VaeRecipe
from scripts.embedded.state import Training, autocast


def create_vae(recipe: VaeRecipe) -> AutoencoderKL:
    """A fresh f = 8 autoencoder without attention, so that any size decodes at linear cost."""
    levels = len(recipe.channels)
    return AutoencoderKL(
        block_out_channels=recipe.channels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=4,
        mid_block_add_attention=False,
        sample_size=128,
        scaling_factor=1.0,
    )


class PictureSource:
    """Batches for the autoencoder: emoji on plain and two-coloured grounds, procedural pictures."""

    def __init__(self, pictures: Tensor, recipe: VaeRecipe, device: torch.device) -> None:
        self.pictures, self.recipe, self.device = pictures, recipe, device
        self.procedural = draw_procedural(recipe.procedural_pictures, seed=0)

    def batch(self, step: int, side: int) -> Tensor:
        """Pictures (number, 3, side, side) of step `step`: as many pixels at every `side`."""
        generator = torch.Generator().manual_seed(step)
        number = self.recipe.batch_size * (64 // (side // 2)) ** 2 // 4
        others = round(number * self.recipe.procedural_share)
        emoji = self._draw_emojis(number - others, side, generator)
        return torch.cat([emoji, self._cut_procedural(others, side, generator)]).to(self.device)

    def _draw_emojis(self, number: int, side: int, generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(self.pictures), (number,), generator=generator)
        white = torch.rand(number, generator=generator) < 0.5
        grounds = torch.rand(number, 3, 2, 2, generator=generator)
        plain = torch.rand(number, generator=generator) < 0.8
        grounds[plain] = grounds[plain][:, :, :1, :1].expand(-1, -1, 2, 2)
        grounds[white] = 1.0
        grounds = F.interpolate(grounds, (side, side), mode="bilinear")
        zoom = 0.85 + 0.4 * torch.rand(number, generator=generator)
        reach = 0.1 + 0.8 * (1 - side / 128)
        shift = reach * (2 * torch.rand(number, 2, generator=generator) - 1)
        return place(self.pictures[chosen], grounds, zoom, shift, side)

    def _cut_procedural(self, number: int, side: int, generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(self.procedural), (number,), generator=generator)
        corner = int(torch.randint(128 - side + 1, (), generator=generator))
        pictures = self.procedural[chosen][..., corner : corner + side, corner : corner + side]
        return pictures.flip(-1) if torch.rand((), generator=generator) < 0.5 else pictures


def measure_loss(
    pixels: Tensor, decoded: Tensor, mean: Tensor, logvar: Tensor, kl: float
) -> Tensor:
    """L1, squared error and the L1 of image gradients, with a light pull to the unit Gaussian."""
    error = decoded - pixels
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    return error.abs().mean() + 2 * error.square().mean() + 0.5 * edges + kl * divergence


def train_vae(
    recipe: VaeRecipe, pictures: Tensor, work: Path, device: torch.device
) -> AutoencoderKL:
    """Train within the recipe's minutes (or go on where a killed run stood); the averaged model."""
    torch.manual_seed(recipe.seed)
    vae = create_vae(recipe).to(device)
    training = Training(
        modules=nn.ModuleDict({"vae": vae}),
        file=work / "vae.state.safetensors",
        minutes=recipe.minutes,
        learning_rate=recipe.learning_rate,
        ema_decay=recipe.ema_decay,
    )
    source = PictureSource(pictures, recipe, device)
    for step in training.steps():
        side = 64 if training.progress < recipe.crop_share else 128
        pixels = source.batch(step, side)
        with autocast(device):
            posterior = vae.encode(pixels).latent_dist
            decoded = vae.decode(posterior.sample()).sample.float()
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        loss = measure_loss(pixels, decoded, mean, logvar, recipe.kl_weight)
        training.update(loss)
        if step % 100 == 0:
            psnr = -10 * ((decoded - pixels) / 2).square().mean().log10()
            line = f"vae {step} {training.seconds:.0f}s loss {loss.item():.4f} psnr {psnr:.2f}"
            with open(work / "log.txt", "a") as log:
                log.write(line + f" posterior std {(0.5 * logvar).exp().mean():.3f}\n")
    return training.average["vae"].eval()


@torch.no_grad()
def normalise(vae: AutoencoderKL, pixels: Tensor) -> None:
    """Fold per-channel statistics of `pixels`' latents into the 1×1 convolutions around them.

    Afterwards the latents have mean 0 and variance 1 in every channel and `scaling_factor` is 1;
    the autoencoder as a whole is unchanged.
    """
    latents = torch.cat([vae.encode(p).latent_dist.mean for p in pixels.split(32)])
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    channels = len(mean)
    quant, post = vae.quant_conv, vae.post_quant_conv
    quant.weight[:channels] /= std[:, None, None, None]
    quant.bias[:channels] = (quant.bias[:channels] - mean) / std
    quant.bias[channels:] -= 2 * std.log()
    post.bias += (post.weight[:, :, 0, 0] * mean).sum(1)
    post.weight *= std[None, :, None, None]
