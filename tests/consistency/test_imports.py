"""Every module imports, and imports go down only."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "toolkit"

#: Rooms from top to bottom; a module may import its own room and those below.
ROOMS = (
    "cli",
    "bench",
    "pipeline",
    "inference",
    "evaluation",
    "training",
    "teachers",
    "models",
    "losses",
    "interleavers",
    "projectors",
    "encoders",
    "llms",
    "data",
    "weights",
    "config",
    "component",
)
#: Files beside the rooms: the lowest floor, which everybody may import and which imports nobody.
GROUND = ("component", "files", "text", "segments")
HEIGHT = {room: len(ROOMS) - i for i, room in enumerate(ROOMS)} | dict.fromkeys(GROUND, 0)
FILES = sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def runtime_imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Toolkit modules that a file imports, also inside functions; not those for type checkers."""
    skipped = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.dump(branch.test)
        for statement in branch.body
        for node in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import: write the whole name"
            module = node.module or ""
            if module == "toolkit":
                yield from ((node.lineno, f"toolkit.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, module


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_module_imports(path):
    if path.name != "__main__.py":
        importlib.import_module(module_name(path))


def test_every_file_is_in_a_known_room():
    unknown = {room(module_name(p)) for p in FILES} - set(HEIGHT) - {"", "__main__"}
    assert not unknown, f"say where {unknown} stand in ROOMS and in docs/architecture.md"


def test_imports_go_down_only():
    wrong = []
    for path in FILES:
        own = room(module_name(path))
        if own not in HEIGHT:  # toolkit/__init__.py and __main__.py
            continue
        for line, target in runtime_imports(ast.parse(path.read_text(encoding="utf-8"))):
            other = room(target)
            if not target.startswith("toolkit.") or other == own or other not in HEIGHT:
                continue
            if HEIGHT[other] >= HEIGHT[own]:
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {own} imports {target}")
    assert not wrong, "imports go down only:\n" + "\n".join(wrong)


def test_toolkit_never_imports_recipes():
    wrong = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in FILES
        for line, target in runtime_imports(ast.parse(path.read_text(encoding="utf-8")))
        if target.partition(".")[0] == "recipes"
    ]
    assert not wrong


def test_help_needs_no_heavy_library():
    code = (
        "import sys, toolkit.cli.main as m; m.parser().format_help();"
        "heavy = {'torch', 'transformers', 'speechbrain', 'numpy'} & set(sys.modules);"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_module_postpones_annotations():
    texts = {path: path.read_text(encoding="utf-8") for path in FILES}
    wrong = [
        str(path.relative_to(ROOT))
        for path, text in texts.items()
        if len(ast.parse(text).body) > 1 and "from __future__ import annotations" not in text
    ]
    assert not wrong


def test_no_module_is_long():
    lines = {path: path.read_text(encoding="utf-8").count("\n") for path in FILES}
    wrong = {str(path.relative_to(ROOT)): n for path, n in lines.items() if n > 450}
    assert not wrong, "split these by purpose"
