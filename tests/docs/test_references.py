"""Links and file names of the documentation lead somewhere; generated tables are current."""

from __future__ import annotations

import ast
import importlib
import re
import xml.etree.ElementTree as ElementTree

import pytest
from pages import FILES, ROOT, blocks, prose
from test_commands import load_script

_LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")
_CODE = re.compile(r"`(?P<text>[^`\n]+)`")
_PATH = re.compile(r"(?:recipes|egs|docs|tests|toolkit)/[\w./-]+|[\w-]+\.(?:md|cfg|toml|cff)")
_DOTTED = re.compile(r"toolkit(?:\.\w+)+")
#: Written by runs, not kept in the repository beside the page.
WRITTEN = {"RESULTS.md", "samples.md", "report.md", "ablations.md"}
pages = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))


def anchors(path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", prose(path), flags=re.M)
    plain = [re.sub(r"[^\w\- ]", "", title.lower()).strip() for title in titles]
    return {title.replace(" ", "-") for title in plain}


@pages
def test_links_lead_somewhere(path):
    for match in _LINK.finditer(prose(path)):
        target, _, anchor = match["target"].partition("#")
        if "://" in target:
            continue
        file = (path.parent / target).resolve() if target else path
        assert file.exists(), f"{path.name}: {match['target']} does not exist"
        if anchor:
            assert anchor in anchors(file), f"{path.name}: no heading for {match['target']}"


@pages
def test_files_named_in_code_style_exist(path):
    for match in _CODE.finditer(prose(path)):
        text = match["text"]
        if not _PATH.fullmatch(text) or text in WRITTEN:
            continue
        assert (ROOT / text).exists() or (path.parent / text).exists(), f"{path.name}: `{text}`"


@pages
def test_api_names_exist(path):
    texts = [m["text"] for m in _CODE.finditer(prose(path))]
    texts += [block.text for block in blocks(path, "yaml", "python")]
    for dotted in {d for text in texts for d in _DOTTED.findall(text)}:
        parts = dotted.split(".")
        for size in range(len(parts), 0, -1):
            try:
                item = importlib.import_module(".".join(parts[:size]))
            except ModuleNotFoundError:
                continue
            for name in parts[size:]:
                assert hasattr(item, name), f"{path.name}: {dotted} does not exist"
                item = getattr(item, name)
            break


def test_every_page_is_linked_from_the_readme():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in sorted((ROOT / "docs").glob("*.md")):
        assert f"docs/{path.name}" in text, f"README.md does not link {path.name}"


def test_generated_tables_are_current():
    generate = load_script(ROOT / "docs" / "generate.py")
    for file, name, table in generate.TABLES:
        text = (ROOT / file).read_text(encoding="utf-8")
        block = text.partition(f"<!-- {name} -->\n")[2].partition(f"\n<!-- /{name} -->")[0]
        assert block == table(), f"{file}: run `python docs/generate.py`"


@pytest.mark.parametrize(
    "path", sorted((ROOT / "docs" / "assets").glob("*.svg")), ids=lambda p: p.name
)
def test_pictures_are_whole_and_described(path):
    root = ElementTree.parse(path).getroot()
    names = {child.tag.rpartition("}")[2] for child in root}
    assert {"title", "desc"} <= names and root.get("viewBox")
    assert any(path.name in page.read_text(encoding="utf-8") for page in FILES)


#: Headings of the troubleshooting page that describe a symptom instead of quoting a message.
SYMPTOMS = {"torch and torchaudio do not fit each other", "a loss is not a number", "out of memory"}


def messages() -> set[str]:
    """All text constants of the toolkit's source; the pieces of f-strings one by one."""
    found = set()
    for path in (ROOT / "toolkit").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


def test_troubleshooting_quotes_real_messages():
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    headings = set(re.findall(r"^### (.+)$", page, flags=re.M))
    assert headings >= SYMPTOMS
    known = messages()
    for heading in sorted(headings - SYMPTOMS):
        for piece in (p.strip() for p in heading.split("…")):
            assert any(piece in text for text in known), f"no message says {piece!r} ({heading})"
