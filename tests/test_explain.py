"""Where exported weights come from: what their headers hold, and how `tuner explain` tells it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import tuner
from tuner.cli.main import main
from tuner.config.loading import load_config
from tuner.provenance import Provenance, read_header
from tuner.training.base_model import published_identity
from tuner.training.run import train
from tuner.training.sources import ModelSource


def metadata(file: Path) -> dict[str, str]:
    with safe_open(file, "pt") as opened:
        return opened.metadata()


def explained(capsys, path) -> list[dict]:
    assert main(["explain", str(path), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_an_adapter_says_where_it_comes_from(project, twin, capsys, tmp_path):
    config = project(lora_type="standard", lora_rank=4, max_train_steps=2, use_ema=True, validation_prompt="a/b cat")
    train(load_config(config))
    for file, weights in [("output/pytorch_lora_weights.safetensors", "live"),
                          ("output/ema/pytorch_lora_weights.safetensors", "ema"),
                          ("output/checkpoint-2/pytorch_lora_weights.safetensors", "live"),
                          ("output/checkpoint-2/ema/pytorch_lora_weights.safetensors", "ema")]:  # fmt: skip
        found = Provenance.of(metadata(Path(file)))
        assert (found.family, found.tuner_version, found.step, found.seed) == ("sana", tuner.__version__, 2, 42)
        assert found.family_package.startswith("tuner-model-sana ")
        assert (found.base_model, found.base_revision, found.weights) == ("twin", None, weights)
        assert len(found.base_fingerprint) == 32
        assert len(found.data_fingerprint) >= 16
        assert found.settings["lora_rank"] == 4
        assert found.settings["validation_prompt"] == "a/b cat"
        assert found.settings["pretrained_model_name_or_path"] == "twin"
        assert "output_dir" not in found.settings
        assert str(tmp_path) not in json.dumps(metadata(Path(file)))
    live, average = explained(capsys, "output")
    assert live["provenance"]["weights"] == "live"
    assert average["provenance"]["weights"] == "ema"
    weights = live["weights"]
    assert weights["kinds"] == {"LoRA (PEFT's and diffusers' names)": len(weights["layers"])}
    assert weights["ranks"] == {"4": len(weights["layers"])}
    assert weights["dtypes"] == {"F32": 2 * len(weights["layers"])}
    assert weights["bytes"] == 4 * weights["parameters"]
    assert main(["explain", "output"]) == 0
    text = capsys.readouterr().out
    assert "base model: twin, a local folder with the fingerprint" in text
    assert "lora_rank: 4" in text
    # Defaults are left out in whatever form a file holds them.
    assert not [line for line in text.splitlines() if line.endswith((": []", ": null")) or "clip-vit" in line]


def test_a_whole_pipeline_says_where_it_comes_from(project, capsys):
    train(load_config(project(model_type="full", max_train_steps=1, use_ema=True)))
    found = {Path(item["path"]).name: item for item in explained(capsys, "output/pipeline")}
    assert set(found) == {"text_encoder", "transformer", "vae"}
    assert found["transformer"]["provenance"]["weights"] == "ema"
    assert found["transformer"]["provenance"]["step"] == 1
    assert found["transformer"]["weights"]["kinds"].keys() == {"weights of a whole network"}
    assert found["vae"]["provenance"] is None
    assert explained(capsys, "output") == explained(capsys, "output/pipeline")
    (checkpoint,) = explained(capsys, "output/checkpoint-1")
    assert checkpoint["provenance"]["weights"] == "live"


def test_weights_in_several_files_open_in_diffusers_as_before(twin, tmp_path, monkeypatch):
    from diffusers import SanaTransformer2DModel

    from tuner.adapters import files

    monkeypatch.setattr(files, "_SHARD", "50KB")
    model = SanaTransformer2DModel.from_pretrained(twin, subfolder="transformer")
    files.write_model(tmp_path / "ours", model, model.state_dict(), {"b": "é", "a": "1"})
    model.save_pretrained(tmp_path / "theirs", max_shard_size="50KB")
    names = sorted(path.name for path in (tmp_path / "theirs").iterdir())
    assert len(names) > 4
    assert sorted(path.name for path in (tmp_path / "ours").iterdir()) == names
    for name in names:
        ours, theirs = tmp_path / "ours" / name, tmp_path / "theirs" / name
        if name.endswith(".json"):
            assert json.loads(ours.read_text()) == json.loads(theirs.read_text())
        else:
            assert list(read_header(ours).metadata.items()) == [("a", "1"), ("b", "é"), ("format", "pt")]
    again = SanaTransformer2DModel.from_pretrained(tmp_path / "ours").state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in model.state_dict().items())


def test_a_snapshot_of_the_hub_is_known_by_its_commit(tmp_path):
    folder = tmp_path / "models--owner--some--name" / "snapshots" / ("ab" * 20)
    folder.mkdir(parents=True)
    (tmp_path / "link").symlink_to(folder)
    for source in (ModelSource("owner/some--name", False), ModelSource(str(tmp_path / "link"), True)):
        found = published_identity(folder, source)
        assert (found.name, found.revision) == ("owner/some--name", "ab" * 20)
    assert published_identity(tmp_path, ModelSource(str(tmp_path), True)) is None


@pytest.mark.parametrize(
    ("tensors", "kind", "ranks"),
    [
        ({"lora_unet_a.lora_down.weight": (8, 16), "lora_unet_a.lora_up.weight": (4, 8), "lora_unet_a.alpha": ()},
         "LoRA (kohya's and LyCORIS' names)", {"8": 1}),
        ({"lycoris_a.hada_w1_a": (16, 2), "lycoris_a.hada_w1_b": (2, 16), "lycoris_a.hada_w2_a": (16, 2),
          "lycoris_a.hada_w2_b": (2, 16)}, "LoHa", {"2": 1}),
        ({"lycoris_a.lokr_w1": (4, 4), "lycoris_a.lokr_w2_a": (4, 3), "lycoris_a.lokr_w2_b": (3, 4)}, "LoKr", {"3": 1}),
        ({"lycoris_a.lokr_w1": (4, 4), "lycoris_a.lokr_w2": (4, 4)}, "LoKr", {}),
    ],
)  # fmt: skip
def test_files_of_other_programs_are_explained_as_far_as_they_go(tensors, kind, ranks, tmp_path, capsys):
    file = tmp_path / "foreign.safetensors"
    shaped = {name: torch.zeros(shape, dtype=torch.bfloat16) for name, shape in tensors.items()}
    save_file(shaped, file, {"ss_network_dim": "8", "seed": "not a number", "settings": "[]"})
    (found,) = explained(capsys, file)
    assert found["provenance"] is None
    assert found["weights"]["kinds"] == {kind: 1}
    assert found["weights"]["ranks"] == ranks
    assert found["weights"]["dtypes"] == {"BF16": len(tensors)}
    assert found["other_metadata"]["ss_network_dim"] == "8"
    assert main(["explain", str(file)]) == 0
    assert "origin: not recorded" in capsys.readouterr().out


def test_broken_files_are_refused_with_the_reason(tmp_path, capsys):
    whole = tmp_path / "whole.safetensors"
    save_file({"a": torch.zeros(64)}, whole)
    content = whole.read_bytes()
    for broken, reason in [
        (b"", "its header is not there"),
        (b"PK\x03\x04 a zip archive, such as torch.save writes", "its header is not there"),
        (content[:-1], "its tensors should take 256 bytes, and there are 255"),
        (content[:8] + b"x" * (len(content) - 8), "its header cannot be read"),
        ((2).to_bytes(8, "little") + b"[]", "its header cannot be read"),
    ]:
        file = tmp_path / "broken.safetensors"
        file.write_bytes(broken)
        assert main(["explain", str(file)]) == 1
        assert reason in capsys.readouterr().err
    assert main(["explain", str(tmp_path / "absent.safetensors")]) == 1
    assert "No such file" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["explain", str(tmp_path / "empty")]) == 1
    assert "holds no safetensors weights" in capsys.readouterr().err
    (tmp_path / "empty" / "checkpoint-5").mkdir()
    assert main(["explain", str(tmp_path / "empty")]) == 1
    assert "a checkpoint folder (checkpoint-5)" in capsys.readouterr().err


def test_letters_that_the_output_cannot_hold_stop_nothing(tmp_path):
    file = tmp_path / "猫.safetensors"
    save_file({"a": torch.zeros(2)}, file)
    command = [sys.executable, "-m", "tuner", "explain", str(file)]
    done = subprocess.run(command, env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, check=True)
    assert rb"\u732b.safetensors" in done.stdout


def test_explaining_imports_nothing_heavy(tmp_path):
    file = tmp_path / "a.safetensors"
    save_file({"a.lora_A.weight": torch.zeros(2, 2)}, file)
    assert read_header(file).tensors["a.lora_A.weight"].shape == (2, 2)
    code = (
        "import sys\nfrom tuner.cli.main import main\n"
        f"assert main(['explain', {str(file)!r}]) == 0\n"
        "assert not {'torch', 'diffusers', 'transformers', 'safetensors'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
