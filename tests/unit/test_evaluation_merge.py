"""Runs in one table: what is joined, what is compared, and a page that needs nothing else."""

from __future__ import annotations

import json
import re
import statistics
from html.parser import HTMLParser
from pathlib import Path

import pytest

from toolkit.cli.main import main
from toolkit.config import Tagged, decode_tree, encode_tree
from toolkit.evaluation.merge import merge
from toolkit.evaluation.merged_tables import header_of, markdown, rows_of
from toolkit.evaluation.page import page
from toolkit.evaluation.runs import MergeError

WORDS = "please hold the line for an agent"


def write_run(
    root: Path, tag: str, seed: int, errors: int, items: int = 12, probability: float = 0.5
) -> Path:
    """A scored run whose answers to the first items miss ``errors`` words each."""
    folder = root / "exp" / "tiny" / f"mtbi{tag}" / f"seed{seed}"
    (folder / "decode").mkdir(parents=True)
    (folder / "provenance").mkdir()
    for kind in ("speech", "text"):
        rows = []
        for i in range(items):
            missing = errors if kind == "speech" and i < items // 2 + seed % 2 else 0
            answer = " ".join(WORDS.split()[missing:])
            rows += [
                {
                    "id": f"u{i}|repetition/0" + "|repeat" * repeat, "task": "repetition",
                    "transcript": WORDS, "answer": answer, "nll": 10.0 + missing, "tokens": 7,
                    "seen_task": True, "seen_wording": True, "input": kind, "repeat": repeat,
                }
                for repeat in (False, True)
            ]  # fmt: skip
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "decode" / f"test.{kind}.jsonl").write_text(text)
    scores = {"normaliser": "english", "smoke": False, "seed": seed,
              "sets": {"test": {"speech": {}, "text": {}}}}  # fmt: skip
    (folder / "scores.json").write_text(json.dumps(scores))
    interleaver = Tagged("!new:toolkit.interleavers.WordSpans", {"probability": probability})
    tree = {
        "status": "trained", "seed": seed, "work": str(root), "exp": str(folder),
        "interleaver": interleaver, "targets": f"{folder}/targets.jsonl",
    }  # fmt: skip
    (folder / "provenance" / "settings.json").write_text(json.dumps(encode_tree(tree)))
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for seed in (1, 2, 3):
        write_run(tmp_path, "", seed, errors=1)
        write_run(tmp_path, "_plain", seed, errors=3, probability=0.0)
    return tmp_path


def edit(folder: Path, change) -> None:
    """Change a run's settings."""
    path = folder / "provenance" / "settings.json"
    tree = decode_tree(json.loads(path.read_text()))
    change(tree)
    path.write_text(json.dumps(encode_tree(tree)))


def test_a_block_that_is_not_there_is_one_column(tmp_path):
    """Its settings are told where those that have it differ in them."""
    phase = Tagged("!new:toolkit.training.Phase", {"lr": 0.1, "steps": 3, "ema": None})
    other = Tagged("!new:toolkit.training.Phase", {"lr": 0.2, "steps": 3, "ema": None})
    for tag, pretrain in (("", phase), ("_other", other), ("_none", None)):
        folder = write_run(tmp_path, tag, 1, errors=1)
        edit(folder, lambda tree, block=pretrain: tree.update(phases={"pretrain": block}))
    merged = merge([tmp_path])
    assert merged.changed == ["phases.pretrain", "phases.pretrain.lr"]
    rows = [[merged.setting(group, key) for key in merged.changed] for group in merged.groups]
    assert sorted(rows) == [["Phase", "0.1"], ["Phase", "0.2"], ["null", "-"]]


def test_settings_of_a_block_that_some_have_are_told(tmp_path):
    """A mixture of its own, beside a run that has no such phase; the source of a block."""
    llm = Tagged("!new:toolkit.llms.CausalLM", {"source": "hub:x"})
    trees = {
        "": {"phases": {"train": Tagged("!new:toolkit.training.Phase", {"data": {"a": 1.0}})}},
        "_asr": {"phases": {"train": Tagged("!new:toolkit.training.Phase", {"data": {"b": 1.0}})}},
        "_none": {"phases": {"train": None}, "llm": llm},
    }
    for tag, tree in trees.items():
        edit(write_run(tmp_path, tag, 1, errors=1), lambda own, new=tree: own.update(new))
    merged = merge([tmp_path])
    keys = ["phases.train", "phases.train.data.a", "phases.train.data.b", "llm"]
    assert sorted(merged.changed) == sorted(keys)
    rows = {g.name: [merged.setting(g, key) for key in keys] for g in merged.groups}
    assert rows["tiny/mtbi_asr"] == ["Phase", "-", "1.0", "-"]
    assert rows["tiny/mtbi_none"] == ["null", "-", "-", "CausalLM(source=hub:x)"]


