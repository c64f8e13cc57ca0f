"""`audio-text`: a question on a sequence of sounds, both as tokens in one transformer; the answer is a keyword."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmtrt.zoo.blocks.audio import AudioEncoder
from mmtrt.zoo.blocks.encoders import TextEncoder, additive_mask
from mmtrt.zoo.blocks.fusion import EarlyFusion
from mmtrt.zoo.checkpoints import load_checkpoint
from mmtrt.zoo.data import audio_text, collating, events
from mmtrt.zoo.data.audio_text import ANSWERS, FRAMES_MAX, FRAMES_MIN, LENGTHS, MELS, TEXT_MAX, TEXT_MIN, WORDS, samples
from mmtrt.zoo.data.batches import Batch, BatchSize
from mmtrt.zoo.data.collating import collate
from mmtrt.zoo.models.vqa import Factory
from mmtrt.zoo.training.lesson import Lesson
from mmtrt.zoo.training.loop import Schedule
from mmtrt.zoo.training.scoring import commonest, scored, to_inputs

NAME: Final = "audio-text"
MODALITIES: Final = {"audio": ["audio", "audio_mask"], "text": ["ids", "mask"]}
METRICS: Final = {"answer": ["accuracy"]}


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioTextConfig:
    """Sizes of the model; the defaults are those of the checkpoint."""

    width: int = 96
    heads: int = 4
    hidden: int = 192
    channels: tuple[int, int] = (24, 48)
    text_blocks: int = 1
    fusion_blocks: int = 3


class AudioText(nn.Module):
    """Sounds and a question in; answer logits out."""

    def __init__(self, config: AudioTextConfig | None = None) -> None:
        super().__init__()
        c = config or AudioTextConfig()
        self.config = c
        self.audio_encoder = AudioEncoder(MELS, FRAMES_MAX, c.channels, c.width)
        self.text_encoder = TextEncoder(len(WORDS), TEXT_MAX, c.width, c.heads, c.hidden, c.text_blocks)
        self.fusion = EarlyFusion(c.width, c.heads, c.hidden, c.fusion_blocks, modalities=2)
        self.norm = nn.LayerNorm(c.width)
        self.answer = nn.Linear(c.width, len(ANSWERS))

    def forward(self, audio: Tensor, audio_mask: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Logits `(B, A)`; audio `(B, 1, 32, F <= 96)` with mask `(B, F)`, ids and mask `(B, T <= 12)`."""
        sounds, heard = self.audio_encoder(audio, audio_mask)
        hidden = additive_mask(mask)
        text, _ = self.fusion((self.text_encoder(ids * mask, hidden), sounds), (hidden, additive_mask(heard)))
        logits: Tensor = self.answer(self.norm(text[:, 0]))
        return logits


def loss(model: AudioText, batch: Batch, blind: str) -> Tensor:
    """Mean cross entropy of the answers."""
    logits = model(**to_inputs(batch, MODALITIES, blind))
    return functional.cross_entropy(logits.float(), torch.from_numpy(batch["label.answer"]), ignore_index=-1)


def scores(model: AudioText, split: str, count: int, blind: str) -> dict[str, float]:
    """Accuracy of the answers, all kinds of question alike."""
    return scored(model, samples(split, count), METRICS, lengths=LENGTHS, modalities=MODALITIES, blind=blind)


def inputs() -> dict[str, Tensor]:
    """One event of the largest size."""
    text = torch.ones((1, TEXT_MAX), dtype=torch.int64)
    frames = torch.ones((1, FRAMES_MAX), dtype=torch.int64)
    return {"audio": torch.zeros((1, 1, MELS, FRAMES_MAX)), "audio_mask": frames, "ids": text, "mask": text}


def data() -> dict[str, Any]:
    """What the card says of the sounds and questions."""
    return {
        "audio": f"{audio_text.MIN_SOUNDS} to {audio_text.MAX_SOUNDS} sounds one after another over a faint hiss, "
        f"as {MELS} log-mels of {FRAMES_MIN} to {FRAMES_MAX} frames",
        "sounds": [f"{pitch} {kind}" for pitch in audio_text.PITCHES for kind in audio_text.KINDS],
        "preprocessing": audio_text.PREPROCESSING,
        "kinds of question": audio_text.QUESTIONS,
        "question words": len(WORDS),
        "answers": ANSWERS,
        "seed": events.DATA_SEED,
    }


def chance() -> dict[str, float]:
    """The commonest answer, and the commonest to each kind of question."""
    return {
        "commonest answer": commonest(samples("test", LESSON.test_events), "answer"),
        "commonest answer of each kind of question": commonest(
            samples("test", LESSON.test_events), "answer", len(audio_text.QUESTIONS)
        ),
    }


LESSON: Final = Lesson(
    name=NAME,
    what="Sounds and a question on them, as tokens in one transformer (early fusion); the answer is a keyword.",
    modalities=tuple(MODALITIES),
    make=AudioText,
    batch=audio_text.training_batch,
    loss=loss,
    scores=scores,
    metric="answer accuracy",
    schedule=Schedule(steps=1500, peak=1.5e-3, warmup=100, size=BatchSize(scenes=96, questions=1), validate_every=500),
    inputs=inputs,
    data=data,
    data_modules=(audio_text, events, collating),
    chance=chance,
    validation_events=1000,
    test_events=4000,
)


def factory() -> Factory:
    """Give what `zoo:audio-text` exports: module, example inputs, dynamic axes, extra facts."""
    usual = {"audio": 64, "audio_mask": 64, "ids": 8, "mask": 8}
    fitting = (s for s in samples("validation", 60) if len(s["audio_mask"]) <= 64 and len(s["ids"]) <= 8)
    batch = collate([next(fitting), next(fitting)], usual)
    axes = {
        "audio": {0: "batch", 3: "frames"},
        "audio_mask": {0: "batch", 1: "frames"},
        "ids": {0: "batch", 1: "text"},
        "mask": {0: "batch", 1: "text"},
    }
    extra = {
        "modalities": MODALITIES,
        "outputs": list(METRICS),
        "ranges": {
            "batch": [1, 8, 32],
            "frames": [FRAMES_MIN, 64, FRAMES_MAX],
            "text": [TEXT_MIN, 8, TEXT_MAX],
        },
        "samples": samples,
    }
    return load_checkpoint(AudioText(), NAME), {n: torch.from_numpy(batch[n]) for n in axes}, axes, extra
