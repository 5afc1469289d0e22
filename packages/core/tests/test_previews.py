"""Clean latents as samplers see them, and pictures of them by way of a tiny autoencoder."""

import os
import subprocess
import sys
from contextlib import ExitStack

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderTiny,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

from tuner.config.loading import load_config
from tuner.errors import TunerError
from tuner.testing.hub import loopback_hub
from tuner.testing.tiny import write_tiny_autoencoder
from tuner.types import Sampler
from tuner.validation.estimates import SamplingStep, watching_steps
from tuner.validation.previews import Previews, load_tiny_decoder

CPU = torch.device("cpu")


def flow(kind, **more):
    return kind(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, **more)


def edm() -> FlowMatchEulerDiscreteScheduler:
    """As the pipeline of Cosmos sets it: coordinates x0 + s * noise with s from 80."""
    scheduler = FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True)
    scheduler.register_to_config(sigma_max=80.0, sigma_min=0.002, sigma_data=1.0, final_sigmas_type="sigma_min")
    return scheduler


SCHEDULERS = {
    "euler": lambda: FlowMatchEulerDiscreteScheduler(shift=3.0),
    "inverted": lambda: FlowMatchEulerDiscreteScheduler(invert_sigmas=True, num_train_timesteps=1),
    "edm": edm,
    "dpm": lambda: flow(DPMSolverMultistepScheduler),
    "unipc": lambda: flow(UniPCMultistepScheduler),
}


def sample(scheduler, velocity_of, steps: int = 6):
    """Walk from noise; `velocity_of` gives what the network would say, in the scheduler's coordinates."""
    if getattr(scheduler.config, "invert_sigmas", False):
        scheduler.set_timesteps(sigmas=np.linspace(1, 0, steps + 1)[:steps])
    else:
        scheduler.set_timesteps(steps)
    x = torch.randn(1, 4, 3, 2, generator=torch.Generator().manual_seed(1)) * max(1.0, float(scheduler.sigmas[0]))
    for number, t in enumerate(scheduler.timesteps):
        x = scheduler.step(velocity_of(x, float(scheduler.sigmas[number])), t, x, return_dict=False)[0]
    return x


@pytest.mark.parametrize("name", SCHEDULERS)
def test_true_velocities_give_the_clean_latent_at_every_step(name):
    scheduler = SCHEDULERS[name]()
    x0 = torch.linspace(-2, 2, 24).view(1, 4, 3, 2)
    inverted = name == "inverted"

    def velocity_of(x, sigma):
        return (x0 - x) / (1 - sigma) if inverted else (x - x0) / sigma

    seen = []
    with watching_steps(scheduler, lambda step: seen.append((step.number, step.steps, step.x0(), step.sigma()))):
        sample(scheduler, velocity_of)
    assert [row[:2] for row in seen] == [(number, 6) for number in range(1, 7)]
    for _, _, estimate, _ in seen:
        torch.testing.assert_close(estimate, x0, rtol=0, atol=2e-5)
    left = [sigma for *_, sigma in seen]
    assert left == sorted(left, reverse=True) and 0 < left[0] < 1
    assert left[-1] == pytest.approx(0.0, abs=2.1e-3)
    assert "step" not in scheduler.__dict__


def test_only_steps_that_n_divides_are_told_and_nothing_changes():
    def velocity_of(x, sigma):
        return torch.sin(3 * x) + sigma

    plain = sample(SCHEDULERS["unipc"](), velocity_of, steps=20)
    scheduler, numbers = SCHEDULERS["unipc"](), []

    def see(step: SamplingStep) -> None:
        numbers.append(step.number)
        step.x0().fill_(float("nan"))

    with watching_steps(scheduler, see, every=5):
        assert torch.equal(sample(scheduler, velocity_of, steps=20), plain)
    assert numbers == [5, 10, 15, 20]


def test_watchers_can_be_inside_each_other():
    scheduler, outer, inner = SCHEDULERS["euler"](), [], []
    with ExitStack() as stack:
        stack.enter_context(watching_steps(scheduler, lambda step: outer.append(step.number)))
        with watching_steps(scheduler, lambda step: inner.append(step.number), every=2):
            sample(scheduler, lambda x, sigma: x, steps=4)
        sample(scheduler, lambda x, sigma: x, steps=1)
    assert inner == [2, 4]
    assert outer == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("kind", [DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler])
def test_a_sampler_of_noise_predictions_is_refused(kind):
    with pytest.raises(TunerError, match=f"{kind.__name__} takes no velocities"):
        watching_steps(kind(), lambda step: None)


@pytest.mark.parametrize(("channels", "stride", "shape"), [(4, 8, (1, 4, 3, 2)), (16, 8, (1, 16, 1, 3, 2))])
def test_pictures_are_those_of_the_tiny_autoencoder(tmp_path, channels, stride, shape):
    folder = write_tiny_autoencoder(tmp_path / "tiny", channels, stride)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    picture = load_tiny_decoder(str(folder), channels, CPU, torch.float32).decode(latents)
    assert picture.mode == "RGB" and picture.size == (16, 24)
    with torch.no_grad():
        pixels = AutoencoderTiny.from_pretrained(folder).decode(latents.view(1, channels, 3, 2)).sample[0]
    expected = (pixels.permute(1, 2, 0).numpy() + 1) * 127.5
    assert expected.std() > 1
    assert np.abs(np.asarray(picture) - expected.clip(0, 255)).max() <= 0.51


