"""The arguments of `tuner generate`. Imports nothing that takes time: every command's help needs them."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments. What is not given is as the run's settings say that a trained file records."""
    parser.add_argument("--adapter", "--model", dest="trained", type=Path, metavar="PATH",
                        help="an adapter's file, or the folder of an adapter, checkpoint, run or whole pipeline; "
                        "the base model alone if not given")  # fmt: skip
    parser.add_argument("--weights", choices=("live", "ema"), help="the trained weights, or their moving average")
    parser.add_argument("--family", help="model family, where the file does not record it")
    parser.add_argument("--base", metavar="MODEL", help="hub repository or folder of the base model")
    parser.add_argument("--revision", help="branch, tag or commit of the hub repository")
    parser.add_argument("--prompt", action="append", default=[], help="may be given several times")
    parser.add_argument("--prompts", type=Path, metavar="FILE",
                        help="a prompt per line, or JSON: a prompt library, or a list of prompts")  # fmt: skip
    parser.add_argument("--negative", metavar="PROMPT", help="prompt to steer away from")
    parser.add_argument("--seed", type=int, help="seed of the first picture; each further one has the next")
    parser.add_argument("--number", type=int, default=1, help="pictures of each prompt and size (default: 1)")
    parser.add_argument("--guidance", type=float, help="guidance scale; at most 1 for none")
    parser.add_argument("--steps", type=int, help="sampling steps")
    parser.add_argument("--resolution", metavar="SIZES", help="N or WxH in pixels, or several separated by commas")
    parser.add_argument("--width", type=int, help="in pixels, with --height")
    parser.add_argument("--height", type=int, help="in pixels, with --width")
    parser.add_argument("--strength", type=float, default=1.0, help="of the adapter (default: 1, as it was trained)")
    parser.add_argument("--merge", action="store_true", help="add the adapter to the denoiser's weights first")
    parser.add_argument("--quantise", default="no_change", metavar="SCHEME",
                        help="store the denoiser in this format, such as int8-quanto; an adapter is merged "
                        "before")  # fmt: skip
    parser.add_argument(
        "--precision", choices=("bf16", "fp16", "no"), help="number format of the model; no for float32"
    )
    parser.add_argument("--output", type=Path, default=Path("generated"), help="folder (default: generated)")
