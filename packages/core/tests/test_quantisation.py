"""Every scheme on a small network: sizes, memory, errors, gradients, and what is left alone."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn

from tuner.adapters import create_trainable
from tuner.config.adapter import AdapterConfig
from tuner.config.lycoris import LycorisConfig
from tuner.quantisation.schemes import SCHEMES
from tuner.quantisation.storing import (
    dequantised_weight,
    restore_floats,
    store_frozen,
    stored_bytes,
    stored_layers,
)
from tuner.testing.minimal import minimal_facts

CPU = torch.device("cpu")
DTYPES = [torch.float32, torch.bfloat16]
WEIGHT_ERRORS = {
    "int8-quanto": 0.009,
    "int4-quanto": 0.13,
    "int2-quanto": 0.6,
    "fp8-quanto": 0.03,
    "fp8uz-quanto": 0.03,
    "int8-torchao": 0.009,
    "fp8-torchao": 0.03,
    "int4-torchao": 0.1,
    "nf4-bnb": 0.12,
}
"""Largest relative error of normally distributed weights."""

FACTS = minimal_facts(adapter_targets=("wide", "odd"))


class Net(nn.Module):
    """Layers that fit every scheme, one of 68 input features, one that is left alone, and no linear one."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.wide = nn.Linear(128, 192)
        self.deep = nn.Sequential(nn.GELU(), nn.Linear(192, 128, bias=False))
        self.norm = nn.LayerNorm(128)
        self.odd = nn.Linear(68, 128)
        self.delicate = nn.Sequential(nn.Linear(128, 128))
        values = torch.Generator().manual_seed(1)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=values) * 0.1
        self.to(dtype).requires_grad_(False)

    def forward(self, x):
        h = self.norm(self.deep(self.wide(x)))
        return self.delicate(h + self.odd(h[..., :68]))


def stored(scheme, dtype=torch.float32):
    net = Net(dtype)
    return net, store_frozen(net, SCHEMES[scheme], ("delicate",), via=CPU, device=CPU)


def inputs(dtype):
    x = torch.randn((1, 128, 15), generator=torch.Generator().manual_seed(2)).to(dtype)
    return x.transpose(1, 2).requires_grad_()  # as attention leaves it: not contiguous


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SCHEMES)
def test_layers_that_fit_are_stored_and_the_rest_stays(name, dtype):
    net, report = stored(name, dtype)
    fits = 68 % SCHEMES[name].multiple == 0
    assert report.stored == (("wide", "deep.1", "odd") if fits else ("wide", "deep.1"))
    assert report.unfit == (() if fits else ("odd",))
    assert report.skipped == ("delicate.0",)
    assert tuple(stored_layers(net)) == report.stored
    original = Net(dtype)
    assert torch.equal(net.delicate[0].weight, original.delicate[0].weight)
    assert torch.equal(net.wide.bias, original.wide.bias)
    for layer, source in ((net.wide, original.wide), (net.deep[1], original.deep[1])):
        weight = dequantised_weight(layer)
        assert weight.shape == source.weight.shape
        error = (weight.float() - source.weight.float()).norm() / source.weight.float().norm()
        assert 0 < float(error) < WEIGHT_ERRORS[name]
    assert dequantised_weight(net.delicate[0]) is net.delicate[0].weight


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SCHEMES)
def test_outputs_and_gradients_are_those_of_the_rounded_weights(name, dtype):
    (net, _), (plain, _) = stored(name, dtype), stored(name, dtype)
    restore_floats(plain)
    assert not stored_layers(plain)
    results = []
    for each in (net, plain):
        x = inputs(dtype)
        y = each(x)
        y.float().square().sum().backward()
        results.append((y.detach().float(), x.grad.float()))
    for found, expected in zip(*results, strict=True):
        error = float((found - expected).norm() / expected.norm())
        assert error < (1e-5 if dtype == torch.float32 else 0.02)


@pytest.mark.parametrize("name", SCHEMES)
def test_experts_without_tokens(name):
    """A mixture may send a layer nothing at all."""
    net, _ = stored(name, torch.bfloat16)
    nothing = torch.zeros((0, 128), dtype=torch.bfloat16, requires_grad=True)
    output = net.wide(nothing)
    output.sum().backward()
    assert output.shape == (0, 192)
    assert nothing.grad.shape == (0, 128)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SCHEMES)
def test_memory_drops_as_it_should(name, dtype):
    """Stored values take their bits, and scales at most an eighth of a float each; nothing keeps the floats."""
    net = Net(dtype)
    whole = sum(parameter.nbytes for parameter in net.parameters())
    assert stored_bytes(net) == whole
    names = ("wide", "deep.1") if 68 % SCHEMES[name].multiple else ("wide", "deep.1", "odd")
    replaced = sum(net.get_submodule(each).weight.numel() for each in names)
    originals = [weakref.ref(net.get_submodule(each).weight) for each in names]
    storages = [weakref.ref(net.get_submodule(each).weight.untyped_storage()) for each in names]
    report = store_frozen(net, SCHEMES[name], ("delicate",), via=CPU, device=CPU)
    gc.collect()
    assert not any(reference() is not None for reference in (*originals, *storages))
    assert report.bytes_before == whole
    assert report.bytes_after == stored_bytes(net)
    kept = whole - replaced * dtype.itemsize
    least = replaced * SCHEMES[name].bits / 8
    assert least < report.bytes_after - kept <= least + replaced * dtype.itemsize / 10


