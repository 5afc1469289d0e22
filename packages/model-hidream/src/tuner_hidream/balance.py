"""The load-balancing loss of HiDream's mixtures of experts.

For a mixture of E experts, L = sum over e of P_e * f_e (Fedus, Zoph and Shazeer 2021, "Switch Transformers", section
2.2). P_e is the mean of the router's softmax over the tokens and carries the gradient; f_e is E times the share of
the top-k slots that expert e gets. Equally busy experts give 1.

Legend: B batch, S tokens, D width, E experts, K experts per token.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from diffusers.models.transformers.transformer_hidream_image import MoEGate
from torch import Tensor, nn
from torch.nn import functional

Routes = list[tuple[Tensor, Tensor]]
"""For each mixture, in the order in which they ran: the router's softmax (B, S, E) and the experts chosen (B, S, K)."""

_routes: ContextVar[Routes | None] = ContextVar("routes of the prediction in progress", default=None)


def watch_routers(denoiser: nn.Module) -> None:
    """Let `recording` see the routes of a denoiser; to be called once."""
    for module in denoiser.modules():
        if isinstance(module, MoEGate):
            module.register_forward_hook(_record)


@contextmanager
def recording() -> Iterator[Routes]:
    """Collect the routes of what runs inside the block under gradients, with their gradients.

    What gradient checkpointing runs again during the backward pass is outside the block and so is not collected.
    """
    routes: Routes = []
    token = _routes.set(routes)
    try:
        yield routes
    finally:
        _routes.reset(token)


def load_balance(scores_BSE: Tensor, chosen_BSK: Tensor, padding: slice) -> Tensor:
    """Return the loss of one mixture, a float32 scalar.

    Args:
        scores_BSE: The router's softmax.
        chosen_BSK: Numbers of the experts that each token was sent to.
        padding: Tokens that do not count.
    """
    busy_E = expert_usage(scores_BSE.shape[-1], chosen_BSK, padding)
    return (_without(scores_BSE, padding).float().mean(dim=(0, 1)) * busy_E).sum()


def expert_usage(experts: int, chosen_BSK: Tensor, padding: slice) -> Tensor:
    """Return E times the share of the slots that each expert gets, of shape (E,); 1 is an equal share."""
    chosen_BSK = _without(chosen_BSK, padding)
    slots = chosen_BSK.unsqueeze(-1) == torch.arange(experts, device=chosen_BSK.device)
    return experts * slots.float().mean(dim=(0, 1, 2))


def _record(gate: Any, inputs: tuple[Tensor], outputs: tuple[Tensor, ...]) -> None:
    """Forward hook of a router.

    It computes the softmax even where nobody collects it: gradient checkpointing demands that a second run saves
    the same tensors as the first.
    """
    if not torch.is_grad_enabled():
        return
    states_BSD = inputs[0]
    scores_BSE = functional.linear(states_BSD, gate.weight).softmax(dim=-1)
    routes = _routes.get()
    if routes is not None:
        routes.append((scores_BSE, outputs[0].view(*states_BSD.shape[:2], -1)))


def _without(tensor_BS: Tensor, padding: slice) -> Tensor:
    return torch.cat([tensor_BS[:, : padding.start], tensor_BS[:, padding.stop :]], dim=1)