def test_what_follows_from_a_changed_block_is_no_column(tmp_path):
    """A projector is as wide as the encoder says; a teacher asks what the pool says."""
    for tag, source, prompts in (("", "hub:x", "listed"), ("_other", "hub:y", "single")):
        encoder = Tagged("!new:toolkit.encoders.WhisperEncoder", {"source": source})
        pool = Tagged("!new:toolkit.teachers.DescriptionPool", {"prompts": prompts})
        wide = {"input_dim": Tagged("!apply:getattr", [encoder, "dim"])}
        tree = {
            "encoder": encoder,
            "projector": Tagged("!new:toolkit.projectors.LayerwiseQFormer", wide),
            "pool": pool,
            "teacher": Tagged("!new:toolkit.teachers.DescriptionTeacher", {"pool": pool}),
            "annotate": [{"annotator": encoder, "manifests": ["a.jsonl"]}],
        }
        folder = write_run(tmp_path, tag, 1, errors=1)
        edit(folder, lambda own, new=tree: own.update(new))
    changed = merge([tmp_path]).changed
    assert changed == ["encoder.source", "pool.prompts", "annotate.0.annotator.source"]


def test_what_the_projector_heard_is_compared_where_it_was_decoded(root):
    """Beside the words that the LLM repeats; no column where no projector recognises tokens."""
    assert "| WER heard |" not in markdown(merge([root]))
    for path in root.glob("exp/tiny/*/seed*/decode/test.speech.jsonl"):
        plain = "_plain" in str(path)
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row in rows:
            if row["repeat"]:
                row["heard"] = " ".join(WORDS.split()[: 5 if plain else 6])
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    merged = merge([root])
    cells = {name: own["heard_wer"] for name, own in merged.sets["test"]["speech"].items()}
    assert cells["tiny/mtbi"].values == pytest.approx([1 / 7] * 3)
    assert cells["tiny/mtbi_plain"].mean == pytest.approx(2 / 7)
    assert cells["tiny/mtbi_plain"].difference == pytest.approx(1 / 7)
    assert "heard_wer" not in merged.sets["test"]["text"]["tiny/mtbi"]
    assert "| WER heard |" in markdown(merged)
    # Without it in the first row there is nothing to compare with.
    for path in root.glob("exp/tiny/mtbi/seed*/decode/test.speech.jsonl"):
        path.write_text(re.sub(r', "heard": "[^"]*"', "", path.read_text()))
    alone = merge([root]).sets["test"]["speech"]["tiny/mtbi_plain"]["heard_wer"]
    assert alone.difference is None and alone.mean == pytest.approx(2 / 7)


def test_seeds_are_joined_and_settings_become_columns(root):
    merged = merge([root])
    assert [(g.name, g.seeds) for g in merged.groups] == [
        ("tiny/mtbi", [1, 2, 3]), ("tiny/mtbi_plain", [1, 2, 3]),
    ]  # fmt: skip
    # Folders of the runs differ too; they are no setting.
    assert merged.changed == ["interleaver.probability"]
    assert merged.notes == []
    own = merged.sets["test"]["speech"]["tiny/mtbi"]["wer"]
    # 12 items of 7 words: 7 answers of odd seeds and 6 of the even one miss a word.
    assert own.values == pytest.approx([7 / 84, 6 / 84, 7 / 84])
    assert own.mean == pytest.approx(statistics.mean([7 / 84, 6 / 84, 7 / 84]))
    assert own.spread == pytest.approx(statistics.stdev([7 / 84, 6 / 84, 7 / 84]))
    assert own.low <= own.mean <= own.high and own.difference is None
    other = merged.sets["test"]["speech"]["tiny/mtbi_plain"]["wer"]
    assert other.difference == pytest.approx(2 * own.mean) and other.p <= 0.01
    text = merged.sets["test"]["text"]
    assert text["tiny/mtbi"]["wer"].mean == 0.0
    assert text["tiny/mtbi_plain"]["wer"].difference == 0.0


