"""Every error raised on purpose: one line that states the value and what is allowed."""


class GreatcircleError(Exception):
    """The root: commands print its one line and leave with code 2, the page shows it as it is."""


class SpecError(GreatcircleError, ValueError):
    """What was asked for is not valid; the line names the value and the range or the near miss."""


class CheckpointError(GreatcircleError):
    """A model is missing, unsafe, not whole or not finite."""


class PictureError(GreatcircleError):
    """A picture cannot be read, or does not hold what is sought in it."""


class OutputError(GreatcircleError):
    """A file cannot be written: no permission, no space."""


class RenderError(GreatcircleError):
    """A run went wrong on the way: a number in it is not finite, or memory ran out."""
