"""What a run leaves behind, and that others can load it."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tuner.config.loading import load_config
from tuner.errors import DatasetError, NonFiniteError, TunerError
from tuner.plugins import create_manager, load_family
from tuner.training.batches import DrawnBatch
from tuner.training.interruption import StopRequest
from tuner.training.run import prepare_run, train
from tuner.training.step import Learning, backward_step, sample_losses
from tuner.types import ComponentRequest


def fresh(folder: Path):
    """A family's components from disk, as anybody would load them."""
    family = load_family("sana")
    hook = create_manager(family).hook
    request = ComponentRequest(
        Path(folder), frozenset({"denoiser"}), torch.float32, torch.device("cpu"), family.facts.options()
    )
    return hook, hook.load_components(request=request)


def velocity(hook, components, batch: DrawnBatch) -> torch.Tensor:
    noised = batch.noised(torch.device("cpu"), torch.float32)
    with torch.no_grad():
        components.denoiser.eval()
        return hook.compute_loss(components=components, batch=noised).velocity


def learning(run) -> Learning:
    learner = run.learner
    return Learning(run.session.hook, learner.components, learner.trainable, torch.device("cpu"), torch.float32)


def prepared(config: Path):
    return prepare_run(load_config(config), StopRequest())


def test_upstream_lycoris_loads_the_adapter(project, twin):
    from lycoris import create_lycoris_from_weights

    config = project(learning_rate=1e-2)
    result = train(load_config(config))
    probe = prepared(config).source.step(0)[0]
    hook, components = fresh(twin)
    base = velocity(hook, components, probe)
    network, _ = create_lycoris_from_weights(1.0, str(result.exported), components.denoiser)
    network.apply_to()
    upstream = velocity(hook, components, probe)
    live = prepared(config)  # resumed at its last step
    ours = velocity(hook, live.learner.components, probe)
    torch.testing.assert_close(upstream, ours, rtol=1e-4, atol=1e-5)
    assert (upstream - base).abs().max() > 1e-3
    with safe_open(result.exported, "pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["lycoris_config"])["algo"] == "lokr"
    assert metadata["base_model"] == "twin"
    assert not any("/" in value for key, value in metadata.items() if key != "lycoris_config")


def test_diffusers_loads_a_standard_lora(project, twin):
    from diffusers import SanaPipeline

    config = project(lora_type="standard", lora_rank=4, lora_alpha=8, learning_rate=1e-2)
    result = train(load_config(config))
    probe = prepared(config).source.step(0)[0]
    pipeline = SanaPipeline.from_pretrained(twin)
    hook, components = fresh(twin)
    components.denoiser = pipeline.transformer
    base = velocity(hook, components, probe)
    pipeline.load_lora_weights(str(result.exported.parent))
    upstream = velocity(hook, components, probe)
    torch.testing.assert_close(
        upstream, velocity(hook, prepared(config).learner.components, probe), rtol=1e-4, atol=1e-5
    )
    assert (upstream - base).abs().max() > 1e-3


def test_a_full_tune_leaves_a_whole_pipeline(project, twin):
    from diffusers import SanaPipeline

    config = project(model_type="full", use_ema=True, learning_rate=1e-3)
    result = train(load_config(config))
    assert result.exported == Path("output/pipeline")
    pipeline = SanaPipeline.from_pretrained(result.exported)
    tuned = dict(pipeline.transformer.named_parameters())
    average = load_file("output/checkpoint-6/ema/average.safetensors")
    for name, parameter in SanaPipeline.from_pretrained(twin).transformer.named_parameters():
        torch.testing.assert_close(average[name], tuned[name].data, rtol=0, atol=0)
        assert not torch.equal(parameter, tuned[name])
    images = pipeline(
        "a cat", num_inference_steps=1, height=64, width=64, use_resolution_binning=False, max_sequence_length=8
    )
    assert images.images[0].size == (64, 64)


def test_a_strangers_result_is_kept(project):
    Path("output").mkdir()
    Path("output/pytorch_lora_weights.safetensors").write_bytes(b"mine")
    train(load_config(project(max_train_steps=1)))
    assert Path("output/pytorch_lora_weights.previous-1.safetensors").read_bytes() == b"mine"


def test_one_batch_of_four_is_two_of_two(project):
    settings = {"dataset": {"crop": True, "crop_style": "center"}, "caption_dropout_probability": 0.5}
    gradients = []
    for batch, accumulation in [(6, 1), (2, 3), (4, 2)]:
        config = project(
            **settings, train_batch_size=batch, gradient_accumulation_steps=accumulation, output_dir=f"output{batch}",
            gradient_checkpointing=False,
        )  # fmt: skip
        run = prepared(config)
        micro_batches = run.source.step(0)
        assert len({key for drawn in micro_batches for key in drawn.keys}) == 6
        backward_step(learning(run), micro_batches, lambda loss: loss.backward())
        gradients.append([parameter.grad for _, parameter in run.learner.trainable.named_parameters()])
    for other in gradients[1:]:
        for one, two in zip(gradients[0], other, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-7)


def test_noise_does_not_depend_on_the_batch(project):
    settings = {"dataset": {"crop": True, "crop_style": "center"}}
    by_key = []
    for batch in (6, 3):
        steps = prepared(
            project(**settings, train_batch_size=batch, gradient_accumulation_steps=6 // batch)
        ).source.step(0)
        by_key.append(
            {
                key: (noise, float(sigma))
                for drawn in steps
                for key, noise, sigma in zip(drawn.keys, drawn.noise, drawn.sigma, strict=True)
            }
        )
    assert by_key[0].keys() == by_key[1].keys()
    for key, (noise, sigma) in by_key[0].items():
        assert torch.equal(noise, by_key[1][key][0])
        assert sigma == by_key[1][key][1]


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_samples(project, monkeypatch):
    from tuner.training import step as step_module

    def broken(*arguments):
        losses, prediction = sample_losses(*arguments)
        return losses * (float("nan") if broken.calls > 2 else 1.0), prediction

    broken.calls = 0

    def counted(*arguments):
        broken.calls += 1
        return broken(*arguments)

    monkeypatch.setattr(step_module, "sample_losses", counted)
    with pytest.raises(NonFiniteError, match=r"step 3 is nan \(seed 42, samples photographs/"):
        train(load_config(project(checkpoint_step_interval=1)))
    assert sorted(path.name for path in Path("output").glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-2"]


def test_unreadable_pictures_are_named_and_left_out(project, photographs, caplog):
    shutil.copytree(photographs, "pictures")
    whole = Path("pictures/coffee.png").read_bytes()
    Path("pictures/truncated.png").write_bytes(whole[: len(whole) // 2])
    Path("pictures/truncated.txt").write_text("half a picture")
    Path("pictures/nonsense.png").write_bytes(b"no picture at all")
    config = project(dataset={"instance_data_dir": "pictures"}, max_train_steps=1)
    caplog.set_level(logging.INFO, logger="tuner")
    assert train(load_config(config)).step == 1
    assert "truncated.png" in caplog.text
    assert "nonsense.png" in caplog.text


def test_a_data_set_of_nothing_is_an_error(project):
    Path("empty").mkdir()
    with pytest.raises(DatasetError, match="no images detected in data set 'photographs'"):
        train(load_config(project(dataset={"instance_data_dir": "empty"})))


def test_a_second_run_on_full_caches_loads_no_encoder(project, monkeypatch):
    settings = {"cache_dir": "cache", "max_train_steps": 1}
    train(load_config(project(**settings, output_dir="first")))
    from tuner.training.session import Session

    asked = []
    load = Session.load
    monkeypatch.setattr(Session, "load", lambda self, *parts, **rest: asked.append(parts) or load(self, *parts, **rest))
    train(load_config(project(**settings, output_dir="second")))
    assert not any(part in ("codec", "text_encoders") for parts in asked for part in parts)


def test_two_runs_cannot_share_an_output_folder(project):
    from filelock import FileLock

    Path("output").mkdir()
    with FileLock("output/.lock"), pytest.raises(TunerError, match="another run is writing"):
        train(load_config(project()))


def test_the_same_settings_give_the_same_bytes(project):
    results = [train(load_config(project(output_dir=name, max_train_steps=2))).exported for name in ("a", "b")]
    assert results[0].read_bytes() == results[1].read_bytes()
    other = train(load_config(project(output_dir="c", max_train_steps=2, seed=43))).exported
    assert other.read_bytes() != results[0].read_bytes()


def test_only_the_adapter_learns(project):
    run = prepared(project(max_train_steps=2))
    Path("output").mkdir()
    before = {name: tensor.clone() for name, tensor in run.learner.components.denoiser.state_dict().items()}
    denoiser = run.learner.components.denoiser
    run.train()
    assert all(torch.equal(before[name], tensor) for name, tensor in denoiser.state_dict().items())


def test_epochs_are_counted_in_steps(project):
    # 6 pictures in two buckets of 3, batches of 2: 2 + 2 micro-batches, 2 steps of 2 each
    result = train(load_config(project(max_train_steps=0, num_train_epochs=2, gradient_accumulation_steps=2)))
    assert result.step == 4
