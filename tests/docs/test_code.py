"""Every Python block of the documentation runs, in order, one namespace per page.

``<!-- file: NAME -->`` above a block writes it to NAME in the folder where the page's blocks run;
``<!-- no-run -->`` marks what would train for minutes: it is compiled only. Of the shell blocks,
those under ``<!-- run -->`` run too, in their place; ``<!-- run: --dry-run -->`` adds words to each
command that the page does not show.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pages import FILES, ROOT, blocks, executed
from test_commands import commands

PAGES = [
    path
    for path in FILES
    if blocks(path, "python") or any(executed(block) for block in blocks(path))
]


def run_command(words: list[str], folder: Path) -> None:
    """Run a command of a page as its reader does, with the toolkit of this checkout."""
    if words[0].endswith("run.sh"):
        # The recipe's script makes an environment first; this one is there.
        corpus, method = Path(words[0]).parts[-3:-1]
        words = ["toolkit", "run", f"recipes/{corpus}/{method}/train.yaml", *words[1:]]
    assert words[0] == "toolkit", f"{words[0]}: only our own commands run"
    found = subprocess.run(
        [sys.executable, "-m", *words], cwd=folder, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert found.returncode == 0, f"{shlex.join(words)}: {found.stdout}{found.stderr}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_python_blocks_run(path, tmp_path, monkeypatch):
    for name in ("recipes", "egs"):
        # A copy: a page may make a recipe of its own.
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOOLKIT_HOME", str(tmp_path / "empty"))
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    namespace = {"__name__": "__page__"}
    for block in blocks(path):
        if block.comment.startswith("file:"):
            target = tmp_path / block.comment.removeprefix("file:").strip()
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block.text, encoding="utf-8")
        elif executed(block):
            more = shlex.split(block.comment.partition(":")[2])
            for words in commands(block.text, block.language):
                run_command([*words, *more], tmp_path)
        elif block.language == "python":
            # Blank lines in front keep the page's line numbers in tracebacks.
            code = compile("\n" * (block.line - 1) + block.text, str(path), "exec")
            if block.comment != "no-run":
                exec(code, namespace)


def test_only_training_is_left_out():
    for path in FILES:
        for block in blocks(path, "python"):
            if block.comment == "no-run":
                assert ".fit(" in block.text or "run(" in block.text, f"{block.name} can run"
