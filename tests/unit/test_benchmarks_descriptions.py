"""What free descriptions say of a clip, attribute by attribute."""

from __future__ import annotations

import json

import pytest

from tests.decoded_items import PLAN, decoded, wav
from toolkit.data.manifest import write_manifest
from toolkit.data.rows import Row
from toolkit.evaluation.benchmarks import BenchmarkError, Descriptions
from toolkit.evaluation.benchmarks.items import rows_of
from toolkit.teachers import DescriptionPool, SeedTranscript
from toolkit.teachers.named_values import named_values

OPTIONS = {
    "gender": ["female", "male"],
    "accent": ["New York", "Scottish"],
    "pitch": ["high", "low", "normal"],
    "volume": ["loud", "normal", "quiet"],
    "speaking_speed": ["fast", "normal", "slow"],
    "noise_level": ["high", "low", "moderate"],
    "reverberation": ["moderate", "strong", "weak"],
}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("The speaker is a male, with a male accent and a high pitch.",
         {"gender": {"male"}, "pitch": {"high"}}),
        ("A woman with a New York accent, a normal pitch and volume.",
         {"gender": {"female"}, "accent": {"New York"}, "pitch": {"normal"}, "volume": {"normal"}}),
        ("The recording is a loud volume, slow speaking speed, and the noise level is moderate.",
         {"volume": {"loud"}, "speaking_speed": {"slow"}, "noise_level": {"moderate"}}),
        ("The pitch and the volume are normal.", {"pitch": {"normal"}, "volume": {"normal"}}),
        ("Pitch: high, Noise level: low, Reverberation: strong",
         {"pitch": {"high"}, "noise_level": {"low"}, "reverberation": {"strong"}}),
        # The value of another clause, or of another aspect, is not taken.
        ("The pitch is what it is. High noise.", {"noise_level": {"high"}}),
        ("The noise level is high and the reverberation is weak.",
         {"noise_level": {"high"}, "reverberation": {"weak"}}),
        ("a high noise level, pitch", {"noise_level": {"high"}}),
        ("The level of noise of this recording is low.", {"noise_level": {"low"}}),
        ("A low pitch of the voice, high-pitched at times.", {"pitch": {"low", "high"}}),
        ("a low noise level of the recording", {"noise_level": {"low"}}),
        # A value that this attribute does not have says nothing.
        ("The reverberation is low, the speed high.", {}),
        ("A high pitch. The pitch is low.", {"pitch": {"high", "low"}}),
        ("", {}),
    ],
)  # fmt: skip
def test_values_that_descriptions_name(answer, expected):
    found = named_values(answer, OPTIONS)
    assert {name: values for name, values in found.items() if values} == expected


@pytest.mark.parametrize(
    ("answer", "spoken", "gender"),
    [
        ('"Old man river." The speaker is female.', "Old man river.", {"female"}),
        ("The speaker says old, man: river", "Old man river!", set()),
        # The longest quotation is taken, and each of several.
        ("She says that a man must eat, and a man must eat again.", "A man must eat.", set()),
        # Parts count from three words on, shorter texts between quotation marks.
        ("He quotes: man and boy they", "We were man and boy, they said.", set()),
        ("A man and a low pitch.", "We were man and boy, they said.", {"male"}),
        ('"Woman!" A male voice.', "Woman!", {"male"}),
        ("A male voice says \u201cWoman\u201d.", "Woman!", {"male"}),
        ("It's a male who says 'hey, woman'.", "Hey woman!", {"male"}),
        ("A woman speaks.", "Woman!", {"female"}),
        ('The "voice" woman "speaks".', "Woman!", {"female"}),
        ("A man speaks.", "", {"male"}),
    ],
)
def test_what_is_quoted_says_nothing_about_the_voice(answer, spoken, gender):
    assert named_values(answer, {"gender": OPTIONS["gender"]}, spoken=spoken)["gender"] == gender


@pytest.mark.parametrize(
    ("answer", "spoken"),
    [
        ("The pitch is low.", "Is."),
        ("The pitch is low.", "is low"),
        ("Pitch: low", "Low."),
        ("A low pitch.", "A low"),
        ('The pitch is low, the word is "low".', "Low."),
        # Words that are shared one or two at a time are no quotation either.
        ("The pitch is low.", "It is low, the pitch of the sea."),
    ],
)
def test_a_short_text_does_not_hide_the_description(answer, spoken):
    assert named_values(answer, {"pitch": OPTIONS["pitch"]}, spoken=spoken)["pitch"] == {"low"}


