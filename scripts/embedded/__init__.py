"""The recipe of the embedded model: pictures, captions, training. Used by scripts only."""
