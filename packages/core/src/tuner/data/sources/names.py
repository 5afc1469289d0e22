"""Relative paths for files whose names come from outside."""

from __future__ import annotations

import hashlib
import re

# What some file system refuses, or reads as a separator, and what terminals must not be sent.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f<>:\"|?*\\/]|[\ud800-\udfff]")
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,8}$")
_LONGEST_BYTES = 200  # of a component; file systems take 255, and a hash is still to be appended


def safe_path(path: str, distinction: str = "") -> str:
    """Return `path` as a relative path that stays below its folder, on every file system, and is not hidden.

    A path that is safe already is returned as it is. Where the folder or the name had to be changed, a hash of what
    it was is appended to it, so that different paths stay different. A picture and its text file, whose paths differ
    in their suffixes alone, still do so afterwards.

    Args:
        path: With forward slashes.
        distinction: Something that tells apart what has the same path, such as the query of an address.
    """
    folder, slash, name = path.rpartition("/")
    suffix = match[0] if (match := _SUFFIX.search(name)) else ""
    stem = name.removesuffix(suffix)
    safe_stem = _component(stem)
    if safe_stem != stem or distinction:
        safe_stem = f"{safe_stem}-{_hash(f'{stem}?{distinction}')}"
    if not slash:
        return safe_stem + suffix
    safe_folder = "/".join(_component(part) for part in folder.split("/") if part)
    if safe_folder != folder or not folder:
        safe_folder = f"{safe_folder}-{_hash(folder)}".lstrip("-")
    return f"{safe_folder}/{safe_stem}{suffix}"


def _component(name: str) -> str:
    safe = _UNSAFE.sub("_", name)
    safe = safe.encode()[:_LONGEST_BYTES].decode(errors="ignore")
    if safe.startswith("."):
        safe = "_" + safe[1:]
    safe = safe.rstrip(". ")
    return safe or "_"


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).hexdigest()
