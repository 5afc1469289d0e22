from __future__ import annotations

import pytest
import torch

from tuner_hidream import plugin
from tuner_hidream.velocity import join_tokens, padding_of

SIZES = [(8, 8), (8, 12), (12, 8), (4, 4), (2, 2)]


def raw_output(hidream, batch):
    rows = batch.conditioning
    return hidream.denoiser(
        batch.x,
        timesteps=1000 * batch.sigma,
        encoder_hidden_states_t5=rows["prompt_embeds_t5"],
        encoder_hidden_states_llama3=rows["prompt_embeds_llama3"].transpose(0, 1),
        pooled_embeds=rows["pooled_prompt_embeds"],
    ).sample


@torch.no_grad()
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_velocity_is_the_negative_of_the_raw_output_at_a_thousand_sigma(hidream, make_batch, height, width):
    batch = make_batch(height=height, width=width)
    prediction = plugin.compute_loss(hidream, batch)
    assert torch.equal(prediction.velocity, -raw_output(hidream, batch))
    assert prediction.weight is None
    assert not prediction.auxiliary


@torch.no_grad()
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_training_mode_gives_the_same_velocity(hidream, make_batch, height, width):
    batch = make_batch(height=height, width=width)
    expected = plugin.compute_loss(hidream, batch).velocity
    hidream.denoiser.train()
    actual = plugin.compute_loss(hidream, batch).velocity
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize(("rows", "columns"), [(2, 3), (3, 2), (2, 2)])
def test_tokens_go_back_to_their_places(rows, columns):
    x = torch.arange(2 * 5 * rows * columns * 4).view(2, 5, 2 * rows, 2 * columns)
    tokens = torch.stack(
        [
            x[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].flatten(2)
            for row in range(rows)
            for column in range(columns)
        ],
        dim=2,
    )
    filled = torch.cat([tokens, torch.full_like(tokens, -1)], dim=2)
    assert torch.equal(join_tokens(tokens, x, 2), x)
    assert torch.equal(join_tokens(filled, x, 2), x)


def test_only_pictures_that_are_not_square_are_filled_up():
    assert padding_of(torch.zeros(1, 16, 8, 8), 2, 256) == slice(16, 16)
    assert padding_of(torch.zeros(1, 16, 8, 12), 2, 256) == slice(24, 256)


@torch.no_grad()
def test_time_stays_float32(load_hidream, make_batch, monkeypatch):
    hidream = load_hidream({"denoiser"}, dtype=torch.bfloat16)
    forward, seen = hidream.denoiser.forward, []

    def record(*args, **kwargs):
        seen.append(kwargs)
        return forward(*args, **kwargs)

    monkeypatch.setattr(hidream.denoiser, "forward", record)
    velocity = plugin.compute_loss(hidream, make_batch((0.123456, 1.0), dtype=torch.bfloat16)).velocity
    assert velocity.dtype == torch.bfloat16
    assert seen[0]["timesteps"].dtype == torch.float32
    assert seen[0]["timesteps"].tolist() == pytest.approx([123.456, 1000.0], rel=1e-6)


@pytest.mark.parametrize("inference_only", [False, True])
def test_every_expert_gets_a_gradient(load_hidream, hidream_twin, make_batch, tmp_path, inference_only):
    folder = hidream_twin
    if inference_only:  # as a checkpoint may say; the experts would run without gradients
        folder = tmp_path
        source = load_hidream({"denoiser"}).denoiser
        source.register_to_config(force_inference_output=True)
        source.save_pretrained(folder / "transformer")
    denoiser = (components := load_hidream({"denoiser"}, folder=folder)).denoiser
    denoiser.train().requires_grad_(True)
    plugin.compute_loss(components, make_batch()).velocity.square().mean().backward()
    gradients = {name: weight.grad for name, weight in denoiser.named_parameters() if ".experts." in name}
    assert len(gradients) == 36  # 3 blocks, 4 experts, 3 matrices
    assert all(gradient is not None and gradient.abs().max() > 0 for gradient in gradients.values())
