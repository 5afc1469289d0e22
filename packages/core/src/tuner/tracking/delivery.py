"""Posting messages from a thread of its own: what is told never waits for the network, and never fails."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import requests

from tuner.config.webhooks import Webhook
from tuner.tracking.messages import Message, requests_of

logger = logging.getLogger(__name__)

CAPACITY = 256
"""Messages that may wait."""

PICTURES_IN_MEMORY = 16
"""Messages that may wait before one that holds pictures in memory is dropped."""

DELAYS = (1.0, 4.0, 16.0)
"""Seconds before each further attempt."""

LAST_DELAY = 0.5
"""Seconds before each further attempt once the run is over."""

LONGEST_DELAY = 60.0
"""Seconds; a server that asks for more is not waited for."""

TIMEOUTS = (5.0, 15.0)
"""Seconds to connect, and between two bytes."""

LAST_WAIT = 30.0
"""Seconds that the end of a run waits for what has not been sent."""


@dataclass(frozen=True)
class Failure:
    """Why an attempt failed.

    Attributes:
        reason: For people; without the address.
        is_final: Whether another attempt makes no sense.
        delay: Seconds that the server asks to wait.
    """

    reason: str
    is_final: bool = False
    delay: float = 0.0


class Delivery:
    """Sends messages to one webhook, in order, until it is closed.

    After a message that no attempt could deliver, the next ones get a single attempt each until one succeeds.

    Args:
        webhook: Where to.
        label: Name in the log; addresses and tokens are never logged.
        capacity: Messages that may wait; more are dropped and counted.
        delays: Seconds before each further attempt.
        timeouts: Seconds to connect, and between two bytes.
        wait: (seconds, whether the server asks for them) -> whether the delivery has given up by then.
    """

    def __init__(
        self,
        webhook: Webhook,
        label: str,
        *,
        capacity: int = CAPACITY,
        delays: tuple[float, ...] = DELAYS,
        timeouts: tuple[float, float] = TIMEOUTS,
        wait: Callable[[float, bool], bool] | None = None,
    ) -> None:
        self._webhook = webhook
        self._label = label
        self._delays = delays
        self._timeouts = timeouts
        self._closing = threading.Event()
        self._given_up = threading.Event()
        self._wait = wait or self._pause
        self._queue: queue.Queue[Message | None] = queue.Queue(capacity)
        self._is_down = False
        self._warned = False
        self._told = self._delivered = 0
        # A daemon, so that a server that hangs cannot keep the process from ending.
        self._thread = threading.Thread(target=self._run, name=label, daemon=True)
        self._thread.start()

    def put(self, message: Message) -> None:
        """Have a message sent, or drop it where too many wait. Returns at once."""
        self._told += 1
        if message.is_heavy and self._queue.qsize() >= PICTURES_IN_MEMORY:
            self._warn("is too slow for all that is told")
            return
        try:
            self._queue.put_nowait(message)
        except queue.Full:
            self._warn("is too slow for all that is told")

    def close(self, timeout: float = LAST_WAIT) -> int:
        """Wait for what has not been sent, for `timeout` seconds at most; return how many messages were lost."""
        deadline = time.monotonic() + timeout
        self._closing.set()
        try:
            self._queue.put(None, timeout=timeout)
        except queue.Full:
            pass
        else:
            self._thread.join(max(0.0, deadline - time.monotonic()))
        self._given_up.set()
        lost = self._told - self._delivered
        if lost:
            logger.warning("%s: %d of %d messages were not delivered", self._label, lost, self._told)
        return lost

    def _run(self) -> None:
        with requests.Session() as session:
            while (message := self._queue.get()) is not None:
                if self._given_up.is_set():
                    return
                try:
                    posts = requests_of(self._webhook, message)
                    self._delivered += self._deliver(session, posts)
                except Exception as error:  # a picture that is gone, or whatever a library raises
                    self._warn(f"cannot be told {message.kind} ({type(error).__name__})")

    def _deliver(self, session: requests.Session, posts: Iterable[dict[str, Any]]) -> bool:
        """Send the posts of one message; stop at the first that cannot be delivered."""
        return all(self._send(session, post) for post in posts)

    def _send(self, session: requests.Session, post: dict[str, Any]) -> bool:
        reason = ""
        for delay in (*(() if self._is_down else self._delays), None):
            failure = self._attempt(session, post)
            if failure is None:
                self._is_down = False
                return True
            reason = failure.reason
            if failure.is_final or delay is None or failure.delay > LONGEST_DELAY:
                break
            if self._wait(max(delay, failure.delay), failure.delay > delay):
                break
        self._is_down = True
        self._warn(reason)
        return False

    def _attempt(self, session: requests.Session, post: dict[str, Any]) -> Failure | None:
        token = self._webhook.auth_token
        headers = {"X-API-Key": token.get_secret_value()} if token and self._webhook.webhook_type == "raw" else {}
        try:
            response = session.post(
                self._webhook.address,
                **post,
                headers=headers,
                timeout=self._timeouts,
                verify=not self._webhook.ssl_no_verify,
                allow_redirects=False,  # the token is meant for this address alone
                stream=True,  # what the server has to say is not read
            )
        except requests.RequestException as error:  # its text holds the address
            return Failure(f"cannot be reached ({type(error).__name__})")
        response.close()
        status = response.status_code
        if 200 <= status < 300:
            return None
        passing = status in (408, 425, 429) or status >= 500
        return Failure(f"answers {status}", not passing, _seconds(response.headers.get("Retry-After")))

    def _pause(self, seconds: float, asked: bool) -> bool:
        """Wait. At the end of a run, patience is for servers that ask for it."""
        if asked or not self._closing.is_set():
            ended = self._given_up if asked else self._closing
            ended.wait(seconds)
        return self._given_up.wait(0 if asked or not self._closing.is_set() else LAST_DELAY)

    def _warn(self, reason: str) -> None:
        if not self._warned:
            self._warned = True
            logger.warning("%s %s; the run goes on, and messages may be lost", self._label, reason)


def _seconds(text: str | None) -> float:
    """Parse a Retry-After header; 0 for a date, which our own delays must do for."""
    try:
        return max(0.0, float(text or 0))
    except ValueError:
        return 0.0
