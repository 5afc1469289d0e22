"""What a hub on loopback holds, and how clients find it."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

OWNER = "someone"
"""The account that every token belongs to."""

WRITE_TOKEN = "hf_LoopbackWriteToken"
READ_TOKEN = "hf_LoopbackReadToken"

Fault = Callable[[str, str], "int | None"]
"""(method, path) -> status that is answered instead of the truth, or None. It may wait."""


@dataclass
class Repository:
    """A model repository.

    Attributes:
        files: Path -> content at its head.
        commits: Messages, the oldest first.
        writable: Whether the account may write to it.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)
    writable: bool = True

    @property
    def head(self) -> str:
        """The commit that is its head."""
        return hashlib.sha1(json.dumps(self.commits).encode()).hexdigest()


class LoopbackHub:
    """A hub's state and its address.

    Attributes:
        repositories: By name, "owner/name".
        requests: Method and path of what was asked, in order.
        tokens: What the authorization headers held.
        fault: Makes requests fail.
        answering: Cleared, every request but those that `fault` answers waits until it is set again.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[tuple[str, str]] = []
        self.tokens: set[str] = set()
        self.fault: Fault = lambda method, path: None
        self.answering = threading.Event()
        self.answering.set()
        self.objects: dict[str, bytes] = {}
        self.address = ""

    def publish(self, name: str, folder: Path) -> Repository:
        """Put a folder's files into a repository."""
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        self.repositories[name] = Repository(files, ["published"])
        return self.repositories[name]

    def environment(self, folder: Path, token: str | None = WRITE_TOKEN) -> dict[str, str]:
        """Return the variables that point the client of a new process here; `folder` holds its cache."""
        variables = {
            "HF_ENDPOINT": self.address,
            "HF_HOME": str(folder),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        return {**variables, "HF_TOKEN": token} if token else variables

    def adopt(self, monkeypatch: pytest.MonkeyPatch, folder: Path, token: str | None = WRITE_TOKEN) -> None:
        """Point the client of this process here; `folder` holds its cache."""
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "ENDPOINT", self.address)
        template = f"{self.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "token"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        else:
            monkeypatch.delenv("HF_TOKEN", raising=False)