def test_what_cannot_decode_is_refused(tmp_path):
    folder = write_tiny_autoencoder(tmp_path / "tiny", 4, 8)
    with pytest.raises(TunerError, match="is for latents of 4 channels, not 16"):
        load_tiny_decoder(str(folder), 16, CPU, torch.float32)
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(TunerError, match="cannot be loaded"):
        load_tiny_decoder(str(folder), 4, CPU, torch.float32)


LOAD = """
import sys, torch
from tuner.validation.previews import load_tiny_decoder
picture = load_tiny_decoder("owner/tiny", 4, torch.device("cpu"), torch.float32).decode(torch.zeros(1, 4, 2, 3))
print(picture.size)
"""


def test_a_repository_of_the_hub_gives_weights_and_nothing_else(tmp_path):
    with loopback_hub() as hub:
        published = hub.publish("owner/tiny", write_tiny_autoencoder(tmp_path / "tiny", 4, 8))
        published.files |= {"diffusion_pytorch_model.bin": b"pickle", "taesd_decoder.safetensors": b"another layout"}
        environment = os.environ | hub.environment(tmp_path / "hub")
        command = [sys.executable, "-c", LOAD]
        online = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert online.stdout == "(24, 16)\n", online.stderr
    assert hub.requests
    assert not any(path.endswith((".bin", "taesd_decoder.safetensors")) for _, path in hub.requests)
    # The server is gone, and what it gave is here.
    again = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert again.stdout == "(24, 16)\n", again.stderr


class _Pipeline:
    def __init__(self, scheduler):
        self.scheduler = scheduler


@pytest.mark.parametrize("broken", ["channels", "listener", "scheduler"])
def test_a_preview_that_fails_is_the_last_and_stops_nothing(tmp_path, caplog, broken):
    decoder = load_tiny_decoder(str(write_tiny_autoencoder(tmp_path / "tiny", 4, 8)), 4, CPU, torch.float32)
    heard = []

    def tell(event):
        heard.append(event)
        if broken == "listener":
            raise RuntimeError("deaf")

    scheduler = DDIMScheduler() if broken == "scheduler" else SCHEDULERS["euler"]()
    previews = Previews(decoder, 2, tell)
    shape = (1, 5 if broken == "channels" else 4, 2, 2)
    for _ in range(2):
        with previews.watching(Sampler(_Pipeline(scheduler), lambda *_: {}), 7, "cat", "a cat"):
            scheduler.set_timesteps(4)
            for t in scheduler.timesteps:
                scheduler.step(torch.zeros(shape), t, torch.zeros(shape))
    assert len(heard) == (1 if broken == "listener" else 0)
    told = [record.getMessage() for record in caplog.records if record.name.startswith("tuner")]
    assert len(told) == 1 and "the run goes on without previews" in told[0]


def test_a_preview_says_what_it_shows(tmp_path):
    decoder = load_tiny_decoder(str(write_tiny_autoencoder(tmp_path / "tiny", 4, 8)), 4, CPU, torch.float32)
    heard = []
    scheduler = FlowMatchEulerDiscreteScheduler()
    with Previews(decoder, 5, heard.append).watching(Sampler(_Pipeline(scheduler), lambda *_: {}), 7, "cat", "a cat"):
        sample(scheduler, lambda x, sigma: x, steps=20)
    told = [(event.step, event.nickname, event.prompt, event.sampling_step, event.sampling_steps) for event in heard]
    assert told == [(7, "cat", "a cat", number, 20) for number in (5, 10, 15, 20)]
    assert [event.sigma for event in heard] == pytest.approx([float(scheduler.sigmas[n]) for n in (5, 10, 15, 20)])
    assert {event.picture.size for event in heard} == {(16, 24)}


def test_what_lacks_for_previews_is_said(write_config):
    hook = {"webhook_type": "raw", "callback_url": "https://example.org"}
    on = {"validation_preview": True, "validation_prompt": "a cat"}
    cases = {
        "no webhook is there to send previews to": on,
        "Toy has no tiny autoencoder": {**on, "webhook_config": hook},
        "validation_step_interval is 0": {**on, "webhook_config": hook, "validation_step_interval": 0,
                                          "validation_preview_autoencoder": "owner/tiny"},
        "neither validation_prompt nor": {**on, "webhook_config": hook, "validation_prompt": "",
                                          "validation_preview_autoencoder": "owner/tiny"},
    }  # fmt: skip
    for reason, settings in cases.items():
        assert load_config(write_config(**settings)).unread["validation_preview"].startswith(reason)
    complete = {**on, "webhook_config": hook, "validation_preview_autoencoder": "owner/tiny"}
    assert "validation_preview" not in load_config(write_config(**complete)).unread
