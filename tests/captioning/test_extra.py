"""Without the packages of the extra, captions end in a line and all else works."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, refusal, run_here

from captioning import metrics
from captioning.extra import PACKAGES
from captioning.said import Said, write_said

COMMANDS = {
    "captioning.train": ["-f", ROOT / "config-files" / "captioning" / "demo.yaml"],
    "captioning.demo": [],
}
OPTIONAL = "_triton", "ur_lstm_kernel"  # modules that need a package of a GPU


@pytest.mark.parametrize("script", COMMANDS)
def test_command_without_the_packages_ends_in_a_line_before_any_work(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in PACKAGES:
        monkeypatch.setitem(sys.modules, name, None)
    told = refusal(run_here(script, *COMMANDS[script], cwd=tmp_path))
    assert "nltk, not installed here: pip install -e '.[captioning]'" in told
    assert list(tmp_path.iterdir()) == []


def test_score_and_tokens_of_rows_end_in_a_line_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_said(tmp_path / "captions.json", [Said("film", 0, 0, 1, "a ball.", ["a ball."])])
    np.savez(tmp_path / "rows.npz", video_id=["film"], caption=["a ball."], num_frames=[1], frames=np.zeros((1, 4)))
    for name in PACKAGES:
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.setitem(sys.modules, f"{name}.{'metrics' if name == 'sacrebleu' else 'tokenize'}", None)
    metrics._tokenizer.cache_clear()
    for words in (("score", "captions.json"), ("prepare", "rows", "--train=rows.npz", "--tokenizer=gpt2")):
        told = refusal(run_here(f"captioning.{words[0]}", *words[1:], cwd=tmp_path))
        assert "is not installed; pip install -e '.[captioning]' brings it" in told


def test_every_room_is_imported_without_the_packages():
    code = f"""
import importlib, pkgutil, sys
sys.modules.update(dict.fromkeys({(*PACKAGES, "tokenizers", "huggingface_hub")}))
for room in ("models", "recognition", "backbones", "captioning"):
    for module in pkgutil.walk_packages([room], f"{{room}}."):
        if not module.name.endswith(("__main__", *{OPTIONAL})):
            importlib.import_module(module.name)
for script in ("train", "evaluate", "preprocess_videos", "generate_dataset", "download_videos", "demo"):
    importlib.import_module(script)
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
