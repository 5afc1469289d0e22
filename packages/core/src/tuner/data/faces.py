"""The largest face of each picture, for crops that are centred on it: found once, then remembered."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from tuner.config.datasets import DatasetConfig
from tuner.data.geometry import Box
from tuner.data.images import UnreadableImage, load_rgb
from tuner.data.index import FaceRow, FileIndex, HeaderRow
from tuner.data.sample import Geometry
from tuner.data.scan import absolute

if TYPE_CHECKING:
    from skimage.feature import Cascade

logger = logging.getLogger(__name__)

_SIDE = 256  # pixels of the longer side of the copy that is searched; a search takes about 0.1 s
_SMALLEST = 24  # pixels of the smallest face in that copy; the detector was trained on faces of this size
_BATCH = 256  # faces remembered together; what an interrupted search may lose


def crops_to_faces(dataset: DatasetConfig) -> bool:
    """Say whether a data set's crops are centred on faces."""
    return dataset.crop and dataset.crop_style == "face"


def find_faces(folder: Path, pictures: Sequence[HeaderRow], index: FileIndex) -> Mapping[str, Box | None]:
    """Return absolute path -> the largest face, in pixels of the picture as shown, or None where there is none.

    Pictures that are new or were changed are searched; what is found is remembered in `index`. Those that cannot be
    read count as pictures without a face: whoever needs their pixels will say what is wrong.

    Args:
        folder: The data set's.
        pictures: Headers of its pictures.
        index: Remembers faces.
    """
    known = {row[:3]: row for row in index.faces_below(absolute(folder))}
    unknown = [row for row in pictures if row[:3] not in known]
    if unknown:
        logger.info("%s: looking for faces in %d pictures, once", folder, len(unknown))
        _detector()  # made here, before threads ask for it
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(unknown), _BATCH):
            searched = list(pool.map(_search, unknown[start : start + _BATCH]))
            index.store_faces(row for row, lasting in searched if lasting)
            known.update((row[:3], row) for row, _ in searched)
    return {row.path: _box_of(known[row[:3]]) for row in pictures}


def _search(picture: HeaderRow) -> tuple[FaceRow, bool]:
    """Return what is to be remembered, and whether it lasts."""
    box, lasting = None, True
    try:
        box = _largest_face(picture)
    except UnreadableImage as error:
        lasting = error.lasting
    return FaceRow(*picture[:3], *(box or (None,) * 4)), lasting


def _box_of(row: FaceRow) -> Box | None:
    left, top, right, bottom = row[3:]
    return None if left is None or top is None or right is None or bottom is None else (left, top, right, bottom)


def _largest_face(picture: HeaderRow) -> Box | None:
    scale = min(1.0, _SIDE / max(picture.width, picture.height))
    width, height = (max(1, round(side * scale)) for side in (picture.width, picture.height))
    copy_HWC = load_rgb(picture.path, Geometry((width, height), (0, 0, width, height)))
    faces = _detector().detect_multi_scale(
        copy_HWC, scale_factor=1.2, step_ratio=1, min_size=(_SMALLEST, _SMALLEST), max_size=(height, width)
    )
    if not faces:
        return None
    face = min(faces, key=lambda item: (-item["width"] * item["height"], item["r"], item["c"]))
    x, y = picture.width / width, picture.height / height
    left, top, right, bottom = face["c"], face["r"], face["c"] + face["width"], face["r"] + face["height"]
    return round(left * x), round(top * y), round(right * x), round(bottom * y)


@functools.cache
def _detector() -> Cascade:
    from skimage.data import lbp_frontal_face_cascade_filename
    from skimage.feature import Cascade

    return Cascade(lbp_frontal_face_cascade_filename())
