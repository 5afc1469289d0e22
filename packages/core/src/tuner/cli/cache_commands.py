"""The command `tuner cache`: filling the caches of a configuration, and looking after them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tuner.cli.run_commands import load, show_receipt
from tuner.config.loading import LoadedConfig
from tuner.errors import DatasetError

if TYPE_CHECKING:
    from tuner.caching.collecting import Amount, Contents
    from tuner.training.cache_needs import CacheNeeds

OPTIONS = {
    "cache": {
        "stat": "instead of filling, show what lies in each cache folder and what this configuration needs of it; "
        "with --json as JSON",
        "verify": "instead of filling, read every entry and name the damaged ones; the next filling rebuilds them",
        "gc": "instead of filling, show what this configuration does not need; with --yes delete it",
    }
}
"""Command -> its options beside settings -> what they do."""

_SHARED = "Other configurations may share these folders: what they need of it is encoded again when they next run."


def cache(arguments: Sequence[str]) -> int:
    """Fill the caches, or do what the first argument says."""
    actions = {"stat": stat, "verify": verify, "gc": gc}
    if arguments and arguments[0] in actions:
        return actions[arguments[0]](arguments[1:])
    loaded = load(arguments)
    show_receipt(loaded)
    from tuner.training.data import prepare_data
    from tuner.training.session import open_session

    data = prepare_data(open_session(loaded))
    if not data.plan.buckets:
        raise DatasetError("nothing is left to train on")
    print("all caches are full")
    return 0


def stat(arguments: Sequence[str]) -> int:
    """Show what lies in the cache folders, and how much of what is needed; with --json as one JSON object."""
    as_json, settings = _take("--json", arguments)
    surveyed = _survey(load(settings))
    if as_json:
        print(json.dumps({"folders": [_as_json(*item) for item in surveyed]}, indent=2))
    else:
        print("\n".join(line for item in surveyed for line in _stat_lines(*item)))
    return 0


def verify(arguments: Sequence[str]) -> int:
    """Read every entry of the cache folders and name those that are damaged.

    Returns:
        1 if any is damaged; those are dropped, so that the next filling rebuilds them.
    """
    loaded = load(arguments)
    from tuner.caching.store import ShardStore
    from tuner.tracking.bars import reporting
    from tuner.training.cache_needs import cache_folders

    faults = 0
    for folder, holds in cache_folders(loaded.config).items():
        store = ShardStore(folder)
        with reporting(f"reading {folder}", "record") as progress:
            damaged = store.verify(progress)
        for key in damaged:
            print(f"damaged: {store.describe(key)}")
        print(f"{folder} ({', '.join(holds)}): {_number(len(store) - len(damaged))} entries are whole")
        store.discard(damaged)
        faults += len(damaged) + len(store.faults)
    if faults:
        print(f"{_number(faults)} damaged; `tuner cache` rebuilds what is needed, `tuner cache gc` deletes the rest")
    return 1 if faults else 0


def gc(arguments: Sequence[str]) -> int:
    """Show what the cache folders hold beside what is needed; with --yes delete it."""
    confirmed, settings = _take("--yes", arguments)
    surveyed = _survey(load(settings))
    from tuner.caching.collecting import free

    total = 0
    for needs, contents in surveyed:
        lines, nbytes = _garbage_lines(contents)
        total += nbytes
        print(f"{needs.store.folder} ({', '.join(needs.holds)}): {_bytes(nbytes)} to free")
        print("\n".join(f"  {line}" for line in lines), end="\n" if lines else "")
        if confirmed:
            free(needs.store, contents)
    if confirmed:
        print(f"freed {_bytes(total)}")
    elif total:
        print(f"{_bytes(total)} would be freed; nothing is deleted without --yes.\n{_SHARED}")
    return 0


def _take(option: str, arguments: Sequence[str]) -> tuple[bool, list[str]]:
    return option in arguments, [argument for argument in arguments if argument != option]


def _survey(loaded: LoadedConfig) -> list[tuple[CacheNeeds, Contents]]:
    from tuner.caching.collecting import survey
    from tuner.training.cache_needs import cache_needs
    from tuner.training.session import open_session

    return [(needs, survey(needs.store, needs.needed)) for needs in cache_needs(open_session(loaded))]


def _stat_lines(needs: CacheNeeds, contents: Contents) -> list[str]:
    lines = [
        f"{needs.store.folder} ({', '.join(needs.holds)})",
        f"  needed     {_number(contents.present)} of {_number(contents.needed)} entries are there",
        f"  entries    {_amount(contents.entries)} in {_number(len(contents.shards))} shards",
    ]
    garbage = _garbage_lines(contents)[0]
    return lines + [f"  {'to free' if not number else '':<10} {line}" for number, line in enumerate(garbage)]


def _garbage_lines(contents: Contents) -> tuple[list[str], int]:
    """Return what may be freed and why, and its bytes."""
    from tuner.caching.collecting import Amount

    reasons: dict[str, Amount] = {
        "entries that this configuration does not need": contents.unneeded,
        "entries that are damaged, replaced or there a second time": contents.void,
        "damaged shards that were set aside": Amount.of_files(contents.damaged),
        "unfinished files of processes that have ended": Amount.of_files(contents.leftovers),
    }
    lines = [
        f"{_number(amount.count)} {why}, {_bytes(amount.nbytes)}" for why, amount in reasons.items() if amount.count
    ]
    return lines, sum(amount.nbytes for amount in reasons.values())


def _as_json(needs: CacheNeeds, contents: Contents) -> dict[str, Any]:
    from tuner.caching.collecting import Amount

    amounts = {
        "entries": contents.entries,
        "unneeded": contents.unneeded,
        "void": contents.void,
        "shards": Amount.of_files(contents.shards),
        "damaged_files": Amount.of_files(contents.damaged),
        "leftovers": Amount.of_files(contents.leftovers),
    }
    return {
        "folder": str(needs.store.folder),
        "holds": list(needs.holds),
        "needed": contents.needed,
        "present": contents.present,
        **{name: {"count": amount.count, "bytes": amount.nbytes} for name, amount in amounts.items()},
    }


def _amount(amount: Amount) -> str:
    return f"{_number(amount.count)}, {_bytes(amount.nbytes)}"


def _number(count: int) -> str:
    return f"{count:,}"


def _bytes(count: int) -> str:
    power = min((max(count, 1).bit_length() - 1) // 10, 4)
    return f"{count / 1024**power:,.1f} {('', 'KiB', 'MiB', 'GiB', 'TiB')[power]}" if power else f"{count} bytes"
