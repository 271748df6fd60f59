"""The command line: parsing, start-up time, errors as one message."""

from __future__ import annotations

import argparse
import configparser
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from toolkit.cli import commands
from toolkit.cli.arguments import (
    name_models,
    newest_export,
    options_of,
    parse_seeds,
    pick_device,
)
from toolkit.cli.errors import describe, is_expected
from toolkit.cli.main import main, parse
from toolkit.cli.terminal import paint, table
from toolkit.pipeline.extras import EXTRAS, missing_extras, pip_line

ROOT = Path(__file__).resolve().parents[2]


def test_help_is_instant_and_imports_no_torch():
    code = (
        "import sys\n"
        "from toolkit.cli.main import main\n"
        "try: main(['run', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'transformers', 'speechbrain'} & set(sys.modules)\n"
        "print('heavy', sorted(heavy), file=sys.stderr)\n"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    # 0.1 s; processor time, as the wall clock of a busy machine says nothing.
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 2.0
    assert "heavy []" in done.stderr
    assert "11 export" in done.stdout


def test_module_help_names_every_command():
    done = subprocess.run(
        [sys.executable, "-m", "toolkit", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0
    for name in ("run", "prepare", "chat", "show", "preview", "doctor", "bench"):
        assert name in done.stdout


def test_overrides_stand_anywhere_behind_the_recipe():
    arguments = parse(["run", "a.yaml", "seed=2", "--stop_stage", "3", "x.y=4", "--z=5"])
    assert arguments.overrides == ["seed=2", "x.y=4", "--z=5"]
    assert arguments.stop_stage == "3"


@pytest.mark.parametrize("wrong", [["run", "a.yaml", "--stop-stge", "3"], ["doctor", "seed=2"]])
def test_unknown_arguments_are_refused(wrong, capsys):
    with pytest.raises(SystemExit):
        parse(wrong)
    assert "unrecognised arguments" in capsys.readouterr().err


def test_options_are_not_guessed_from_their_first_letters(capsys):
    with pytest.raises(SystemExit):
        parse(["run", "a.yaml", "--forc"])


def test_a_stage_command_runs_its_stage_alone():
    options = options_of(parse(["decode", "a.yaml", "--ngpu", "0", "--seeds", "1,2"]))
    assert (options.stage, options.stop_stage) == ("decode", "decode")
    assert options.seeds == [1, 2]
    assert options.device == "cpu"


def test_seeds_and_devices_are_checked(monkeypatch):
    with pytest.raises(ValueError, match="--seeds '1,b'"):
        parse_seeds("1,b")
    assert parse_seeds("") == []
    assert pick_device("cpu") == "cpu"
    assert pick_device("", ngpu=0) == "cpu"
    with pytest.raises(ValueError, match="contradict"):
        pick_device("cuda", ngpu=0)
    with pytest.raises(ValueError, match="1000 GPU"):
        pick_device("", ngpu=1000)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert pick_device("", ngpu=2) == "cuda"
    with pytest.raises(ValueError, match=r"3 GPU\(s\) asked for, 2 found"):
        pick_device("", ngpu=3)


def test_missing_recipe_is_one_message(capsys, monkeypatch):
    monkeypatch.delenv("TOOLKIT_DEBUG", raising=False)
    assert main(["show", "nowhere/train.yaml"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: no recipe at nowhere/train.yaml")
    assert "Traceback" not in err


def test_debug_shows_the_traceback(monkeypatch):
    from toolkit.config import ConfigError

    monkeypatch.setenv("TOOLKIT_DEBUG", "1")
    with pytest.raises(ConfigError):
        main(["show", "nowhere/train.yaml"])


def _caught(function):
    try:
        function()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def test_raise_statements_of_the_toolkit_are_messages():
    from toolkit.pipeline.table import find_stage

    error = _caught(lambda: find_stage("nine"))
    assert type(error) is ValueError
    assert is_expected(error)


def test_errors_that_pass_through_the_toolkit_are_bugs():
    # int() fails inside code that calls itself toolkit, but no statement of it raises.
    scope = {"__name__": "toolkit.somewhere"}
    exec("def convert(): return int('x')\ndef refuse(): raise ValueError('say 1')", scope)
    assert not is_expected(_caught(scope["convert"]))
    assert is_expected(_caught(scope["refuse"]))
    exec("def later(): raise NotImplementedError('no')", scope)
    assert not is_expected(_caught(scope["later"]))


def test_files_and_extras_are_messages():
    error = _caught(lambda: open("/nowhere/at/all"))
    assert is_expected(error) and "/nowhere/at/all" in describe(error)
    missing = ModuleNotFoundError("No module named 'gguf'", name="gguf")
    assert is_expected(missing)
    assert describe(missing) == f"gguf is not installed: pip install {pip_line('embedded')}"
    assert not is_expected(ModuleNotFoundError("No module named 'tokit'", name="tokit"))
    assert describe(KeyError("sets has no 'a'")) == "sets has no 'a'"


def test_extras_are_those_of_the_installation(monkeypatch):
    declared = configparser.ConfigParser()
    declared.read(ROOT / "setup.cfg")
    extras = declared["options.extras_require"]
    for module, extra in EXTRAS.items():
        named = extras[extra].lower().replace("-", "_")
        assert re.search(rf"^{module}(_tts|_language_detector)?[>=<]", named, re.MULTILINE), (
            module,
            extra,
        )
    monkeypatch.setitem(EXTRAS, "no_such_module", "plots")
    assert missing_extras()["no_such_module"] == "plots"


def test_newest_export_prefers_real_runs(tmp_path):
    with pytest.raises(FileNotFoundError, match="--model"):
        newest_export(tmp_path)

    def export(name: str, age: int) -> Path:
        spec = tmp_path / name / "export/toolkit.json"
        spec.parent.mkdir(parents=True)
        spec.write_text("{}")
        os.utime(spec, (age, age))
        return spec.parent

    smoke = export("smoke/exp/corpus/mtbi/seed1", 300)
    assert newest_export(tmp_path) == smoke
    export("exp/corpus/mtbi/seed1", 100)
    newer = export("exp/corpus/mtbi/seed2", 200)
    assert newest_export(tmp_path) == newer


def test_chat_refuses_a_missing_file_before_loading_a_model(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("TOOLKIT_DEBUG", raising=False)
    arguments = ["chat", str(tmp_path / "no.wav"), "Repeat.", "--model", str(tmp_path)]
    assert main(arguments) == 1
    assert "no.wav: missing" in capsys.readouterr().err


def test_doctor_reports_versions_and_weights(tmp_path, monkeypatch, capsys):
    import torch

    monkeypatch.setenv("TOOLKIT_HOME", str(tmp_path))
    assert commands.doctor(argparse.Namespace(work=tmp_path / "work")) == 0
    out = capsys.readouterr().out
    assert f"torch     {torch.__version__.partition('+')[0]}" in out
    lines = [line.split() for line in out.splitlines() if line.startswith("  wheel:")]
    assert lines and all(line[1:] == ["not", "downloaded"] for line in lines)


def test_tables_align_and_colours_can_be_off():
    lines = table(["a", "number"], [["long name", "1"]], right=[1]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[2] == "| long name |      1 |"
    assert paint("x", "green", on=False) == "x"
    assert paint("x", "green") == "\x1b[32mx\x1b[0m"


def test_models_side_by_side_need_names_of_their_own():
    a, b = Path("exp/mtbi/seed1/export"), Path("exp/own/seed2/export")
    assert name_models([a, b]) == {"mtbi/seed1": a, "own/seed2": b}
    assert list(name_models([Path("one"), Path("deep/er")])) == ["one", "deep/er"]
    with pytest.raises(ValueError, match="named twice"):
        name_models([a, a])
