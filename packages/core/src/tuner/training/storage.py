"""Storing the loaded parts of a model quantised, where the settings say so."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

from tuner.config.storage import StoredPart
from tuner.errors import ConfigError, Problem
from tuner.quantisation.storing import StoringReport, store_frozen
from tuner.types import Components, QuantisationPolicy

logger = logging.getLogger(__name__)


def check_devices(stored: Sequence[StoredPart], device: torch.device) -> None:
    """Refuse formats that the device cannot compute with.

    Raises:
        ConfigError: Naming all of them.
    """
    unable = [part for part in stored if device.type not in part.scheme.devices]
    if unable:
        raise ConfigError(
            Problem(
                f"{part.scheme.name} computes on {', '.join(part.scheme.devices)}, and this run is on {device.type}",
                key=part.key,
                remedy="use int8-quanto, or no_change",
            )
            for part in unable
        )


def store_components(
    components: Components,
    stored: Sequence[StoredPart],
    policy: QuantisationPolicy,
    *,
    via: torch.device,
    device: torch.device,
) -> None:
    """Store the networks that `stored` names, and put everything on the device.

    Args:
        components: What was loaded, on the CPU. Changed in place.
        stored: What of it is quantised, and how.
        policy: The family's.
        via: Where weights are converted.
        device: Where the run computes.
    """
    networks = dict(components.text_encoders)
    if components.denoiser is not None:
        networks[_denoiser_folder(stored)] = components.denoiser
    for part in stored:
        skip = policy.parts[part.part].skip_layers
        report = store_frozen(networks[part.folder], part.scheme, skip, via=via, device=device)
        logger.info("%s is stored as %s: %s", part.folder, part.scheme.name, _summary(report))
    for network in networks.values():
        network.to(device)


def _denoiser_folder(stored: Sequence[StoredPart]) -> str:
    return next((part.folder for part in stored if part.part == "denoiser"), "denoiser")


def _summary(report: StoringReport) -> str:
    text = f"{len(report.stored)} linear layers, {report.bytes_before / 1e6:,.1f} MB before and "
    text += f"{report.bytes_after / 1e6:,.1f} MB after"
    if report.skipped:
        text += f"; {len(report.skipped)} delicate ones stay as they are"
    if report.unfit:
        text += f"; {len(report.unfit)} of unfit sizes stay too, such as {report.unfit[0]}"
    return text