def test_the_table_has_a_row_per_setting(root):
    merged = merge([root])
    rows = [dict(zip(header_of(merged), row, strict=True)) for row in rows_of(merged, "test")]
    assert [row["interleaver.probability"] for row in rows] == ["0.5", "0.0"]
    assert [row["seeds"] for row in rows] == ["1, 2, 3"] * 2 and rows[0]["status"] == "trained"
    assert rows[0]["WER"] == "0.079 ± 0.007"
    assert rows[1]["WER"].startswith("0.238 ± 0.021 (+0.159, p = 0.0")
    text = markdown(merged)
    assert "## test" in text and text.count("| tiny/mtbi_plain |") == 2


def test_runs_that_do_not_match_are_said_to(root, tmp_path):
    write_run(tmp_path, "_short", 1, errors=0, items=5, probability=0.9)
    merged = merge([root / "exp/tiny/mtbi", root / "exp/tiny/mtbi_short"])
    notes = " ".join(merged.notes)
    assert "share 5 items" in notes and "One seed only" in notes and "same seeds" in notes
    (tmp_path / "again" / "tiny" / "mtbi").mkdir(parents=True)
    copied = write_run(tmp_path / "again", "", 1, errors=1)
    with pytest.raises(MergeError, match="same setting and seed twice"):
        merge([root / "exp/tiny/mtbi", copied])
    with pytest.raises(MergeError, match="no scores.json"):
        merge([root / "exp/tiny/mtbi/seed1/decode"])
    (root / "exp/tiny/mtbi/seed1/decode/test.text.jsonl").unlink()
    with pytest.raises(MergeError, match="is gone"):
        merge([root / "exp/tiny/mtbi"])


