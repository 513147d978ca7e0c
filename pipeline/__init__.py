"""Greatcircle: images, morphs and measurements in the latent space of Stable Diffusion.

Specs in, frames out. Read `spec`, `denoise` and `render` first; each module says what it does not
know.
"""
