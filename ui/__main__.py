"""`python -m ui`: read the command line, open the page, load the model behind it.

Exit codes: 0 done, 2 bad input, 130 interrupted. Errors are one line on stderr.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from threading import Event
from typing import NoReturn

from pipeline.errors import GreatcircleError, SpecError


class Parser(argparse.ArgumentParser):
    """One line for a wrong argument, where the standard library would print two."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the arguments and leave with code 2."""
        raise SpecError(message)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until interrupted; the exit code."""
    try:
        return _serve(_parse(arguments))
    except GreatcircleError as error:
        print("error:", *str(error).split(), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m ui", description="The Greatcircle app, in your browser.")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default %(default)s)"
    )
    parser.add_argument("--port", type=int, help="port (default: the first free one from 7860 on)")
    parser.add_argument(
        "--model",
        default="embedded",
        help="embedded, a diffusers folder, a .safetensors file or a hub id",
    )
    parser.add_argument(
        "--models", type=Path, default=Path("models"), help="folder of models to choose from"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:N or mps (default: the best there is)")
    parser.add_argument(
        "--dtype", help="float32, float16 or bfloat16 (default: what suits the device)"
    )
    parser.add_argument("--out", type=Path, default=Path("outputs"), help="folder for pictures")
    parser.add_argument(
        "--auth-file",
        type=Path,
        help="NAME:PASSWORD lines of who may log in; needed where others can reach the host "
        "(or the same in the environment variable GREATCIRCLE_AUTH)",
    )
    return parser.parse_args(arguments)


def _serve(options: argparse.Namespace) -> int:
    """Open the page, then wait: for the model, whose failure ends it all, and for the end."""
    from pipeline.files import prepare_folder
    from pipeline.spec import ModelSpec
    from ui.accounts import read_accounts

    spec = ModelSpec(source=options.model, device=options.device, dtype=options.dtype)
    accounts = read_accounts(options.auth_file, os.environ)
    prepare_folder(options.out)

    from ui.app import Address, Folders, serve
    from ui.loading import Loading

    loading = Loading(spec)
    address = Address(options.host, options.port, accounts)
    with serve(loading, Folders(options.out, options.models), address) as blocks:
        print(f"Greatcircle is open at {blocks.local_url} (Ctrl+C ends it)", flush=True)
        print(loading.model().summary, file=sys.stderr, flush=True)
        Event().wait()
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # tidied up after all the same
    sys.exit(main())
