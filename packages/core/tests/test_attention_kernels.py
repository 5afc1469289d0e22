"""Attention kernels by name: what is accepted, what each needs, and that a network uses the one that is named."""

import pytest
import torch
from diffusers import AuraFlowTransformer2DModel, CosmosTransformer3DModel
from diffusers.models.attention_dispatch import AttentionBackendName, attention_backend

from tuner.config.attention import KERNELS, checked_name
from tuner.config.loading import load_config
from tuner.errors import ConfigError, TunerError
from tuner.training.attention import check_attention, use_attention

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def active_backend():
    """Put back what diffusers keeps for the whole process."""
    with attention_backend("native"):
        yield


def test_every_kernel_is_one_of_diffusers():
    known = {backend.value for backend in AttentionBackendName}
    assert {kernel.backend for kernel in KERNELS.values()} <= known


@pytest.mark.parametrize(("given", "message"), [
    ("natve", "did you mean native?"),
    ("sageattention", "computes no gradients"),
    ("sageattention-int8-fp16-triton", "computes no gradients"),
])  # fmt: skip
def test_names_that_cannot_train_are_refused(given, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        checked_name(given)


def test_a_missing_package_is_named_before_anything_is_loaded(write_config):
    assert not KERNELS["xformers"].installed, "this test needs an environment without xformers"
    with pytest.raises(ConfigError, match="xformers needs the package xformers, which is not installed"):
        load_config(write_config(attention_mechanism="xformers"))


def test_a_kernel_for_bf16_takes_no_float32(write_config):
    with pytest.raises(ConfigError, match="native-flash takes no float32"):
        load_config(write_config(attention_mechanism="native-flash", mixed_precision="no"))
    load_config(write_config(attention_mechanism="native-flash", mixed_precision="bf16"))


def test_a_kernel_for_cuda_needs_it(write_config):
    loaded = load_config(write_config(attention_mechanism="Native-Efficient"))
    check_attention(loaded, CUDA)
    with pytest.raises(TunerError, match=r"native-efficient needs a CUDA device(.|\n)*diffusers, native, native-math"):
        check_attention(loaded, CPU)
    check_attention(load_config(write_config(attention_mechanism="native-math")), CPU)


def cosmos():
    torch.manual_seed(0)
    return CosmosTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16, num_layers=1, mlp_ratio=1.0,
        text_embed_dim=8, adaln_lora_dim=4, max_size=(2, 8, 8), rope_scale=(1.0, 1.0, 1.0), concat_padding_mask=False,
        extra_pos_embed_type=None,
    ).eval()  # fmt: skip


def forward(network):
    inputs = {"hidden_states": torch.ones(1, 4, 1, 8, 8), "encoder_hidden_states": torch.ones(1, 3, 8)}
    with torch.no_grad():
        return network(**inputs, timestep=torch.tensor([0.5]), return_dict=False)[0]


def test_the_kernel_that_is_named_computes(monkeypatch):
    """The plain formula gives the numbers of the fused kernel to a few roundings of float32."""
    from torch.nn.attention import SDPBackend

    asked = []
    original = torch.nn.attention.sdpa_kernel
    monkeypatch.setattr(torch.nn.attention, "sdpa_kernel", lambda chosen: asked.append(chosen) or original(chosen))
    network = cosmos()
    expected = forward(network)
    assert asked == []
    use_attention(network, "native-math", "Cosmos")
    torch.testing.assert_close(forward(network), expected, rtol=1e-5, atol=1e-6)
    assert asked == [SDPBackend.MATH] * 2
    use_attention(network, "native", "Cosmos")
    assert torch.equal(forward(network), expected)


def test_layers_that_choose_themselves_are_an_error_in_the_log(caplog):
    network = AuraFlowTransformer2DModel(
        sample_size=4, num_mmdit_layers=1, num_single_dit_layers=1, attention_head_dim=8, num_attention_heads=1,
        joint_attention_dim=8, caption_projection_dim=8, pos_embed_max_size=16,
    )  # fmt: skip
    use_attention(network, "native-math", "AuraFlow")
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "attention_mechanism native-math has no effect: AuraFlow's layers" in caplog.text
