"""Optimizers against their formulas, Kahan summation, and exact state."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors.torch import load, save
from torch.nn import Parameter

from tuner.config.optimizers import OPTIMIZERS, optimizer_spec
from tuner.errors import CheckpointError
from tuner.optim.footprint import state_bytes
from tuner.optim.optimizers import create_optimizer, set_learning_rate
from tuner.optim.state import load_optimizer_state, optimizer_state
from tuner.randomness import seeded_torch
from tuner.training.persistence import plain_tensors

NAMES = sorted(OPTIMIZERS)
OTHERS = ["torch.optim.AdamW", "torch.optim.RMSprop", "optimi.Ranger", "bitsandbytes.optim.AdEMAMix8bit"]


def make_parameters(dtype, seed=0):
    values = torch.Generator().manual_seed(seed)
    return [
        (name, Parameter(torch.randn(shape, generator=values).to(dtype)))
        # The first is large enough for blocks of 8 bits, the second for factors.
        for name, shape in (
            ("first.weight", (64, 128)),
            ("second.weight", (33, 40)),
            ("third.bias", (5,)),
            ("scale", ()),
        )
    ]


def run_steps(optimizer, named, steps):
    for step in steps:
        values = torch.Generator().manual_seed(100 + step)
        loss = torch.zeros(())
        for _, parameter in named:
            gradient = torch.randn(parameter.shape, generator=values).to(parameter.dtype)
            loss = loss + (parameter * gradient).sum().float()
        set_learning_rate(optimizer, 1e-2 / (1 + step))
        optimizer.zero_grad()
        with seeded_torch(1, "test", step):
            loss.backward()
            optimizer.step()


def through_files(tensors, plain):
    """Write and read state as a checkpoint does."""
    return load(save(plain_tensors(tensors))), json.loads(json.dumps(plain))


def assert_equal_states(found, expected):
    (found, found_plain), (expected, expected_plain) = optimizer_state(found), optimizer_state(expected)
    assert found_plain == expected_plain
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(value, found[key])
        assert value.dtype == found[key].dtype


@pytest.mark.parametrize("release", [False, True], ids=["", "released"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", [*NAMES, *OTHERS])
def test_three_and_three_steps_equal_six(name, dtype, release):
    whole, first = make_parameters(dtype), make_parameters(dtype)
    optimizer = create_optimizer(name, whole, 1e-2, dtype, release=release)
    run_steps(optimizer, whole, range(6))
    before = create_optimizer(name, first, 1e-2, dtype, release=release)
    run_steps(before, first, range(3))
    second = [(key, Parameter(value.detach().clone())) for key, value in first]
    after = create_optimizer(name, second, 1e-2, dtype, release=release)
    load_optimizer_state(after, *through_files(*optimizer_state(before)))
    assert_equal_states(after, before)
    run_steps(after, second, range(3, 6))
    for (_, expected), (_, found) in zip(whole, second, strict=True):
        assert torch.equal(expected, found)
    assert_equal_states(after, optimizer)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", [*NAMES, *OTHERS])
def test_the_size_of_the_state_is_known_before_there_is_any(name, dtype):
    random = torch.random.get_rng_state()
    each = state_bytes(name, dtype, torch.device("cpu"))
    assert torch.equal(torch.random.get_rng_state(), random)
    named = [("weight", Parameter(torch.zeros(256, 128, dtype=dtype)))]
    optimizer = create_optimizer(name, named, 1e-2, dtype)
    with torch.compiler.set_stance("force_eager"):
        run_steps(optimizer, named, range(1))
    kept = {tensor.data_ptr(): tensor.nbytes for tensor in optimizer_state(optimizer)[0].values()}
    # Factors and tables take the less, the larger a matrix is.
    assert each == pytest.approx(sum(kept.values()) / (256 * 128), abs=0.1)


def test_8_bit_state_is_kept_in_8_bits():
    for name, path in [
        ("bnb-lion8bit-paged", "state1"),
        ("bnb-adamw8bit", "state2"),
        ("ao-adamw8bit", "exp_avg.codes"),
    ]:
        named = make_parameters(torch.float32)
        optimizer = create_optimizer(name, named, 1e-2, torch.float32)
        run_steps(optimizer, named, range(1))
        tensors, _ = through_files(*optimizer_state(optimizer))
        assert tensors[f"parameter:first.weight:{path}"].dtype == torch.uint8
        assert tensors[f"parameter:first.weight:{path}"].shape == (64, 128)


def test_state_keeps_its_dtype_and_follows_names():
    named = make_parameters(torch.bfloat16)
    optimizer = create_optimizer("adamw_bf16", named, 1e-2, torch.bfloat16)
    run_steps(optimizer, named, range(2))
    tensors, plain = optimizer_state(optimizer)
    wide = {key: value.float() if key.endswith("exp_avg") else value for key, value in tensors.items()}
    turned = make_parameters(torch.bfloat16)[::-1]
    other = create_optimizer("adamw_bf16", turned, 1e-2, torch.bfloat16)
    load_optimizer_state(other, wide, plain)
    first = dict(turned)["first.weight"]
    assert other.state[first]["exp_avg"].dtype == torch.float32
    assert torch.equal(other.state[first]["exp_avg"], wide["parameter:first.weight:exp_avg"])


def test_state_of_another_run_is_refused():
    named = make_parameters(torch.float32)
    optimizer = create_optimizer("optimi-adamw", named, 1e-2, torch.float32)
    run_steps(optimizer, named, range(1))
    tensors, plain = optimizer_state(optimizer)
    fewer = create_optimizer("optimi-adamw", named[:2], 1e-2, torch.float32)
    with pytest.raises(CheckpointError, match="scale"):
        load_optimizer_state(fewer, tensors, plain)
    lion = create_optimizer("optimi-lion", named, 1e-2, torch.float32)
    with pytest.raises(CheckpointError, match="AdamW, this run's Lion"):
        load_optimizer_state(lion, tensors, plain)
    reshaped = [(name, Parameter(value.detach().reshape(-1))) for name, value in named]
    with pytest.raises(CheckpointError, match=r"first\.weight"):
        load_optimizer_state(create_optimizer("optimi-adamw", reshaped, 1e-2, torch.float32), tensors, plain)


@pytest.mark.parametrize(("name", "beta2", "decay"), [("adamw_bf16", 0.999, 0.01), ("optimi-adamw", 0.99, 0.0)])
def test_adamw_follows_its_formula(name, beta2, decay):
    torch.manual_seed(0)
    start = torch.randn(7, dtype=torch.float64)
    gradients = torch.randn(3, 7, dtype=torch.float64)
    parameter = Parameter(start.float())
    optimizer = create_optimizer(name, [("p", parameter)], 1e-2, torch.float32)
    p, m, v = start.clone(), torch.zeros(7, dtype=torch.float64), torch.zeros(7, dtype=torch.float64)
    for t, gradient in enumerate(gradients, start=1):
        parameter.grad = gradient.float()
        optimizer.step()
        m = 0.9 * m + 0.1 * gradient
        v = beta2 * v + (1 - beta2) * gradient**2
        p = p * (1 - 1e-2 * decay)
        p = p - 1e-2 * (m / (1 - 0.9**t)) / ((v / (1 - beta2**t)).sqrt() + 1e-6)
        torch.testing.assert_close(parameter.detach().double(), p, rtol=1e-5, atol=1e-6)


def test_lion_follows_its_formula():
    torch.manual_seed(0)
    start, gradients = torch.randn(7), torch.randn(3, 7)
    parameter = Parameter(start.clone())
    optimizer = create_optimizer("optimi-lion", [("p", parameter)], 1e-2, torch.float32)
    p, m = start.clone(), torch.zeros(7)
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
        p = p - 1e-2 * torch.sign(0.9 * m + 0.1 * gradient)
        m = 0.99 * m + 0.01 * gradient
        torch.testing.assert_close(parameter.detach(), p, rtol=0, atol=1e-6)


class Keeping(torch.optim.SGD):
    """Keeps a value of any kind beside each weight."""

    def __init__(self, params, lr, kept):
        super().__init__(params, lr)
        for parameter in self.param_groups[0]["params"]:
            self.state[parameter]["kept"] = kept


@pytest.mark.parametrize(
    "kept",
    [(1, 2.5, None), [True, [()]], {"a": {"tensor": "b"}}, torch.bfloat16, [torch.ones(2, dtype=torch.int8)], math.inf],
)
def test_what_an_optimizer_keeps_comes_back_as_it_was(kept):
    named = make_parameters(torch.float32)
    saved = through_files(*optimizer_state(Keeping(named, 1.0, kept)))
    other = Keeping(named, 1.0, None)
    load_optimizer_state(other, *saved)
    found = other.state[named[0][1]]["kept"]
    assert type(found) is type(kept)
    if isinstance(kept, list) and isinstance(kept[0], torch.Tensor):
        assert torch.equal(found[0], kept[0])
        assert found[0].dtype == torch.int8
    else:
        assert found == kept


def test_what_a_checkpoint_cannot_hold_is_named():
    with pytest.raises(CheckpointError, match=r"'kept', a set, which a checkpoint cannot hold"):
        optimizer_state(Keeping(make_parameters(torch.float32), 1.0, {1}))


def test_only_the_optimizers_own_classes_are_made():
    named = make_parameters(torch.float32)
    optimizer = create_optimizer("ao-adamw8bit", named, 1e-2, torch.float32)
    run_steps(optimizer, named, range(1))
    tensors, plain = through_files(*optimizer_state(optimizer))
    plain["parameters"]["first.weight"]["values"]["exp_avg"]["class"] = "torch.nn.parameter.Parameter"
    with pytest.raises(CheckpointError, match=r"torch\.nn\.parameter\.Parameter, which this run's does not"):
        load_optimizer_state(optimizer, tensors, plain)
    few = {key: value for key, value in optimizer_state(optimizer)[0].items() if "bias" not in key}
    with pytest.raises(CheckpointError, match=r"lacks the optimizer's parameter:third\.bias:step"):
        load_optimizer_state(optimizer, few, optimizer_state(optimizer)[1])


@pytest.mark.parametrize(
    "name", ["optimi.Adam", *(name for name in NAMES if optimizer_spec(name).rounding and name != "prodigy")]
)
def test_tiny_updates_add_up_in_bfloat16(name):
    # The spacing of bfloat16 above 1 is 2^-7, so a plain update of 1e-4 would be rounded away every time.
    assert (torch.ones((), dtype=torch.bfloat16) - 1e-4).item() == 1.0
    parameter = Parameter(torch.ones(4096, dtype=torch.bfloat16))
    optimizer = create_optimizer(name, [("p", parameter)], 1e-4, torch.bfloat16)
    torch.manual_seed(0)
    for _ in range(1000):
        parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    assert parameter.float().mean().sub(0.9).abs().item() < 0.01
