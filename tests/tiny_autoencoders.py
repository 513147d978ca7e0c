"""Autoencoders of a few thousand random weights, of each class that may be loaded."""

from __future__ import annotations

from typing import Any

import torch


def create_small(kind: str, **settings: Any) -> Any:
    """An autoencoder of random weights of each class that may be loaded, halving each side."""
    import diffusers

    torch.manual_seed(0)
    down, up = ("DownEncoderBlock2D",) * 2, ("UpDecoderBlock2D",) * 2
    blocks = dict(down_block_types=down, up_block_types=up, norm_num_groups=4)
    known: dict[str, dict[str, Any]] = {
        "AutoencoderKL": dict(blocks, block_out_channels=(8, 16), latent_channels=4),
        "VQModel": dict(blocks, block_out_channels=(8, 16), num_vq_embeddings=32, vq_embed_dim=2),
        "AsymmetricAutoencoderKL": dict(
            blocks, down_block_out_channels=(8, 16), up_block_out_channels=(12, 24)
        ),
        "AutoencoderTiny": dict(
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            num_encoder_blocks=(1, 1),
            num_decoder_blocks=(1, 1),
        ),
    }
    return getattr(diffusers, kind)(**known[kind] | settings).eval().requires_grad_(False)
