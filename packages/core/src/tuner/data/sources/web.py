"""Fetching single files from web servers."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter, Retry

_TIMEOUT_S = (10.0, 60.0)
"""For connecting, and for each wait for more bytes."""
_BUSY = (429, 500, 502, 503, 504)
_BROKEN_OFF = (requests.Timeout, requests.ConnectionError, requests.exceptions.ChunkedEncodingError)
_HOST_IS_GONE = 20  # failures in a row


class NotFetched(Exception):  # noqa: N818 - a source catches it; it never reaches a user
    """A file that could not be fetched.

    Attributes:
        reason: Why; equal for all files with the same fault.
        remedy: What to do about it.
    """

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy


class WebClient:
    """Fetches files, for several threads at once. A host that never answers is not asked for every file."""

    def __init__(self, connections: int) -> None:
        # A busy server is asked again after a moment; it may ask for more patience than a run has.
        retry = Retry(
            2,
            backoff_factor=0.5,
            status_forcelist=_BUSY,
            raise_on_status=False,
            respect_retry_after_header=False,
        )
        adapter = HTTPAdapter(pool_connections=connections, pool_maxsize=connections, max_retries=retry)
        self._session = requests.Session()
        self._session.headers["User-Agent"] = "tuner"
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, adapter)
        # What it says while it tries again repeats the addresses, and these may hold keys.
        logging.getLogger("urllib3").setLevel(logging.ERROR)
        self._silent: Counter[str] = Counter()
        self._lock = threading.Lock()

    def fetch(self, address: str, target: Path) -> None:
        """Write what a server has at `address` to `target`.

        Raises:
            NotFetched: It is not to be had.
            OSError: `target` cannot be written.
        """
        host = urlsplit(address).netloc
        if self._silent[host] >= _HOST_IS_GONE:
            raise NotFetched("its server has stopped answering", "run again later; what was copied is kept")
        try:
            with self._session.get(address, stream=True, timeout=_TIMEOUT_S) as answer:
                self._heard_from(host)
                if answer.status_code != 200:
                    reason = f"its server answers {answer.status_code}"
                    raise NotFetched(reason, "correct or remove the address; or run again later")
                with target.open("wb") as file:
                    for block in answer.iter_content(1 << 16):
                        file.write(block)
        except _BROKEN_OFF as error:
            with self._lock:
                self._silent[host] += 1
            raise NotFetched(
                "its server cannot be reached, or breaks off", "check the address and the connection; or run again"
            ) from error
        except (requests.RequestException, ValueError) as error:  # urllib3 has ValueErrors of its own
            # Not its text, which may repeat the address, and addresses may hold keys.
            raise NotFetched("its address cannot be followed", "correct it") from error

    def _heard_from(self, host: str) -> None:
        with self._lock:
            self._silent[host] = 0
