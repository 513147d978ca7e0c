"""Train the model that ships with the program, from rendered pictures, on a GPU or a CPU."""

from __future__ import annotations

import argparse
from pathlib import Path


def main() -> None:
    """Render, train the autoencoder, cache latents, train the denoiser, write the model folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("configs/embedded.toml"))
    parser.add_argument(
        "--work", type=Path, default=Path("runs/embedded"), help="states and samples"
    )
    parser.add_argument("--out", type=Path, default=None, help="model folder (default: WORK/model)")
    parser.add_argument("--device", default=None)
    parser.add_argument(
        "--start", type=Path, default=None, help="a model folder to go on from, its codec kept"
    )
    options = parser.parse_args()

    import torch

    from scripts.embedded.emojis import draw_emojis, list_emojis
    from scripts.embedded.recipe import load_recipe
    from scripts.embedded.vae import train_vae

    recipe = load_recipe(options.config)
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    options.work.mkdir(parents=True, exist_ok=True)
    emojis = [e for e in list_emojis() if not e.held_out]
    pictures = torch.from_numpy(draw_emojis(emojis))

    from diffusers import AutoencoderKL

    from scripts.embedded.unet import normalise_for, train_unet

    if options.start is None:
        vae = train_vae(recipe.vae, pictures, options.work, device)
        normalise_for(vae, pictures)
    else:
        vae = AutoencoderKL.from_pretrained(options.start / "vae", dtype=torch.float32).to(device)
    out = options.out or options.work / "model"
    train_unet(recipe, vae, emojis, pictures, options.work, out, options.start)


if __name__ == "__main__":
    main()
