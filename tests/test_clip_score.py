"""Scores of validation pictures by a tiny CLIP model that the tests build."""

import gc
import json
import shutil
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tuner.config.loading import load_config
from tuner.errors import ConfigError, TunerError
from tuner.family.tokenizers import clip_tokenizer
from tuner.testing.servers import Quiet, address_of, serving
from tuner.training.run import train
from tuner.training.scoring import _converted, _scorer_folder
from tuner.validation.clip_score import check_clip, clip_scores, describe_scores

PICTURES = {
    "validation_prompt": "a cat",
    "validation_step_interval": 2,
    "validation_resolution": "64,96x64",
    "validation_num_inference_steps": 1,
    "validation_guidance": 1.0,
}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """The folder of a tiny CLIP model with random weights."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    folder = tmp_path_factory.mktemp("clip")
    tokenizer = clip_tokenizer(["cat"], max_length=16)
    layers = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {
        **layers,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 16,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {**layers, "image_size": 32, "patch_size": 8}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def direct(folder, file, prompt):
    """The cosine from CLIP's two towers, with a picture prepared by hand."""
    from transformers import CLIPModel, CLIPTokenizer

    model, tokenizer = CLIPModel.from_pretrained(folder).eval(), CLIPTokenizer.from_pretrained(folder)
    picture = Image.open(file).convert("RGB")
    scale = 32 / min(picture.size)
    picture = picture.resize([round(side * scale) for side in picture.size], Image.Resampling.BICUBIC)
    left, top = (picture.width - 32) // 2, (picture.height - 32) // 2
    pixels = np.asarray(picture.crop((left, top, left + 32, top + 32)), dtype=np.float64) / 255
    mean, deviation = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    pixels_BCHW = torch.from_numpy((pixels - mean) / deviation).float().permute(2, 0, 1).unsqueeze(0)
    tokens = torch.tensor([tokenizer(prompt)["input_ids"]])
    with torch.no_grad():
        seen = model.visual_projection(model.vision_model(pixels_BCHW).pooler_output)[0].double()
        read = model.text_projection(model.text_model(tokens).pooler_output)[0].double()
    return (seen @ read / (seen.norm() * read.norm())).item()


