"""The captions of a picture."""

from __future__ import annotations

from pathlib import Path

from tuner.config.datasets import DatasetConfig


class MissingCaption(Exception):  # noqa: N818 - planning catches it; it never reaches a user
    """A picture without a caption.

    Attributes:
        reason: Why; equal for all pictures with the same fault.
        remedy: What to do about it.
    """

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy


def captions_for(dataset: DatasetConfig, path: Path) -> tuple[str, ...]:
    """Return the captions that one is drawn from whenever the picture `path` is used.

    Raises:
        MissingCaption: The picture has none, or its text file cannot be read.
    """
    if dataset.caption_strategy == "textfile":
        return _from_textfile(path.with_suffix(".txt"))
    if dataset.caption_strategy == "instanceprompt":
        prompt = dataset.instance_prompt
        return (prompt,) if isinstance(prompt, str) else tuple(prompt or ())
    caption = path.stem.replace("_", " ").strip()
    if not caption:
        raise MissingCaption("its file name holds no caption", "rename the file or choose another caption_strategy")
    return (caption,)


def _from_textfile(path: Path) -> tuple[str, ...]:
    remedy = "write the caption to a .txt file of the picture's name beside it, or choose another caption_strategy"
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise MissingCaption("has no .txt file of its name beside it", remedy) from None
    except OSError as error:
        raise MissingCaption(f"its .txt file cannot be read: {error.strerror}", remedy) from error
    except UnicodeDecodeError:
        raise MissingCaption("its .txt file is not UTF-8 text", "save the file as UTF-8") from None
    captions = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not captions:
        raise MissingCaption("its .txt file is empty", remedy)
    return captions
