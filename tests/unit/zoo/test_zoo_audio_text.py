from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from mmtrt.zoo.data import audio_text
from mmtrt.zoo.data.audio_text import ANSWERS, KINDS, NUMBERS, ORDINALS, PITCHES, QUESTIONS, WORDS, Sound

DRAWN = [audio_text.sample_sounds(np.random.default_rng(seed)) for seed in range(400)]


def sound(kind: str, pitch: str, frames: int = 16) -> Sound:
    return Sound(kind=KINDS.index(kind), pitch=PITCHES.index(pitch), frames=frames, gap=3)


def fits(one: Sound, words: list[str]) -> bool:
    """Whether a description, of a kind, a pitch, both or none, is of a sound."""
    kinds = [w.removesuffix("s") for w in words if w.removesuffix("s") in KINDS]
    pitches = [w for w in words if w in PITCHES]
    return all(KINDS[one.kind] == k for k in kinds) and all(PITCHES[one.pitch] == p for p in pitches)


def answer_of(kind: str, words: list[str], sounds: tuple[Sound, ...]) -> str:
    """Read the question and listen."""
    if kind in {"kind", "pitch"}:
        place = next(i for i, ordinal in enumerate(ORDINALS) if ordinal in words)
        return KINDS[sounds[place].kind] if kind == "kind" else PITCHES[sounds[place].pitch]
    if kind == "count":
        return NUMBERS[sum(fits(s, words) for s in sounds)]
    if kind == "existence":
        return "yes" if any(fits(s, words) for s in sounds) else "no"
    (place,) = [i for i, s in enumerate(sounds) if fits(s, words)]
    return KINDS[sounds[place + 1].kind]


@pytest.mark.parametrize("kind", QUESTIONS)
def test_each_answer_is_what_is_heard(kind: str) -> None:
    answers: Counter[str] = Counter()
    for i, sounds in enumerate(DRAWN):
        asked = audio_text.ask(sounds, kind, np.random.default_rng(i))
        if asked is not None:
            assert asked.answer == answer_of(kind, list(asked.words), sounds), asked.words
            assert set(asked.words) <= set(WORDS)
            assert len(asked.words) < audio_text.TEXT_MAX
            answers[asked.answer] += 1
    assert set(answers) <= set(ANSWERS)
    assert max(answers.values()) < 0.6 * answers.total()
    assert answers.total() > 0.6 * len(DRAWN)


def heard(one: Sound) -> np.ndarray:
    """The loudest mel in each frame of the middle of a sound, `(frames,)`."""
    mels = audio_text.log_mel(audio_text.waveform((one,), np.random.default_rng(0)))[0]
    loud = np.flatnonzero(mels.max(axis=0) > mels.max() - 1)
    return mels[:, loud[3:-3]]


def test_a_spectrogram_shows_the_pitch_and_the_glide() -> None:
    low, high = (heard(sound("tone", pitch)).argmax(axis=0) for pitch in PITCHES)
    assert low.max() < high.min()
    rise, fall, tone = (heard(sound(kind, "low")).argmax(axis=0) for kind in ("rise", "fall", "tone"))
    assert rise[-1] > rise[0] + 2
    assert fall[-1] < fall[0] - 2
    assert np.ptp(tone) <= 1
    noise = heard(sound("noise", "high"))
    assert noise.std(axis=0).mean() > 0
    assert len(set(noise.argmax(axis=0))) > 2, "noise is loudest somewhere else each time"


def test_the_longest_sequence_fits() -> None:
    longest = tuple(Sound(kind=0, pitch=0, frames=19, gap=4) for _ in range(audio_text.MAX_SOUNDS))
    for seed in range(20):
        mels = audio_text.log_mel(audio_text.waveform(longest, np.random.default_rng(seed)))
        assert mels.shape[:2] == (1, audio_text.MELS)
        assert mels.shape[2] <= audio_text.FRAMES_MAX


def test_preprocessing_says_what_is_done() -> None:
    told = audio_text.PREPROCESSING
    assert told["mels"] == audio_text.MELS
    wave = audio_text.waveform(DRAWN[0], np.random.default_rng(0))
    mels = audio_text.log_mel(wave)[0] * told["std"] + told["mean"]
    frames = 1 + (len(wave) - told["window"]) // told["hop"]
    assert mels.shape[1] == frames
    assert np.exp(mels.min()) >= told["floor"] * 0.999
