"""Exact labels of rooms, noise and levels; what the labeller makes of them; its errors."""

from __future__ import annotations

import numpy as np
import pytest

from toolkit.data import acoustics, labeller, measures
from toolkit.data.annotation import AnnotationStore, annotate, apply_annotations
from toolkit.data.audio import resample, write_audio
from toolkit.data.labeller import ATTRIBUTES, AttributeLabeller, attributes_of, describe_row
from toolkit.data.rows import Row


def buzz(hertz, seconds=1.0, rate=16000):
    time = np.arange(int(seconds * rate)) / rate
    count = int(3800 / hertz)
    wave = sum(np.sin(2 * np.pi * hertz * k * time + k * k) / k for k in range(1, count))
    return (0.1 * wave).astype(np.float32)


@pytest.mark.parametrize("hertz", [75.0, 101.3, 147.0, 220.0, 310.5])
@pytest.mark.parametrize("snr", [60.0, 5.0])
def test_pitch_of_known_frequencies(hertz, snr):
    track = measures.pitch_track(acoustics.add_noise(buzz(hertz), snr, seed=1))
    assert len(track) > 50
    assert np.median(track) == pytest.approx(hertz, rel=0.01)


def test_pitch_rises_as_the_rate_does():
    wave = buzz(120.0)
    faster = resample(wave, 20000, 16000)  # played a quarter faster
    ratio = np.median(measures.pitch_track(faster)) / np.median(measures.pitch_track(wave))
    assert ratio == pytest.approx(1.25, rel=0.005)


def test_noise_and_silence_have_no_pitch():
    noise = acoustics.coloured_noise(16000, 0.0, 3)
    assert len(measures.pitch_track(0.1 * noise)) < 5
    assert len(measures.pitch_track(np.zeros(160, np.float32))) == 0
    found = measures.measure(0.1 * noise, "Hello.")
    assert found.pitch_hz is None and found.c50_db is None


@pytest.mark.parametrize("slope", [0.0, 1.0, 2.0])
def test_noise_is_added_at_the_ratio(slope):
    wave = np.pad(buzz(150.0), 8000)
    noise = acoustics.add_noise(wave, 7.0, slope, seed=5) - wave
    ratio = acoustics.active_power(wave) / (noise**2).mean()
    assert 10 * np.log10(ratio) == pytest.approx(7.0, abs=0.01)
    # The active power knows nothing of the silence around.
    assert acoustics.active_power(wave) == pytest.approx((buzz(150.0) ** 2).mean(), rel=0.05)
    power = np.abs(np.fft.rfft(acoustics.coloured_noise(1 << 17, slope, 0))) ** 2
    frequency = np.fft.rfftfreq(1 << 17, 1 / 16000)
    low = power[(frequency > 400) & (frequency < 600)].mean()
    high = power[(frequency > 3200) & (frequency < 4800)].mean()
    assert 10 * np.log10(low / high) == pytest.approx(slope * 9.03, abs=0.7)


def test_rooms():
    for rt60 in (0.3, 0.8):
        response = acoustics.room_response(7, rt60, 1.0)
        # Schroeder's backward integration, from -5 to -25 dB.
        energy = np.cumsum((response.astype(float) ** 2)[::-1])[::-1]
        level = 10 * np.log10(energy / energy[0])
        start, end = np.argmax(level < -5), np.argmax(level < -25)
        assert 3 * (end - start) / 16000 == pytest.approx(rt60, rel=0.3)
    by_distance = [acoustics.clarity(acoustics.room_response(7, 0.6, d)) for d in (0.3, 1.0, 3.0)]
    assert by_distance == sorted(by_distance, reverse=True) and by_distance[0] > 10
    assert (acoustics.room_response(7, 0.6, 1.0) == acoustics.room_response(7, 0.6, 1.0)).all()
    assert acoustics.clarity(np.ones(1)) == pytest.approx(100.0)


def test_reverberation_is_a_convolution():
    rng = np.random.default_rng(0)
    wave, response = rng.standard_normal(500), rng.standard_normal(333)
    assert np.allclose(
        acoustics.reverberate(wave, response), np.convolve(wave, response), atol=1e-4
    )


@pytest.mark.parametrize("name", ["C50_WEIGHTS", "SNR_KNOTS", "C50_RANGE_DB"])
def test_what_was_fitted_decides_the_fingerprint(name, monkeypatch):
    before = AttributeLabeller().fingerprint()
    monkeypatch.setattr(labeller, name, getattr(measures, name)[:-1])
    assert AttributeLabeller().fingerprint() != before


