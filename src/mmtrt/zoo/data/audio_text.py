"""Short sequences of generated sounds, as log-mel spectrograms, and questions on what is heard. numpy only.

A sound is a tone, rises, falls or is noise; each is low or high. One to four follow one another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mmtrt.zoo.data.batches import Batch, BatchSize
from mmtrt.zoo.data.collating import collate, padded
from mmtrt.zoo.data.events import DATA_SEED, Sample, event_rng

KINDS: Final = ("tone", "rise", "fall", "noise")
PITCHES: Final = ("low", "high")
MIN_SOUNDS: Final = 1
MAX_SOUNDS: Final = 4
NUMBERS: Final = ("zero", "one", "two", "three", "four")
ANSWERS: Final = ("yes", "no", *NUMBERS, *KINDS, *PITCHES)
ORDINALS: Final = ("first", "second", "third", "fourth")
QUESTIONS: Final = ("kind", "pitch", "count", "existence", "after")

MELS: Final = 32
FRAMES_MIN: Final = 16
FRAMES_MAX: Final = 96
TEXT_MIN: Final = 4
TEXT_MAX: Final = 12
LENGTHS: Final = {"audio": FRAMES_MAX, "audio_mask": FRAMES_MAX, "ids": TEXT_MAX, "mask": TEXT_MAX}
IGNORED: Final = -1

_RATE: Final = 8000
_WINDOW: Final = 256
_HOP: Final = 128
_HEARD: Final = (80.0, 3900.0)
_FLOOR: Final = 1e-4
_MEAN: Final = -3.5
_STD: Final = 3.5

PREPROCESSING: Final = {
    "rate": _RATE,
    "window": _WINDOW,
    "hop": _HOP,
    "mels": MELS,
    "hz": _HEARD,
    "floor": _FLOOR,
    "mean": _MEAN,
    "std": _STD,
}
"""How a waveform in -1..1 becomes the model's input: `(log(mel power + floor) - mean) / std`, Hann windows."""

_LENGTH: Final = (12, 19)
"""Frames of a sound, least and most; gaps between are 2 to 4."""

_GAP: Final = (2, 4)
_BANDS: Final = ((250.0, 700.0), (1300.0, 3000.0))
_GLIDE: Final = 1.9
"""A rise ends at so many times the frequency that it begins with."""

_PADDED_EVERY: Final = 8
_MISSING_EVERY: Final = 16

_TEMPLATES: Final = {
    "kind": ("what is the {n} sound", "what kind of sound is the {n} sound", "please tell me what the {n} sound is"),
    "pitch": ("is the {n} sound low or high", "how high is the {n} sound"),
    "count": ("how many {s} are there", "count the {s}", "how many {s} can you hear in all of this"),
    "existence": ("is there a {s}", "can you hear a {s}", "is it true that you can hear a {s}"),
    "after": ("what comes after the {s}", "what kind of sound comes right after the {s}"),
}
_FILLED: Final = {w for texts in _TEMPLATES.values() for t in texts for w in t.split() if not w.startswith("{")}
_PLURALS: Final = ("sounds", "tones", "rises", "falls", "noises")
WORDS: Final = ("<pad>", "<start>", *sorted(_FILLED | {*KINDS, *PITCHES, *ORDINALS, *_PLURALS, "sound"}))
"""Question vocabulary; a word's id is its place. Each question begins with `<start>`."""