def test_attributes_of_descriptions_by_hand(tmp_path):
    rows = []
    for i in range(4):
        wav(tmp_path / f"{i}.wav")
        own = {"gender": "male" if i else "female", "pitch": "low"} | ({"accent": "x"} if i else {})
        rows.append(Row(f"r{i}", str(tmp_path / f"{i}.wav"), 0.5, "Hi.", "en", "s", attributes=own))
    write_manifest(tmp_path / "test.jsonl", rows)
    describe = SeedTranscript(["gender", "pitch"])
    benchmark = Descriptions(
        str(tmp_path / "test.jsonl"), describe, DescriptionPool("single"), ["gender", "pitch"]
    )
    items = benchmark.items()
    asked = benchmark.decode_items(items, rows_of(items, {r.audio: r for r in rows}), "d", "text")
    assert asked[0].row.text == "[00:00:00 - 00:00:01] Hi. (Gender: female, Pitch: low)"
    assert {item.instruction for item in asked} == {"What can you hear from the audio?"}
    answers = decoded(
        items,
        text=lambda i: f"A {i.extra['values']['gender']} with a low pitch.",
        speech=lambda i: "A man with a low pitch." if i.id != "r3" else "A man or a woman.",
        blank="A woman.",
    )
    scores = benchmark.score(items, answers, PLAN)
    gender, pitch = scores["tasks"]["gender"], scores["tasks"]["pitch"]
    assert gender["majority"] == {"label": "male", "value": 0.75}
    assert {k: v["value"] for k, v in gender["strict"].items()} == {
        "text": 1.0, "speech": 0.5, "blank": 0.25,
    }  # fmt: skip
    assert gender["named"]["speech"]["value"] == 1.0 and pitch["named"]["speech"]["value"] == 0.75
    assert pitch["strict"]["speech"]["value"] == 0.75
    assert pitch["strict_speech_minus"]["blank"]["difference"] == pytest.approx(0.75)
    assert scores["strict"]["speech"]["value"] == pytest.approx(0.625)
    assert scores["majority"] == pytest.approx((0.75 + 1.0) / 2)
    assert list(scores["summary"]) == ["gender", "pitch", "mean"]
    table = benchmark.table(scores)
    assert "| gender | 4 | 0.75 | 1.00 [1.00, 1.00] |" in table and "+0.75 (p" in table
    assert "perplexity" in table and "1.65 [1.65, 1.65]" in table  # exp(2 / 4)
    json.dumps(scores)
    # An attribute that some rows lack is scored on the others.
    benchmark.attributes = ["accent", "gender"]
    items = benchmark.items()
    assert benchmark.score(items, answers, PLAN)["tasks"]["accent"]["n"] == 3


def test_values_are_those_that_the_teacher_knows(tmp_path):
    wav(tmp_path / "a.wav")
    given = ["unknown", "N/A", "", None, 118.4, " low ", "low", "high", "unknown"]
    rows = [
        Row(f"r{i}", str(tmp_path / "a.wav"), 0.5, "Hi.", "en", "s", attributes={"pitch": value})
        for i, value in enumerate(given)
    ]
    write_manifest(tmp_path / "test.jsonl", rows)
    benchmark = Descriptions(
        str(tmp_path / "test.jsonl"), SeedTranscript(), DescriptionPool("single"), ["pitch"]
    )
    items = benchmark.items()
    assert items[0].extra["options"] == {"pitch": ["high", "low"]}
    own = [item.extra["values"] for item in items]
    assert own == [{}] * 5 + [{"pitch": "low"}, {"pitch": "low"}, {"pitch": "high"}, {}]
    answers = decoded(items, text="A low pitch.", speech="A low pitch.", blank="A high pitch.")
    pitch = benchmark.score(items, answers, PLAN)["tasks"]["pitch"]
    assert pitch["n"] == 3 and pitch["majority"]["label"] == "low"


def test_descriptions_of_nothing_are_refused(tmp_path):
    wav(tmp_path / "a.wav")
    write_manifest(
        tmp_path / "test.jsonl", [Row("a", str(tmp_path / "a.wav"), 0.5, "Hi.", "en", "s")]
    )
    pool = DescriptionPool("single")
    with pytest.raises(BenchmarkError, match="no row has a word for any of pitch"):
        Descriptions(str(tmp_path / "test.jsonl"), SeedTranscript(), pool, ["pitch"]).items()
    with pytest.raises(ValueError, match="at least one attribute"):
        Descriptions(str(tmp_path / "test.jsonl"), SeedTranscript(), pool, [])