def test_classes_and_numbers_of_attributes():
    found = attributes_of(pitch_hz=100.0, level_db=-20.0, syllables_per_second=6.0, c50_db=3.04)
    assert (found["pitch"], found["volume"], found["speaking_speed"]) == ("low", "loud", "fast")
    assert found["c50_value"] == 3.0 and found["reverberation"] == "strong"
    assert "snr_level" not in found
    custom = AttributeLabeller(borders={"pitch": (["deep", "thin"], [150.0])}, only=["pitch"])
    row = Row("a", "/a.wav", 1.0, "Hi.", "en", "s")
    assert custom.label(row, buzz(220.0))["pitch"] == "thin"
    assert custom.fingerprint() != AttributeLabeller().fingerprint()
    with pytest.raises(ValueError, match="no quantity 'loudness'"):
        AttributeLabeller(borders={"loudness": (["a"], [])})
    with pytest.raises(ValueError, match="n - 1 rising borders"):
        AttributeLabeller(borders={"pitch": (["a", "b"], [1.0, 2.0])})
    with pytest.raises(ValueError, match="cannot compute"):
        AttributeLabeller(only=["emotion"])


def test_any_manifest_can_be_described(tmp_path):
    path = tmp_path / "a.wav"
    write_audio(path, np.pad(buzz(205.0, 1.5), 4000))
    row = Row("a", str(path), 2.0, "Good morning to you all.", "en", "s")
    own = Row("b", str(path), 2.0, row.text, "en", "s", attributes={"pitch": "low", "age": "30"})
    labeller = AttributeLabeller()
    store = AnnotationStore(tmp_path / "annotations", labeller)
    counts = annotate([row, own], labeller, store, progress=False)
    assert counts == {"annotated": 1, "same": 1}
    computed, merged = apply_annotations([row, own], AnnotationStore(store.folder.parent, labeller))
    assert computed.attributes["pitch"] == "high"
    # What the corpus says stands before what was computed.
    assert merged.attributes["pitch"] == "low" and merged.attributes["age"] == "30"
    assert merged.attributes["volume"] == computed.attributes["volume"]
    # With the word goes the number: 205 Hz would not be called low.
    assert "pitch_hz" in computed.attributes and "pitch_hz" not in merged.attributes
    full = describe_row(own, np.pad(buzz(205.0, 1.5), 4000), labeller)
    assert {"pitch", "volume", "speaking_speed", "age"} <= set(full) & set(ATTRIBUTES)
    assert "snr_level" in full and "pitch_hz" not in full
    assert full["spoken_text"] == row.text and full["duration"] == 2.0


@pytest.mark.parametrize(
    ("own", "merged"),
    [
        # The word would contradict the corpus's number, and one number another.
        ({"pitch_hz": 120}, {"pitch_hz": 120, "snr_level": 30.0, "noise_level": "low"}),
        ({"snr_db": 3}, {"pitch": "high", "pitch_hz": 205.0, "snr_db": 3}),
        ({"pitch": 120.0}, {"pitch": 120.0, "snr_level": 30.0, "noise_level": "low"}),
        # What says nothing does not hide what was measured, and stays where nothing was.
        ({"noise_level": "unknown", "pitch_hz": None, "age": "n/a"},
         {"pitch": "high", "pitch_hz": 205.0, "snr_level": 30.0, "noise_level": "low",
          "age": "n/a"}),
        ({"noise_level": "unknown", "snr_level": 2.0},
         {"pitch": "high", "pitch_hz": 205.0, "noise_level": "unknown", "snr_level": 2.0}),
    ],
)  # fmt: skip
def test_computed_attributes_do_not_contradict_the_corpus(own, merged):
    computed = {"pitch": "high", "pitch_hz": 205.0, "snr_level": 30.0, "noise_level": "low"}
    assert measures.merged_attributes(computed, own) == merged


def test_errors_against_exact_labels(tmp_path):
    """Three dozen unseen voices, rooms and noises; the bounds are about twice what was measured."""
    pytest.importorskip("espeakng_loader")
    from recipes.spoken_attributes import calibrate, scenes

    texts = [
        "Nobody knows what the harvest will bring this year.",
        "The old bridge was closed after the storm.",
        "Most of the passengers had already left the train.",
        "Please return the book before the end of the month.",
    ]
    rows = []
    for i in range(36):
        scene = scenes.draw("test", texts[i % 4], 3, i // 4)
        wave, facts = scenes.render(scene)
        path = scene.path(tmp_path)
        write_audio(path, wave)
        seconds = len(wave) / 16000
        found = scenes.attributes(scene, facts, seconds)
        rows.append(Row(scene.id, str(path), seconds, scene.text, "en", "s", attributes=found))
        assert np.abs(wave).max() <= 1.0
    found = calibrate.errors(rows)
    assert found["pitch"]["median"] < 0.4 and found["pitch"]["same class"] > 0.85  # semitones
    assert found["level"]["median"] < 0.5 and found["level"]["p90"] < 4.0  # dB
    assert found["speed"]["median"] < 7.0 and found["speed"]["p90"] < 25.0  # per cent
    assert found["snr"]["median"] < 2.2 and abs(found["snr"]["bias"]) < 1.5  # dB
    assert found["c50"]["median"] < 6.0 and found["c50"]["value"] > 0.5  # dB
    assert found["pitch"]["value"] > 0.85 and found["snr"]["value"] == 1.0
