"""Whether the hub lets this run publish: asked before anything is computed."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from tuner.config import RunConfig
from tuner.config.publishing import safe_repository_name
from tuner.errors import TunerError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

PATIENCE_SECONDS = 60.0
"""How long a hub may take to answer; its client itself would wait for ever."""

_LOG_IN = "log in with `hf auth login` (`huggingface-cli login` in older versions), or set HF_TOKEN"
_ELSE = "or turn push_to_hub off"


class PublishingError(TunerError):
    """The hub does not let a run publish, or cannot be asked."""


def repository_name(config: RunConfig) -> str:
    """Return the name of the repository that a run publishes to; without its owner if it is below one's account."""
    if config.publishing.hub_model_id:
        return config.publishing.hub_model_id
    folder = config.model.output_dir.resolve().name
    return safe_repository_name(f"{config.model.model_family}-{kind_of(config)}-{folder}")


def kind_of(config: RunConfig) -> str:
    """Return what a run trains, in a word: "lora", a LyCORIS algorithm such as "lokr", or "full"."""
    if config.model.model_type == "full":
        return "full"
    if config.adapter.lora_type == "standard":
        return "lora"
    return config.lycoris.algo if config.lycoris else "lycoris"


def open_repository(config: RunConfig) -> str | None:
    """Make the run's repository if it does not exist, and make sure that it may be written to.

    Returns:
        The repository, as owner/name; None if the run publishes nothing.

    Raises:
        PublishingError: There are no credentials, they do not suffice, or the hub cannot be reached.
    """
    if not config.publishing.push_to_hub:
        return None
    from huggingface_hub import CommitOperationAdd, HfApi

    api, name = HfApi(), repository_name(config)

    def ask() -> str:
        account = _account(api)
        repository = name if "/" in name else f"{account}/{name}"
        try:
            api.create_repo(repository, exist_ok=True)
            # Asks how a file would be uploaded, which only those may who may write; nothing is uploaded.
            api.preupload_lfs_files(repository, [CommitOperationAdd("README.md", b"-")])
        except Exception as error:  # the client raises its own, the transport's and the operating system's errors
            raise _refusal(error, api, repository, account) from error
        return repository

    _opened[api.endpoint, name] = repository = _answer_in_time(ask, api)
    return repository


_opened: dict[tuple[str, str], str] = {}
"""(hub, name as configured) -> repository that this process has opened."""


def opened_repository(config: RunConfig) -> str | None:
    """Return what `open_repository` returned for a configuration, without asking again.

    Raises:
        PublishingError: It was not opened yet, and cannot be.
    """
    if not config.publishing.push_to_hub:
        return None
    from huggingface_hub import HfApi

    return _opened.get((HfApi().endpoint, repository_name(config))) or open_repository(config)


def describe(error: BaseException) -> str:
    """Return an error's class and first line, without the token."""
    from huggingface_hub import get_token

    text = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
    token = get_token()
    return text.replace(token, "(hidden)") if token else text


def may_pass(error: BaseException) -> bool:
    """Whether what went wrong may be over soon: the hub has too much to do, fails, or cannot be reached."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    status = _status(error)
    if status is not None:
        return status in (408, 429) or status >= 500
    # A download names its trouble with the connection so; the transport's own errors have no base of Python's.
    passing = (ConnectionError, TimeoutError, LocalEntryNotFoundError)
    return isinstance(error, passing) or type(error).__module__.startswith("httpx")


def _account(api: HfApi) -> str:
    """Return the name of the account that the credentials belong to."""
    from huggingface_hub import get_token

    if get_token() is None:
        raise PublishingError(f"push_to_hub: nobody is logged in to {api.endpoint}\n    -> {_LOG_IN}, {_ELSE}")
    try:
        account = api.whoami()
    except Exception as error:  # as above
        if _status(error) in (401, 403):
            raise PublishingError(
                f"push_to_hub: {api.endpoint} does not accept the token: {describe(error)}\n    -> {_LOG_IN}, {_ELSE}"
            ) from error
        raise _unreachable(api, describe(error)) from error
    if account.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise PublishingError(
            f"push_to_hub: the token of {account['name']} may only read\n"
            f"    -> make one that may write (at {api.endpoint}/settings/tokens) and {_LOG_IN}, {_ELSE}"
        )
    return str(account["name"])


def _refusal(error: Exception, api: HfApi, repository: str, account: str) -> PublishingError:
    if _status(error) not in (401, 403, 404):
        return _unreachable(api, describe(error))
    return PublishingError(
        f"hub_model_id: {account} may not write to {repository}: {describe(error)}\n"
        f"    -> name a repository of {account}'s or of one of its organisations, or use a token that may write there"
    )


def _unreachable(api: HfApi, reason: str) -> PublishingError:
    return PublishingError(
        f"push_to_hub: {api.endpoint} cannot be asked whether it takes the result: {reason}\n"
        f"    -> check the connection and HF_ENDPOINT, try again later, {_ELSE}"
    )


def _status(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _answer_in_time(ask: Callable[[], str], api: HfApi) -> str:
    """Ask in a thread of its own, which is left behind where the hub never answers."""
    answers: queue.SimpleQueue[str | BaseException] = queue.SimpleQueue()

    def work() -> None:
        try:
            answers.put(ask())
        except BaseException as error:  # raised again where it is waited for
            answers.put(error)

    threading.Thread(target=work, name="tuner-hub-access", daemon=True).start()
    try:
        answer = answers.get(timeout=PATIENCE_SECONDS)
    except queue.Empty:
        raise _unreachable(api, f"no answer within {PATIENCE_SECONDS:g} seconds") from None
    if isinstance(answer, BaseException):
        raise answer
    return answer
