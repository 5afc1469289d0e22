"""The cache of conditionings: each prompt is encoded once per role and kept as one row."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tuner.caching.filling import FillReport, Progress, is_finite
from tuner.caching.fingerprints import hash_fields
from tuner.caching.store import ShardStore
from tuner.errors import NonFiniteError, PluginError
from tuner.types import Conditioning, Role

Request = tuple[str, Role]
"""A prompt and why it is encoded."""

EncodePrompts = Callable[[Sequence[str], Role], Conditioning]
"""The family's `encode_prompt`, with its components bound."""


def conditioning_key(
    prompt: str, role: Role, family_name: str, encoder_fingerprint: str, dtype: torch.dtype, options_json: str
) -> str:
    """Return the key of a conditioning: a hash of all that its numbers depend on.

    The number of prompts encoded together is left out: it may change the last bits, never the meaning.
    """
    return hash_fields("conditioning 1", prompt, role, family_name, encoder_fingerprint, str(dtype), options_json)


@dataclass(frozen=True)
class ConditioningCache:
    """Conditionings by prompt and role, for one set of text encoders.

    Attributes:
        store: Where they lie.
        family_name: Canonical name of the family.
        encoder_fingerprint: Fingerprint of the text encoders and tokenizers.
        dtype: dtype that the encoders are loaded in.
        options_json: The family's own settings, as JSON with sorted keys.
    """

    store: ShardStore
    family_name: str
    encoder_fingerprint: str
    dtype: torch.dtype
    options_json: str

    def key_of(self, prompt: str, role: Role) -> str:
        """Return the key of a prompt's conditioning."""
        return conditioning_key(prompt, role, self.family_name, self.encoder_fingerprint, self.dtype, self.options_json)

    def read(self, prompt: str, role: Role) -> dict[str, Tensor]:
        """Return a prompt's row: tensors without batch dimension, on the CPU.

        Raises:
            CacheError: It is missing, or damaged (`DamagedEntry`).
        """
        return self.store.read(self.key_of(prompt, role))

    def fill(
        self,
        requests: Iterable[Request],
        *,
        open_encoder: Callable[[], EncodePrompts],
        batch_size: int,
        write_batch_size: int,
        alone: Collection[Request] = (),
        progress: Progress | None = None,
    ) -> FillReport:
        """Encode what is missing.

        Args:
            requests: All prompts, each with its role; equal ones are encoded once.
            open_encoder: Loads the encoders; called only if something is missing.
            batch_size: Prompts encoded together.
            write_batch_size: Rows written together; a killed process loses at most twice as many.
            alone: Those of the requests that are encoded each by itself, since the company of a row may change its last
                bits.
            progress: Called after every batch.

        Raises:
            CacheError: The cache cannot be written.
            NonFiniteError: A conditioning is NaN or infinite; names the prompts.
            PluginError: The family returned another number of rows than it was given prompts.
        """
        asked = list(requests)
        missing = [request for request in dict.fromkeys(asked) if self.key_of(*request) not in self.store]
        if not missing:
            return FillReport(encoded=0, reused=len(asked))
        done = 0
        with self.store.writer(write_batch_size) as writer:
            encode = open_encoder()
            together = [request for request in missing if request not in alone]
            by_itself = [request for request in missing if request in alone]
            for prompts, role in (*_batches(by_itself, 1), *_batches(together, batch_size)):
                rows = self._encode(encode, prompts, role)
                for prompt, row in zip(prompts, rows, strict=True):
                    writer.add(self.key_of(prompt, role), row, note={"prompt": prompt, "role": role})
                done += len(prompts)
                if progress is not None:
                    progress(done, len(missing))
        return FillReport(encoded=done, reused=len(asked) - done)

    @torch.inference_mode()
    def _encode(self, encode: EncodePrompts, prompts: Sequence[str], role: Role) -> list[dict[str, Tensor]]:
        tensors = {name: tensor.to("cpu") for name, tensor in encode(prompts, role).items()}
        for name, tensor in tensors.items():
            if tensor.shape[:1] != (len(prompts),):
                raise PluginError(
                    f"family {self.family_name}: encode_prompt returned {name} of shape {tuple(tensor.shape)} for "
                    f"{len(prompts)} prompts; the first dimension must be the number of prompts"
                )
        rows = [{name: tensor[row] for name, tensor in tensors.items()} for row in range(len(prompts))]
        broken = [
            repr(prompt) for prompt, row in zip(prompts, rows, strict=True) if not all(map(is_finite, row.values()))
        ]
        if broken:
            raise NonFiniteError(
                f"the text encoders give NaN or infinite values for the {role} prompts {', '.join(broken)}\n"
                "    -> use another precision for the text encoders, or change these prompts"
            )
        return rows


def collate(rows: Sequence[Mapping[str, Tensor]], padding: Mapping[str, float] | None = None) -> Conditioning:
    """Stack rows of equal names into one conditioning, in the order given.

    Args:
        rows: One per sample; shapes are equal, except for the first dimension of what `padding` names.
        padding: Tensor name -> value that fills the end of shorter rows.
    """
    padding = padding or {}
    stacked = {}
    for name in rows[0]:
        tensors = [row[name] for row in rows]
        if name in padding:
            stacked[name] = pad_sequence(tensors, batch_first=True, padding_value=padding[name])
        else:
            stacked[name] = torch.stack(tensors)
    return stacked


def _batches(requests: Sequence[Request], batch_size: int) -> Iterator[tuple[list[str], Role]]:
    """Yield batches of prompts that share a role."""
    by_role: dict[Role, list[str]] = {}
    for prompt, role in requests:
        by_role.setdefault(role, []).append(prompt)
    for role, prompts in by_role.items():
        for start in range(0, len(prompts), batch_size):
            yield prompts[start : start + batch_size], role
