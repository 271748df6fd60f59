"""Tables of ablations come from score files, in the order in which a recipe declares them."""

from __future__ import annotations

import json

import pytest
from pages import ROOT
from test_commands import load_script

from tests.unit.test_evaluation_merge import edit, write_run

UPDATE = load_script(ROOT / "docs" / "update_ablations.py")


@pytest.fixture
def repository(tmp_path):
    recipe = tmp_path / "recipes" / "tiny" / "mtbi"
    recipe.mkdir(parents=True)
    (recipe / "README.md").write_text("<!-- ablations:tiny/mtbi -->\nold\n<!-- /ablations -->\n")
    (recipe / "ablations.sh").write_text(
        "# Each changes one thing.\nablation base\nablation plain interleaver.probability=0.0\n"
        "ablation never_run a=1\n"
    )
    for seed in (1, 2, 3):
        for tag, errors, share in (("base", 1, 0.5), ("plain", 3, 0.0)):
            folder = write_run(tmp_path, f"_ablation_{tag}", seed, errors, probability=share)
            scores = json.loads((folder / "scores.json").read_text())
            tasks = {"a": {"n": 3, "following": seed / 3}, "b": {"n": 1, "following": 1.0}}
            scores["sets"]["test"]["speech"] = {"tasks": tasks}
            (folder / "scores.json").write_text(json.dumps(scores))
    return tmp_path


def run(root) -> int:
    return UPDATE.main([str(root / "exp" / "tiny"), "mtbi", "--root", str(root)])


def test_a_row_per_ablation_compared_with_the_first(repository):
    assert run(repository) == 0
    text = (repository / "recipes/tiny/mtbi/README.md").read_text()
    assert "old" not in text and "never_run" not in text
    header, _, base, plain, _, note = text.splitlines()[1:7]
    assert header == ("| test set | setting | seeds | WER | ROUGE-L | nats per token | follows |")
    # Three of seven words are missed in six or seven of twelve answers.
    assert base.startswith("| test | base | 1, 2, 3 | 0.079 ± 0.007 | ")
    assert plain.startswith("| test | plain | 1, 2, 3 | 0.238 ± 0.021 (+0.159, p < 0.001) | ")
    # Following is over all tasks, and not compared.
    assert ", p " not in base and plain.count(", p ") == 3
    for row in (base, plain):
        assert row.endswith("| 0.750 ± 0.250 |")
    assert note.startswith("12 questions on test.") and "There are 3 such tests" in note


def test_what_cannot_be_compared_is_refused(repository, capsys):
    experiments = repository / "exp" / "tiny"
    edit(experiments / "mtbi_ablation_plain" / "seed2", lambda tree: tree.update(text_policy="raw"))
    assert run(repository) == 1
    assert "differ in their settings" in capsys.readouterr().err
    (experiments / "mtbi_ablation_base").rename(experiments / "elsewhere")
    assert run(repository) == 1
    assert "mtbi_ablation_base and another one need scores" in capsys.readouterr().err