_WORD_IDS: Final = {word: i for i, word in enumerate(WORDS)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sound:
    """One sound: indices into KINDS and PITCHES, its length and the silence after it in frames."""

    kind: int
    pitch: int
    frames: int
    gap: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Words of a question on a sequence of sounds, and its answer."""

    kind: str
    words: tuple[str, ...]
    answer: str


# ------------------------------------------------------------------------------------------------------ what is heard


def sample_sounds(rng: np.random.Generator) -> tuple[Sound, ...]:
    """Draw one to four sounds."""
    return tuple(
        Sound(
            kind=int(rng.integers(len(KINDS))),
            pitch=int(rng.integers(len(PITCHES))),
            frames=int(rng.integers(_LENGTH[0], _LENGTH[1] + 1)),
            gap=int(rng.integers(_GAP[0], _GAP[1] + 1)),
        )
        for _ in range(int(rng.integers(MIN_SOUNDS, MAX_SOUNDS + 1)))
    )


def waveform(sounds: tuple[Sound, ...], rng: np.random.Generator) -> NDArray[np.float64]:
    """Play sounds after a gap, `(hop * frames + window - hop,)` in about -1..1, over a faint hiss."""
    lead = int(rng.integers(_GAP[0], _GAP[1] + 1))
    frames = max(FRAMES_MIN, lead + sum(s.frames + s.gap for s in sounds))
    wave = 0.005 * rng.standard_normal(_HOP * frames + _WINDOW - _HOP)
    at = lead * _HOP
    for sound in sounds:
        samples = sound.frames * _HOP
        wave[at : at + samples] += rng.uniform(0.2, 0.6) * _envelope(samples) * _play(sound, samples, rng)
        at += samples + sound.gap * _HOP
    return wave


def _play(sound: Sound, samples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    low, high = _BANDS[sound.pitch]
    if KINDS[sound.kind] == "noise":
        spectrum = np.fft.rfft(rng.standard_normal(samples))
        frequencies = np.fft.rfftfreq(samples, 1 / _RATE)
        band = np.fft.irfft(np.where((frequencies > low) & (frequencies < high), spectrum, 0), samples)
        return np.asarray(band / (np.sqrt((band**2).mean()) + 1e-9) * 0.7)
    turn = {"tone": 1.0, "rise": _GLIDE, "fall": 1 / _GLIDE}[KINDS[sound.kind]]
    # A glide keeps within the band: a rise begins low in it, a fall high in it.
    start = rng.uniform(low * max(1.0, 1 / turn), high / max(1.0, turn))
    frequency = start * turn ** np.linspace(0, 1, samples)
    phase = 2 * np.pi * np.cumsum(frequency) / _RATE + rng.uniform(0, 2 * np.pi)
    return np.asarray(np.sin(phase) + 0.15 * np.sin(2 * phase))


def _envelope(samples: int) -> NDArray[np.float64]:
    """Fade in and out over 10 ms."""
    fade = _RATE // 100
    ramp = np.minimum(np.arange(samples), np.arange(samples)[::-1]) / fade
    return np.asarray(np.clip(ramp, 0, 1))


def _mel_filters() -> NDArray[np.float64]:
    """Triangles evenly spaced in mel, `(MELS, window / 2 + 1)`, each of area about one bin."""
    ends = 2595 * np.log10(1 + np.array(_HEARD) / 700)
    points = 700 * (10 ** (np.linspace(ends[0], ends[1], MELS + 2) / 2595) - 1)
    bins = np.fft.rfftfreq(_WINDOW, 1 / _RATE)[None, :]
    left, centre, right = points[:-2, None], points[1:-1, None], points[2:, None]
    # The lowest triangles are narrower than a bin: none may miss all bins.
    width = _RATE / _WINDOW
    rise, fall = (bins - left) / np.maximum(centre - left, width), (right - bins) / np.maximum(right - centre, width)
    triangles = np.clip(np.minimum(rise, fall), 0, None) + 1e-6
    return np.asarray(triangles / triangles.sum(axis=1, keepdims=True))


_FILTERS: Final = _mel_filters()
_HANN: Final = np.hanning(_WINDOW)


def log_mel(wave: NDArray[np.float64]) -> NDArray[np.float32]:
    """Waveform to the model's input, `(1, MELS, frames)`, by PREPROCESSING."""
    windows = np.lib.stride_tricks.sliding_window_view(wave, _WINDOW)[::_HOP] * _HANN
    power = np.abs(np.fft.rfft(windows, axis=1)) ** 2
    mel = np.log(power @ _FILTERS.T + _FLOOR)
    return np.asarray((mel.T[None] - _MEAN) / _STD, dtype=np.float32)


# ------------------------------------------------------------------------------------------------------- what is asked


def ask(sounds: tuple[Sound, ...], kind: str, rng: np.random.Generator) -> Asked | None:
    """Ask a question of this kind; None where these sounds don't allow it."""
    told = _ASKERS[kind](sounds, rng)
    if told is None:
        return None
    fill, answer = told
    choices = _TEMPLATES[kind]
    return Asked(kind=kind, words=tuple(choices[int(rng.integers(len(choices)))].format(**fill).split()), answer=answer)


Told = tuple[dict[str, str], str]


def _ask_kind(sounds: tuple[Sound, ...], rng: np.random.Generator) -> Told:
    place = int(rng.integers(len(sounds)))
    return {"n": ORDINALS[place]}, KINDS[sounds[place].kind]


def _ask_pitch(sounds: tuple[Sound, ...], rng: np.random.Generator) -> Told:
    place = int(rng.integers(len(sounds)))
    return {"n": ORDINALS[place]}, PITCHES[sounds[place].pitch]


def _ask_count(sounds: tuple[Sound, ...], rng: np.random.Generator) -> Told:
    kind, pitch = (int(rng.integers(-1, n)) for n in (len(KINDS), len(PITCHES)))
    number = sum(kind in (-1, s.kind) and pitch in (-1, s.pitch) for s in sounds)
    return {"s": _name(kind, pitch) + "s"}, NUMBERS[number]


def _ask_existence(sounds: tuple[Sound, ...], rng: np.random.Generator) -> Told | None:
    there = {(s.kind, s.pitch) for s in sounds}
    absent = [(k, p) for k in range(len(KINDS)) for p in range(len(PITCHES)) if (k, p) not in there]
    pairs, answer = (sorted(there), "yes") if rng.random() < 0.5 else (absent, "no")
    return {"s": _name(*pairs[int(rng.integers(len(pairs)))])}, answer


def _ask_after(sounds: tuple[Sound, ...], rng: np.random.Generator) -> Told | None:
    """What follows a sound that is there once only, and not at the end."""
    all_of_them = [(s.kind, s.pitch) for s in sounds]
    places = [i for i, pair in enumerate(all_of_them[:-1]) if all_of_them.count(pair) == 1]
    if not places:
        return None
    place = places[int(rng.integers(len(places)))]
    return {"s": _name(*all_of_them[place])}, KINDS[sounds[place + 1].kind]


def _name(kind: int, pitch: int) -> str:
    """A description in words, "high tone"; -1 says nothing of kind or pitch."""
    return " ".join(([PITCHES[pitch]] if pitch >= 0 else []) + [KINDS[kind] if kind >= 0 else "sound"])


_ASKERS: Final[dict[str, Callable[[tuple[Sound, ...], np.random.Generator], Told | None]]] = {
    "kind": _ask_kind,
    "pitch": _ask_pitch,
    "count": _ask_count,
    "existence": _ask_existence,
    "after": _ask_after,
}


# --------------------------------------------------------------------------------------------------------- as arrays


def draw(rng: np.random.Generator, kind: str) -> Sample:
    """One sequence of sounds with a question of a kind, see `samples`."""
    asked = None
    while asked is None:
        sounds = sample_sounds(rng)
        asked = ask(sounds, kind, rng)
    audio = log_mel(waveform(sounds, rng))
    ids = np.array([_WORD_IDS["<start>"], *(_WORD_IDS[w] for w in asked.words)], dtype=np.int64)
    return {
        "audio": audio,
        "audio_mask": np.ones(audio.shape[-1], dtype=np.int64),
        "ids": ids,
        "mask": np.ones_like(ids),
        "label.answer": np.array(ANSWERS.index(asked.answer), dtype=np.int64),
    }


def samples(split: str = "calibration", count: int = 256, seed: int = DATA_SEED) -> Iterator[Sample]:
    """Yield the first `count` events of a split as samples without a batch axis; kinds of question take turns.

    `audio` (1, 32, f) float32 and `audio_mask` (f,) int64, 16 <= f <= 96; `ids` and `mask` (t,) int64, 4 <= t <= 12;
    `label.answer` () int64. In the calibration split, one event in eight is padded to the longest, one in sixteen has
    no text (4 pads, mask 0), and one in sixteen no sound (16 frames of 0, mask 0): these have no label (-1).
    """
    for index in range(count):
        sample = draw(event_rng(split, seed, index), QUESTIONS[index % len(QUESTIONS)])
        yield _varied(sample, index) if split == "calibration" else sample


def training_batch(seed: int, step: int, size: BatchSize) -> Batch:
    """Make the batch of one step: `size.scenes` events, all padded to the longest."""
    rng = event_rng("train", seed, step)
    return collate([draw(rng, QUESTIONS[int(rng.integers(len(QUESTIONS)))]) for _ in range(size.scenes)], LENGTHS)


def without_text(sample: Sample) -> Sample:
    """Take the question away: TEXT_MIN pads under a mask of 0 are left, and nothing to answer."""
    blank = np.zeros(TEXT_MIN, dtype=np.int64)
    return sample | {"ids": blank, "mask": blank.copy(), "label.answer": np.array(IGNORED, dtype=np.int64)}


def without_audio(sample: Sample) -> Sample:
    """Take the sounds away: FRAMES_MIN frames of 0 under a mask of 0 are left, and nothing to answer."""
    return sample | {
        "audio": np.zeros((1, MELS, FRAMES_MIN), dtype=np.float32),
        "audio_mask": np.zeros(FRAMES_MIN, dtype=np.int64),
        "label.answer": np.array(IGNORED, dtype=np.int64),
    }


def _varied(sample: Sample, index: int) -> Sample:
    if index % _MISSING_EVERY == _MISSING_EVERY - 3:
        return without_text(sample)
    if index % _MISSING_EVERY == _MISSING_EVERY - 5:
        return without_audio(sample)
    return padded(sample, LENGTHS) if index % _PADDED_EVERY == _PADDED_EVERY - 2 else sample