def rows():
    lines = Path("output/evaluations.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if "clip_score/mean" in row["metrics"]]


def test_rounds_of_pictures_are_scored_as_clip_does_and_training_does_not_notice(project, clip, weights):
    scored = {**PICTURES, "evaluation_type": "clip", "pretrained_evaluation_model_name_or_path": str(clip)}
    one = train(load_config(project(**scored, max_train_steps=2)))
    assert [(row["step"], row["label"]) for row in rows()] == [(0, "base model"), (2, "live")]
    assert len({row["basis"] for row in rows()}) == 1
    folders = {0: Path("output/benchmarks/base_model"), 2: Path("output/validation_images/live")}
    for row in rows():
        files = sorted(folders[row["step"]].glob("*_validation_*.png"))
        assert len(files) == 2  # those of the empty prompt are not scored
        scores = [direct(clip, file, "a cat") for file in files]
        wanted = {"mean": np.mean(scores), "min": min(scores), "max": max(scores), "std": np.std(scores)}
        assert row["metrics"] == pytest.approx({f"clip_score/{name}": v for name, v in wanted.items()}, abs=1e-5)
    assert not [thing for thing in gc.get_objects() if type(thing).__name__ == "CLIPModel"]
    other = train(load_config(project(**PICTURES, output_dir="plain", max_train_steps=2)))
    assert weights(one.exported) == weights(other.exported)
    changed = {"validation_guidance": 3.0, "validation_guidance_rescale": 0.5, "max_train_steps": 3}
    train(load_config(project(**{**scored, **changed})))
    train(load_config(project(**{**scored, **changed, "validation_guidance_rescale": 0.0, "max_train_steps": 4})))
    assert len({row["basis"] for row in rows()}) == 3  # pictures of other settings are not compared


def test_scores_differ_by_prompt_and_long_prompts_lose_their_end(clip, photographs):
    file, device = photographs / "coffee.png", torch.device("cpu")
    prompts = ["a cat", "something else", "a cat " * 40, "a cat " * 60]
    scores = clip_scores(clip, [(file, prompt) for prompt in prompts], device)
    assert all(-1 <= score <= 1 for score in scores)
    assert abs(scores[0] - scores[1]) > 1e-4
    assert scores[2] == scores[3]
    assert scores[:2] == pytest.approx([direct(clip, file, prompt) for prompt in prompts[:2]], abs=1e-5)


def test_what_is_reported_of_scores():
    assert describe_scores([0.1, 0.2, 0.6]) == pytest.approx(
        {"clip_score/mean": 0.3, "clip_score/min": 0.1, "clip_score/max": 0.6, "clip_score/std": (0.14 / 3) ** 0.5}
    )


def no_tokenizer(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()


def no_weights(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"pickled")


def half_the_weights(folder):
    tensors = load_file(folder / "model.safetensors")
    save_file({name: tensor for name, tensor in tensors.items() if "vision" not in name}, folder / "model.safetensors")


def torn_weights(folder):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def another_model(folder):
    (folder / "config.json").write_text('{"model_type": "bert"}')


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (no_tokenizer, "tokenizer"),
        (no_weights, "has no model.safetensors; other formats"),
        (half_the_weights, "lack .* tensors, such as vision_model"),
        (torn_weights, ""),
        (another_model, "model of type 'bert'"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused(clip, tmp_path, damage, reason):
    folder = tmp_path / "broken"
    shutil.copytree(clip, folder)
    check_clip(folder)
    damage(folder)
    with pytest.raises(TunerError, match=rf"(?s)pretrained_evaluation_model_name_or_path: .*{reason}.*->"):
        check_clip(folder)


def test_a_model_that_cannot_be_used_is_found_before_caching_begins(project, clip):
    broken = Path("clip")
    shutil.copytree(clip, broken)
    another_model(broken)
    settings = {**PICTURES, "evaluation_type": "clip", "pretrained_evaluation_model_name_or_path": "clip"}
    with pytest.raises(TunerError, match="model of type 'bert'"):
        train(load_config(project(**settings, cache_dir="cache")))
    assert not Path("cache").exists()


@pytest.mark.parametrize("named", ["nowhere", "./nowhere/clip", "empty"])
def test_a_path_to_nothing_is_an_error_of_the_configuration(project, named):
    Path("empty").mkdir()
    settings = {**PICTURES, "evaluation_type": "clip", "pretrained_evaluation_model_name_or_path": named}
    with pytest.raises(ConfigError, match=rf"pretrained_evaluation_model_name_or_path: {named}"):
        load_config(project(**settings))


def test_scores_of_no_pictures_are_reported_as_without_effect(project):
    loaded = load_config(project(evaluation_type="clip"))
    assert loaded.unread["evaluation_type"] == "no validation pictures are made of a prompt"
    assert "evaluation_type" not in load_config(project(**PICTURES, evaluation_type="clip")).unread


def test_a_hub_that_cannot_be_reached_is_said_before_anything_is_cached(project, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", "http://127.0.0.1:9")
    settings = {**PICTURES, "evaluation_type": "clip", "pretrained_evaluation_model_name_or_path": "nobody/nothing"}
    loaded = load_config(project(**settings, cache_dir="cache"))
    with pytest.raises(TunerError, match="cannot download nobody/nothing, which scores pictures"):
        train(loaded)
    assert not Path("cache").exists()


def test_a_model_that_was_downloaded_before_needs_no_hub(project, clip, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    snapshot = tmp_path / "hub" / "models--owner--clip" / "snapshots" / ("a" * 40)
    shutil.copytree(clip, snapshot)
    settings = {**PICTURES, "evaluation_type": "clip", "pretrained_evaluation_model_name_or_path": "owner/clip"}
    assert _scorer_folder(load_config(project(**settings)).config) == snapshot


class Hub(Quiet, BaseHTTPRequestHandler):
    """A hub with one repository of pickled weights and two proposals to convert them."""

    def do_GET(self):
        proposal = {"status": "open", "repo": {"name": "owner/clip", "type": "model"}, "isPullRequest": True}
        proposal |= {"title": "Adding safetensors", "createdAt": "2024-01-01T00:00:00.000Z"}
        stranger, own = ({**proposal, "num": n, "author": {"name": name}} for n, name in self.server.proposals)
        weights = {"type": "file", "path": "model.safetensors", "size": 1, "oid": "a" * 40}
        answers = {
            "/discussions": {"discussions": [stranger, own], "count": 2, "start": 0},
            "/tree/refs%2Fpr%2F4": [weights],
        }
        path = self.path.partition("?")[0].removeprefix("/api/models/owner/clip")
        body = json.dumps(answers.get(path, [])).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def hub():
    with serving(HTTPServer(("127.0.0.1", 0), Hub)) as server:
        yield server


def test_the_hubs_own_conversion_is_taken_and_nobody_elses(hub):
    from huggingface_hub import HfApi

    api = HfApi(endpoint=address_of(hub))
    hub.proposals = [(3, "stranger"), (4, "SFconvertbot")]
    assert _converted(api, "owner/clip") == "refs/pr/4"
    hub.proposals = [(4, "stranger"), (5, "SFconvertbot")]  # the latter has no weights
    with pytest.raises(TunerError, match="owner/clip has no weights in safetensors"):
        _converted(api, "owner/clip")
