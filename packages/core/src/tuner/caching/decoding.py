"""A process that decodes, resizes and crops pictures for another one. Imports neither torch nor diffusers.

Requests arrive on standard input, a line of JSON each; replies leave on standard output: a line of JSON and, for a
picture, its bytes. The process ends when its input does, so it never outlives the one that asks.
"""

from __future__ import annotations

import json
import os
import sys
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from tuner.data.images import UnreadableImage, load_rgb
from tuner.data.sample import Geometry


def serve() -> None:
    """Answer requests until there are no more."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever else prints must not come between the replies
    try:
        for line in sys.stdin.buffer:
            _answer(json.loads(line), replies)
    except BrokenPipeError:  # who asked is gone
        os._exit(0)


def _answer(request: dict[str, Any], replies: IO[bytes]) -> None:
    try:
        rgb_HWC = load_rgb(request["path"], unpack_geometry(request["geometry"]))
    except UnreadableImage as error:
        reply = {"reason": error.reason, "lasting": error.lasting}
        replies.write(json.dumps(reply).encode() + b"\n")
    except OSError as error:
        replies.write(json.dumps({"errno": error.errno, "strerror": error.strerror}).encode() + b"\n")
    else:
        replies.write(json.dumps({"shape": rgb_HWC.shape}).encode() + b"\n")
        replies.write(rgb_HWC.data)
    replies.flush()


def ask(path: str, geometry: Geometry, requests: IO[bytes], replies: IO[bytes]) -> NDArray[np.uint8]:
    """Have a process that serves read a picture.

    Returns:
        What `load_rgb` returns, bit for bit.

    Raises:
        UnreadableImage, OSError: As `load_rgb` does there.
        EOFError: The process has ended.
    """
    request = {"path": path, "geometry": [geometry.resize, geometry.crop, geometry.downsample]}
    try:
        requests.write(json.dumps(request).encode() + b"\n")
        requests.flush()
    except BrokenPipeError as error:
        raise EOFError from error
    line = replies.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    reply = json.loads(line)
    if "reason" in reply:
        raise UnreadableImage(reply["reason"], lasting=reply["lasting"])
    if "errno" in reply:
        raise OSError(reply["errno"], reply["strerror"])
    rgb_HWC = np.empty(reply["shape"], dtype=np.uint8)
    if replies.readinto(rgb_HWC.reshape(-1).data) != rgb_HWC.nbytes:  # type: ignore[attr-defined]
        raise EOFError
    return rgb_HWC


def unpack_geometry(packed: list[Any]) -> Geometry:
    """Return the geometry that a request carries."""
    resize, crop, downsample = packed
    return Geometry(tuple(resize), tuple(crop), tuple(downsample) if downsample else None)
