"""Training the embedded denoiser and its text encoder together, on cached latents."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from scripts.embedded.captions import COLOURS, WHITE, is_held_out, write_caption
from scripts.embedded.compose import place
from scripts.embedded.emojis import Emoji
from scripts.embedded.export import draw_sheet, write_model
from scripts.embedded.recipe import Recipe, UNetRecipe
from scripts.embedded.state import Training, autocast
from scripts.embedded.text import create_text_encoder, tokenize, train_tokenizer
from scripts.embedded.vae import normalise

SHEET_EVERY_SECONDS = 600


def create_unet(recipe: UNetRecipe, text_width: int, rows: int) -> UNet2DConditionModel:
    """A fresh UNet with attention below its first level."""
    levels = len(recipe.channels)
    return UNet2DConditionModel(
        sample_size=rows,
        in_channels=4,
        out_channels=4,
        block_out_channels=recipe.channels,
        layers_per_block=1,
        down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * (levels - 1)),
        up_block_types=(*("CrossAttnUpBlock2D",) * (levels - 1), "UpBlock2D"),
        cross_attention_dim=text_width,
        attention_head_dim=recipe.heads,  # diffusers' name for the number of heads
        norm_num_groups=16,
    )


def create_scheduler(recipe: UNetRecipe) -> DPMSolverMultistepScheduler:
    """The scheduler whose config the model ships; others are built from it."""
    return DPMSolverMultistepScheduler(
        beta_start=recipe.beta_start,
        beta_end=recipe.beta_end,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        timestep_spacing=recipe.timestep_spacing,
        steps_offset=1,
    )


class Pairs:
    """Latents of every emoji on several grounds, and captions for them, drawn by name first."""

    def __init__(
        self,
        vae: AutoencoderKL,
        emojis: list[Emoji],
        pictures: Tensor,
        recipe: UNetRecipe,
        work: Path,
    ) -> None:
        self.emojis, self.recipe = emojis, recipe
        self.weights = _balance(emojis)
        draw = random.Random(0)
        self.colours = [_choose_colours(e, recipe.variants, draw) for e in emojis]
        cache = work / _name_cache(vae, self.colours)
        if not cache.exists():  # encoding takes minutes on a CPU
            save_file({"latents": _encode_variants(vae, pictures, self.colours)}, cache)
        self.latents = load_file(cache)["latents"]

    def batch(self, step: int) -> tuple[Tensor, list[str]]:
        """Latents (number, 4, rows, columns) and captions of step `step`."""
        number = self.recipe.batch_size
        generator = torch.Generator().manual_seed(step)
        draw = random.Random(step)
        chosen = torch.multinomial(self.weights, number, True, generator=generator)
        variants = torch.randint(self.recipe.variants, (number,), generator=generator)
        captions = []
        for index, variant in zip(chosen.tolist(), variants.tolist(), strict=True):
            colour = self.colours[index][variant]
            empty = draw.random() < self.recipe.empty_prompt_share
            captions.append("" if empty else write_caption(self.emojis[index], colour, draw))
        return self.latents[chosen, variants].float(), captions


def _balance(emojis: list[Emoji]) -> Tensor:
    """Chances by name first: a name with n tones weighs as much as ⁴√n names, not n."""
    counts: dict[str, int] = {}
    for emoji in emojis:
        counts[emoji.base] = counts.get(emoji.base, 0) + 1
    return torch.tensor([counts[e.base] ** -0.75 for e in emojis])


def _name_cache(vae: AutoencoderKL, colours: list[list[str]]) -> str:
    """Another autoencoder, or other grounds, have another file."""
    digest = hashlib.sha256(repr(colours).encode())
    for tensor in vae.state_dict().values():
        digest.update(tensor.cpu().numpy().tobytes())
    return f"latents-{digest.hexdigest()[:10]}.safetensors"


@torch.no_grad()
def _encode_variants(vae: AutoencoderKL, pictures: Tensor, colours: list[list[str]]) -> Tensor:
    """Latents, (pictures, variants, 4, rows, columns), in float16."""
    generator = torch.Generator().manual_seed(0)
    latents, number, variants = [], len(pictures), len(colours[0])
    for variant in range(variants):
        grounds = torch.tensor([COLOURS[names[variant]] for names in colours]) / 255
        zoom = 0.94 + 0.12 * torch.rand(number, generator=generator)
        shift = 0.05 * (2 * torch.rand(number, 2, generator=generator) - 1)
        if variant == 0:
            zoom, shift = torch.ones_like(zoom), torch.zeros_like(shift)
        parts = zip(*(t.split(64) for t in (pictures, grounds, zoom, shift)), strict=True)
        for rgba, ground, larger, moved in parts:
            pixels = place(rgba, ground[:, :, None, None], larger, moved).to(vae.device)
            with autocast(vae.device):
                latents.append(vae.encode(pixels).latent_dist.mean.half().cpu())
    return torch.cat(latents).unflatten(0, (variants, -1)).transpose(0, 1).contiguous()


def _choose_colours(emoji: Emoji, variants: int, draw: random.Random) -> list[str]:
    allowed = [c for c in COLOURS if c != WHITE and not is_held_out(emoji, c)]
    whites = variants // 2
    return [WHITE] * whites + [draw.choice(allowed) for _ in range(variants - whites)]


def measure_loss(
    velocity: Tensor, latents: Tensor, noise: Tensor, alpha_bar: Tensor, recipe: UNetRecipe
) -> Tensor:
    """v-prediction loss, weighted so that an error in the latents counts as their clamped SNR.

    The ceiling is min-SNR's (Hang et al. 2023, eq. 7 in terms of v). The floor is that of
    Salimans and Ho (2022, eq. 9): without it the noisiest steps, where the prompt alone decides
    what the picture shows, count for next to nothing.
    """
    a = alpha_bar.view(-1, 1, 1, 1)
    target = a.sqrt() * noise - (1 - a).sqrt() * latents
    snr = alpha_bar / (1 - alpha_bar)
    weight = snr.clamp(recipe.snr_floor, recipe.snr_ceiling) / (snr + 1)
    return (weight * (velocity - target).square().mean((1, 2, 3))).mean()


def train_unet(
    recipe: Recipe,
    vae: AutoencoderKL,
    emojis: list[Emoji],
    pictures: Tensor,
    work: Path,
    out: Path,
    start: Path | None,
) -> None:
    """Train within the recipe's minutes (or go on), writing the model and a sheet at intervals.

    From the denoiser and text encoder in the model folder `start`, or else from nothing.
    """
    torch.manual_seed(recipe.unet.seed)
    device = vae.device
    pairs = Pairs(vae, emojis, pictures, recipe.unet, work)
    if start is None:
        tokenizer = train_tokenizer(_sample_captions(emojis), recipe.text)
        unet = create_unet(recipe.unet, recipe.text.width, pairs.latents.shape[-1])
        text_encoder = create_text_encoder(tokenizer, recipe.text)
    else:
        tokenizer = CLIPTokenizer.from_pretrained(start / "tokenizer")
        unet = UNet2DConditionModel.from_pretrained(start / "unet", dtype=torch.float32)
        text_encoder = CLIPTextModel.from_pretrained(start / "text_encoder", dtype=torch.float32)
    modules = nn.ModuleDict({"unet": unet, "text_encoder": text_encoder}).to(device).train()
    training = Training(
        modules=modules,
        file=work / "unet.state.safetensors",
        minutes=recipe.unet.minutes,
        learning_rate=recipe.unet.learning_rate,
        ema_decay=recipe.unet.ema_decay,
    )
    scheduler = create_scheduler(recipe.unet)
    alphas = scheduler.alphas_cumprod.to(device)
    last_sheet = training.seconds
    for step in training.steps():
        loss = _measure_batch(modules, pairs.batch(step), tokenizer, alphas, recipe.unet, device)
        training.update(loss)
        if step % 100 == 0:
            with open(work / "log.txt", "a") as log:
                log.write(f"unet {step} {training.seconds:.0f}s loss {loss.item():.4f}\n")
        if training.seconds - last_sheet > SHEET_EVERY_SECONDS:
            last_sheet = training.seconds
            write_model(out, vae, training.average, tokenizer, scheduler, recipe.defaults)
            draw_sheet(out, work / f"sheet-{step}.png")
    write_model(out, vae, training.average, tokenizer, scheduler, recipe.defaults)
    draw_sheet(out, work / "sheet.png")


def _measure_batch(
    modules: nn.ModuleDict,
    batch: tuple[Tensor, list[str]],
    tokenizer: CLIPTokenizer,
    alphas: Tensor,
    recipe: UNetRecipe,
    device: torch.device,
) -> Tensor:
    latents, captions = batch
    latents = latents.to(device)
    spread = (torch.rand(1) + torch.arange(len(latents)) / len(latents)) % 1
    timesteps = (spread * len(alphas)).long().to(device)
    noise = torch.randn(latents.shape).to(device)
    alpha_bar = alphas[timesteps]
    a = alpha_bar.view(-1, 1, 1, 1)
    noisy = a.sqrt() * latents + (1 - a).sqrt() * noise
    with autocast(device):
        embeds = modules["text_encoder"](tokenize(tokenizer, captions).to(device))[0]
        velocity = modules["unet"](noisy, timesteps, embeds).sample
    return measure_loss(velocity.float(), latents, noise, alpha_bar, recipe)


def normalise_for(vae: AutoencoderKL, pictures: Tensor) -> None:
    """Bring the latents of `pictures` on all grounds to mean 0 and variance 1."""
    generator = torch.Generator().manual_seed(0)
    chosen = pictures[torch.randint(len(pictures), (512,), generator=generator)]
    grounds = torch.rand(512, 3, 1, 1, generator=generator)
    grounds[::2] = 1.0
    normalise(vae, place(chosen, grounds, torch.ones(512), torch.zeros(512, 2)).to(vae.device))


def _sample_captions(emojis: list[Emoji]) -> list[str]:
    draw = random.Random(0)
    return [write_caption(e, c, draw) for e in emojis for c in draw.sample(list(COLOURS), 4)]