def rewrite(path: Path, change) -> None:
    """Change every row of a decoded file."""
    rows = [change(json.loads(line)) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_only_the_same_questions_are_compared(tmp_path):
    """Items of one id under another instruction, or against another text answer, are others."""
    write_run(tmp_path, "", 1, errors=1)
    other = write_run(tmp_path, "_other", 1, errors=3, probability=0.0)
    for kind in ("speech", "text"):
        path = other / "decode" / f"test.{kind}.jsonl"
        rewrite(path, lambda row: {**row, "instruction": "Say it again:"})
        # Repetitions are the same items in whatever wording: another number, the same utterance.
        rewrite(path, lambda row: {**row, "utterance": row["id"].split("|")[0]})
        rewrite(path, lambda row: {**row, "id": row["id"].replace("0|repeat", "3|repeat")})
    path = tmp_path / "exp/tiny/mtbi/seed1/decode"
    for kind in ("speech", "text"):
        rewrite(path / f"test.{kind}.jsonl", lambda r: {**r, "utterance": r["id"].split("|")[0]})
    merged = merge([tmp_path])
    cells = merged.sets["test"]["speech"]["tiny/mtbi_other"]
    # Seven of twelve answers of seven words miss three words, and one word in the first run.
    assert cells["wer"].difference == pytest.approx(7 * 2 / 84)
    assert cells["rouge_l"].difference is None and cells["rouge_l"].p is None
    notes = " ".join(merged.notes)
    assert "test, ROUGE-L: tiny/mtbi_other has no item in common with tiny/mtbi" in notes
    assert "not compared" in notes and "test, WER" not in notes and "share" not in notes
    # The same instruction again, but the text branch told other things about half of them.
    for kind in ("speech", "text"):
        rewrite(
            other / "decode" / f"test.{kind}.jsonl",
            lambda r: {k: v for k, v in r.items() if k != "instruction"},
        )
    rewrite(
        other / "decode" / "test.text.jsonl",
        lambda r: {**r, "answer": "no" if int(r["utterance"][1:]) < 6 else r["answer"]},
    )
    merged = merge([tmp_path])
    assert "share 6 items" in " ".join(merged.notes)
    assert merged.sets["test"]["speech"]["tiny/mtbi_other"]["rouge_l"].difference is not None


def write_mark(folder: Path, stage: str, settings: dict, facts: dict, finished: str) -> None:
    path = folder / "marks" / f"{stage}.json"
    path.parent.mkdir(exist_ok=True)
    mark = {"stage": stage, "settings": encode_tree(settings), "inputs": {}, "facts": facts}
    path.write_text(json.dumps({**mark, "finished": finished}))


def test_columns_show_what_the_stages_were_made_with(root):
    """The settings file is of the last command on the folder, whether it trained or not."""
    folder = root / "exp/tiny/mtbi/seed1"
    path = folder / "provenance" / "settings.json"
    trained = decode_tree(json.loads(path.read_text()))["interleaver"]

    def ask_again(**changes):
        """The same run, reported on with other settings on the command line."""
        tree = decode_tree(json.loads(path.read_text()))
        path.write_text(json.dumps(encode_tree({**tree, **changes})))

    phase = {"lr": 0.1, "optimizer_steps": 9, "validate_every": 3}
    other = Tagged("!new:toolkit.interleavers.WordSpans", {"probability": 0.9, "mean_span": 2})
    ask_again(interleaver=other, phases={"train": phase}, status="config-checked", seed=1)
    assert len(merge([root]).groups) == 3
    facts = {"optimizer_steps": 6}
    write_mark(folder, "train", {"interleaver": trained, "phases.train": {"lr": 0.2}}, facts, "2")
    # An earlier stage's mark does not override a later one's.
    write_mark(folder, "teach", {"interleaver": other, "seed": 7}, {}, "1")
    found = merge([root])
    # But for the phase, which only this seed has, the run is of the group of its siblings again.
    assert set(found.changed) == {
        "interleaver.probability", "phases.train.lr", "phases.train.optimizer_steps",
        "phases.train.validate_every",
    }  # fmt: skip
    own = next(g for g in found.groups if len(g.runs) == 1)
    assert found.setting(own, "interleaver.probability") == "0.5"
    assert found.setting(own, "phases.train.lr") == "0.2"
    assert found.setting(own, "phases.train.optimizer_steps") == "6"
    # How far a recipe has been tried tells no runs apart.
    ask_again(phases={})
    write_mark(folder, "train", {"interleaver": trained}, facts, "2")
    statuses = {g.name: g.status for g in merge([root]).groups}
    assert statuses["tiny/mtbi"] == "config-checked, trained"


class References(HTMLParser):
    """Everything that a page refers to, and whether its elements close in order."""

    VOID = {"meta", "img", "br", "line", "circle"}

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attributes):
        self.found += [v for k, v in attributes if k in ("src", "href") and v]
        if tag in ("script", "link", "iframe", "object"):
            self.found.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_the_page_needs_nothing_outside_itself(root):
    from toolkit.data.report import histogram

    curve = root / "exp/tiny/mtbi/seed1/train/curves/loss.png"
    curve.parent.mkdir(parents=True)
    histogram({"a": [1.0, 2.0]}, "loss", curve)
    report = root / "exp/tiny/mtbi/RESULTS.md"
    report.write_text(
        "# Results: <mtbi>\n\n| task | n |\n|---|---|\n| title | 4 |\n\n"
        "![loss](seed1/train/curves/loss.png)\n![gone](seed1/gone.png)\n"
    )
    text = page(merge([root]), "Results: <tiny>")
    parsed = References()
    parsed.feed(text)
    assert not parsed.open
    assert len(parsed.found) == 1 and parsed.found[0].startswith("data:image/png;base64,")
    assert "url(" not in text and "@import" not in text and "http" not in text
    assert "<title>Results: &lt;tiny&gt;</title>" in text
    # A narrow window shows rows as cards: each cell carries its column's name.
    assert "max-width: 44rem" in text and 'data-label="interleaver.probability"' in text
    assert text.count("<svg") == 2
    # The run's own report is inside as well; what is not there any more leaves its name.
    assert "<h1>Results: &lt;mtbi&gt;</h1>" in text and "<td>title</td>" in text
    assert text.count("<img") == 1 and "gone" in text and "gone.png" not in text


def test_the_command_merges_folders(root, capsys):
    out = root / "page" / "report.html"
    folders = [str(root / "exp/tiny/mtbi"), str(root / "exp/tiny/mtbi_plain")]
    assert main(["report", *folders, "--html", str(out)]) == 0
    assert "interleaver.probability" in capsys.readouterr().out
    assert "tiny/mtbi_plain" in out.read_text()
    assert main(["report", str(root / "exp/tiny/mtbi/seed1/decode")]) == 1
    assert "no scores.json" in capsys.readouterr().err