def test_storing_is_deterministic_and_draws_nothing():
    for name in SCHEMES:
        nets = [Net(torch.bfloat16), Net(torch.bfloat16)]
        state = torch.random.get_rng_state()
        for net in nets:
            store_frozen(net, SCHEMES[name], (), via=CPU, device=CPU)
        assert torch.equal(torch.random.get_rng_state(), state)
        for one, other in zip(*(stored_layers(net).values() for net in nets), strict=True):
            assert torch.equal(dequantised_weight(one), dequantised_weight(other))


@pytest.mark.parametrize("name", SCHEMES)
def test_evaluation_leaves_the_stored_weights_as_they_are(name):
    net, _ = stored(name, torch.bfloat16)
    before = {key: dequantised_weight(layer).clone() for key, layer in stored_layers(net).items()}
    net.eval()
    with torch.no_grad():
        pictured = net(inputs(torch.bfloat16))
    net.train()
    trained = net(inputs(torch.bfloat16))
    assert torch.equal(pictured, trained)
    assert all(torch.equal(dequantised_weight(layer), before[key]) for key, layer in stored_layers(net).items())


@pytest.mark.parametrize("kind", ["standard", "lycoris"])
@pytest.mark.parametrize("name", SCHEMES)
def test_layers_that_stay_as_they_are_can_be_adapted_too(name, kind):
    net, _ = stored(name)
    lokr = {"algo": "lokr", "multiplier": 1.0, "linear_alpha": 1, "factor": 4, "full_matrix": True}
    trainable = create_trainable(
        model_type="lora",
        adapter=AdapterConfig(lora_type=kind, lora_rank=4, lycoris_config="lokr.json"),
        lycoris=LycorisConfig(**lokr, apply_preset={"target_module": ["Linear"]}) if kind == "lycoris" else None,
        facts=FACTS,
        denoiser=net,
        dtype=torch.float32,
        seed=1,
    )
    net(inputs(torch.float32)).square().sum().backward()
    found = {key for key, parameter in trainable.named_parameters() if parameter.grad is not None}
    adapted = ("wide", "odd") if kind == "standard" else ("wide", "deep_1", "odd", "delicate_0")
    assert all(any(layer in key for key in found) for layer in adapted)
    assert not any(
        parameter.requires_grad
        for parameter in (net.norm.weight, *map(dequantised_weight, stored_layers(net).values()))
    )


@pytest.mark.parametrize("name", SCHEMES)
def test_a_lokr_from_noise_has_the_statistics_of_the_rounded_weights(name):
    net, _ = stored(name)
    weight = dequantised_weight(net.wide)
    lokr = {"algo": "lokr", "multiplier": 1.0, "linear_alpha": 1, "factor": 4, "full_matrix": True}
    state = create_trainable(
        model_type="lora",
        adapter=AdapterConfig(lora_type="lycoris", lycoris_config="lokr.json", init_lokr_norm=0.5),
        lycoris=LycorisConfig(**lokr, apply_preset={"target_name": ["wide"]}),
        facts=FACTS,
        denoiser=net,
        dtype=torch.float32,
        seed=1,
    ).state()
    torch.testing.assert_close(state["lycoris_wide.lokr_w2"].std(), weight.float().std() * 0.5, rtol=1e-4, atol=0)


@pytest.mark.parametrize(("features", "fits"), [(16, True), (24, False), (68, False), (72, False), (160, True)])
def test_sizes_that_end_the_process_are_never_stored(features, fits):
    """quanto's int8 in bfloat16 on a CPU crashes without an exception where inputs are no multiple of 16."""
    net = nn.Sequential(nn.Linear(features, 32).to(torch.bfloat16).requires_grad_(False))
    report = store_frozen(net, SCHEMES["int8-quanto"], (), via=CPU, device=CPU)
    assert (report.stored == ("0",)) is fits
    assert bool(net(torch.ones((7, features), dtype=torch.bfloat16)).isfinite().all())


@pytest.mark.gpu
@pytest.mark.parametrize("name", SCHEMES)
def test_both_places_of_conversion_give_the_same_weights(name):
    cuda = torch.device("cuda")
    nets = [Net(torch.bfloat16), Net(torch.bfloat16)]
    for net, via in zip(nets, (CPU, cuda), strict=True):
        store_frozen(net, SCHEMES[name], (), via=via, device=cuda)
    for one, other in zip(stored_layers(nets[0]).values(), stored_layers(nets[1]).values(), strict=True):
        assert torch.equal(dequantised_weight(one), dequantised_weight(other))


@pytest.mark.parametrize("bits", [2, 4])
def test_short_numbers_are_unpacked_without_a_compiler(bits, monkeypatch):
    from optimum.quanto.library.extensions.extension import Extension
    from optimum.quanto.tensor.packed import pack_weights

    import tuner.quantisation.quanto  # noqa: F401

    def compile_it(extension):
        raise AssertionError("it is compiled")

    monkeypatch.setattr(Extension, "lib", property(compile_it))
    numbers = torch.arange(64, dtype=torch.uint8).reshape(16, 4) % 2**bits
    assert torch.equal(torch.ops.quanto.unpack(pack_weights(numbers, bits), bits), numbers)
