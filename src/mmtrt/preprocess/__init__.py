"""How a model's inputs are made of pictures, texts and tensors: a JSON document of schema `mmtrt.preprocessing/1`.

It needs numpy and pydantic alone, so that a board makes the very numbers that the model was trained on.
"""

from mmtrt.preprocess.document import SCHEMA, Preprocessing, parse_preprocessing, read_preprocessing
from mmtrt.preprocess.pictures import read_picture
from mmtrt.preprocess.rules import ImageRule, TensorRule, TextRule

__all__ = [
    "SCHEMA",
    "ImageRule",
    "Preprocessing",
    "TensorRule",
    "TextRule",
    "parse_preprocessing",
    "read_picture",
    "read_preprocessing",
]
