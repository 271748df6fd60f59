"""Every command of the documentation parses, and the files it names exist."""

from __future__ import annotations

import configparser
import importlib
import importlib.util
import re
import shlex
from pathlib import Path

import pytest
from pages import FILES, ROOT, blocks, executed

from toolkit.cli.main import parse
from toolkit.config import load

#: Programs of other people; only the files given to them are checked.
OTHERS = {
    "apt-get", "cat", "cd", "cp", "df", "export", "git", "head", "ls", "mkdir", "rm", "tensorboard",
}  # fmt: skip
OURS = ("recipes/", "egs/", "docs/", "tests/", "toolkit/", "constraints.txt", "setup.cfg")
_ASSIGNMENT = re.compile(r"[A-Z_]+=\S*")
#: What is executed has files of its own: `test_code`.
BLOCKS = [
    block
    for path in FILES
    for block in blocks(path, "bash", "console", "sh")
    if not executed(block) or ":" in block.comment
]


def commands(text: str, language: str) -> list[list[str]]:
    """Argument lists of the commands of a block; output lines of a console are left out."""
    lines = text.replace("\\\n", " ").splitlines()
    if language == "console":
        lines = [line[2:] for line in lines if line.startswith("$ ")]
    found = []
    for line in lines:
        words = shlex.split(line, comments=True)
        current: list[str] = []
        for word in [*words, "&&"]:
            if word in ("&&", "||", "|", ";"):
                found.append(current)
                current = []
            else:
                current.append(word)
    return [c for c in found if c]


def check_files(words: list[str]) -> None:
    for word in words:
        path = word.rpartition("=")[2].partition("::")[0]
        if path.startswith(OURS) and not set("*<>{") & set(path):
            assert (ROOT / path).exists(), f"{path} does not exist"


def check_toolkit(words: list[str]) -> None:
    if {"-h", "--help"} & set(words):
        return
    try:
        arguments = parse(words)
    except SystemExit as error:
        raise AssertionError(f"toolkit {' '.join(words)}: does not parse") from error
    recipe = getattr(arguments, "recipe", None)
    if recipe is not None and (ROOT / recipe).is_file():
        own = [o for o in arguments.overrides if "!new:my_" not in o]
        load(ROOT / recipe, ["work=work", *own], instantiate=False)


def check_pip(words: list[str]) -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = set(config["options.extras_require"])
    for word in words:
        if match := re.fullmatch(r"\.\[([\w,]+)\]", word):
            assert set(match[1].split(",")) <= extras, f"{word}: extras are {sorted(extras)}"


def check(words: list[str]) -> None:
    while words and _ASSIGNMENT.fullmatch(words[0]):
        words = words[1:]
    if not words:
        return
    check_files(words)
    program, rest = words[0], words[1:]
    if program == "torchrun":
        program, rest = "python", rest[rest.index("-m") :]
    if program.endswith("ablations.sh"):
        # Its own options come first; all others are those of every run.
        while rest and rest[0] in ("--only", "--prefix", "--list"):
            rest = rest[1 if rest[0] == "--list" else 2 :]
        program = program.replace("ablations.sh", "run.sh")
    if program.endswith("run.sh"):
        corpus, method = Path(program).parts[-3:-1]
        check_toolkit(["run", f"recipes/{corpus}/{method}/train.yaml", *rest])
    elif program == "toolkit":
        check_toolkit(rest)
    elif program in ("python", "python3") and rest[:2] == ["-m", "toolkit"]:
        check_toolkit(rest[2:])
    elif program in ("python", "python3") and rest[1:2] and rest[1].startswith("toolkit."):
        importlib.import_module(rest[1]).parser().parse_args(rest[2:])
    elif program in ("python", "python3") and rest[0].startswith("docs/"):
        script = load_script(ROOT / rest[0])
        if hasattr(script, "parser"):
            script.parser().parse_args(rest[1:])
        else:
            assert not rest[1:]
    elif program in ("python", "python3") and rest[:1] == ["-m"] and rest[1].startswith("toolkit."):
        assert importlib.util.find_spec(rest[1]), f"no module {rest[1]}"
    elif program in ("python", "python3"):
        assert rest[:2] in (["-m", "pytest"], ["-m", "pip"], ["-m", "venv"]), " ".join(words)
        check_pip(rest)
    elif program == "pip":
        check_pip(rest)
    elif program in (".", "source"):
        assert len(rest) == 1
    else:
        assert program in OTHERS, (
            f"unknown program {program!r}: teach this test or correct the page"
        )


def load_script(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.name)
def test_commands_parse(block, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    found = commands(block.text, block.language)
    assert found, f"{block.name}: no command; mark output as ```text"
    for words in found:
        check(words)


def test_a_wrong_option_is_noticed():
    with pytest.raises(AssertionError, match="does not parse"):
        check(["toolkit", "run", "recipes/asterisk_sounds/mtbi/train.yaml", "--stages", "3"])
    with pytest.raises(AssertionError, match="does not exist"):
        check(["cat", "docs/nothing.md"])
    with pytest.raises(AssertionError, match="unknown program"):
        check(["slurp"])
