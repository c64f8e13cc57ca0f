"""`vqa-coattention`: visual question answering by co-attention; three heads: answer, match, generate."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from mmtrt.zoo.blocks.fusion import CoAttentionFusion
from mmtrt.zoo.checkpoints import checkpoint_path, load_checkpoint
from mmtrt.zoo.data.batches import training_batch
from mmtrt.zoo.models.vqa import Factory, Vqa, VqaConfig, example, heads_on
from mmtrt.zoo.training import vqa
from mmtrt.zoo.training.lesson import Lesson
from mmtrt.zoo.training.loop import Schedule
from mmtrt.zoo.training.pictures import READING

__all__ = ["CHECKPOINT", "LESSON", "NAME", "VqaCoattention", "VqaConfig", "factory", "load"]

NAME: Final = "vqa-coattention"
CHECKPOINT: Final = checkpoint_path(NAME)


class VqaCoattention(Vqa):
    """A picture and a question attend to each other, block by block."""

    def __init__(self, config: VqaConfig | None = None) -> None:
        c = config or VqaConfig()
        fusion = CoAttentionFusion(c.width, c.heads, c.fusion_hidden, c.fusion_blocks)
        super().__init__(c, fusion, heads_on(4 * c.width, c.width))


LESSON: Final[Lesson[Vqa]] = Lesson(
    name=NAME,
    what="A picture and a question, fused by co-attention; out come the answer, whether the two match, and a phrase.",
    modalities=vqa.MODALITIES,
    make=VqaCoattention,
    batch=training_batch,
    loss=vqa.loss,
    scores=vqa.scores,
    metric="answer accuracy",
    schedule=Schedule(steps=4800),
    inputs=vqa.inputs,
    data=vqa.data,
    data_modules=vqa.DATA_MODULES,
    chance=vqa.chance,
    before=(READING,),
    blind_steps={"image": 400, "question": 250},
    test_events=vqa.TEST_EVENTS,
)


def load(path: Path = CHECKPOINT) -> VqaCoattention:
    """Load the trained model, in eval mode; ModelError where the checkpoint is missing or unfit."""
    return load_checkpoint(VqaCoattention(), NAME, path)


def factory() -> Factory:
    """Give what `zoo:vqa-coattention` exports: module, example inputs, dynamic axes, extra facts."""
    return example(load())
