"""Tiny models of the families that mmtrt knows."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import transformers

from tiny_hf.shared import TEXT, WORDS, Made, bert, layers, size_of


def clip() -> Made:
    text = layers(vocab_size=WORDS, max_position_embeddings=24, projection_dim=32, **TEXT)
    vision = layers(image_size=32, patch_size=8, projection_dim=32)
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=32)
    return transformers.CLIPModel(config), size_of(32)


def siglip() -> Made:
    text = layers(vocab_size=WORDS, max_position_embeddings=24, **TEXT)
    config = transformers.SiglipConfig(text_config=text, vision_config=layers(image_size=32, patch_size=8))
    return transformers.SiglipModel(config), size_of(32)


def align() -> Made:
    vision = {
        "image_size": 64,
        "width_coefficient": 1.0,
        "depth_coefficient": 1.0,
        "hidden_dim": 2560,
        "kernel_sizes": [3, 5],
        "in_channels": [32, 16],
        "out_channels": [16, 32],
        "strides": [1, 2],
        "num_block_repeats": [1, 1],
        "expand_ratios": [1, 6],
    }
    config = transformers.AlignConfig(text_config=bert(), vision_config=vision, projection_dim=32)
    return transformers.AlignModel(config), size_of(48)


def clap() -> Made:
    audio = {
        "window_size": 4,
        "num_mel_bins": 16,
        "spec_size": 64,
        "hidden_size": 32,
        "patch_embeds_hidden_size": 16,
        "depths": [1, 1],
        "num_attention_heads": [2, 2],
        "num_hidden_layers": 2,
        "projection_dim": 32,
    }
    text = bert(projection_dim=32, max_position_embeddings=33)
    config = transformers.ClapConfig(text_config=text, audio_config=audio, projection_dim=32)
    return transformers.ClapModel(config), {"feature_size": 16, "hop_length": 480, "nb_max_samples": 480 * 250}


def vilt() -> Made:
    config = transformers.ViltConfig(**bert(), image_size=32, patch_size=8, num_labels=5)
    return transformers.ViltForQuestionAnswering(config), size_of(32)


def visual_bert() -> Made:
    config = transformers.VisualBertConfig(**bert(), visual_embedding_dim=24, num_labels=5)
    return transformers.VisualBertForQuestionAnswering(config), {}


def lxmert() -> Made:
    layers = {"llayers": 1, "xlayers": 1, "rlayers": 1}
    config = transformers.LxmertConfig(**bert(), **layers, visual_feat_dim=24, num_qa_labels=5)
    del config.num_hidden_layers
    return transformers.LxmertForQuestionAnswering(config), {}


def flava() -> Made:
    config = transformers.FlavaConfig(
        image_config=layers(image_size=32, patch_size=8, vocab_size=32),
        text_config=bert(),
        multimodal_config=layers(),
        image_codebook_config={"num_groups": 2, "hidden_size": 8, "vocab_size": 32},
        hidden_size=32,
        projection_dim=32,
    )
    return transformers.FlavaForPreTraining(config), size_of(32)


def blip() -> Made:
    text = layers(vocab_size=WORDS, max_position_embeddings=32, encoder_hidden_size=32, projection_dim=32, **TEXT)
    text["sep_token_id"] = 2
    vision = layers(image_size=32, patch_size=8, projection_dim=32)
    config = transformers.BlipConfig(text_config=text, vision_config=vision, projection_dim=32)
    return transformers.BlipForImageTextRetrieval(config), size_of(32)


def blip_2() -> Made:
    config = transformers.Blip2Config(
        vision_config=layers(image_size=32, patch_size=8),
        qformer_config=layers(
            vocab_size=WORDS, max_position_embeddings=32, encoder_hidden_size=32, use_qformer_text_input=True
        ),
        text_config={"model_type": "opt", "vocab_size": WORDS, "hidden_size": 16, "num_hidden_layers": 1},
        num_query_tokens=4,
        image_token_index=WORDS - 1,
        image_text_hidden_size=32,
    )
    return transformers.Blip2ForImageTextRetrieval(config), size_of(32)


def bridge_tower() -> Made:
    # Its visual tower has one head to 64 channels.
    config = transformers.BridgeTowerConfig(
        text_config={**bert(max_position_embeddings=33, type_vocab_size=1), **layers(64)},
        vision_config={"hidden_size": 64, "num_hidden_layers": 2, "image_size": 32, "patch_size": 8},
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
    )
    return transformers.BridgeTowerForImageAndTextRetrieval(config), size_of(32)


def whisper() -> Made:
    config = transformers.WhisperConfig(
        vocab_size=WORDS,
        num_mel_bins=8,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_source_positions=20,
        max_target_positions=16,
        decoder_start_token_id=1,
        suppress_tokens=None,
        begin_suppress_tokens=None,
        **TEXT,
    )
    return transformers.WhisperForConditionalGeneration(config), {"feature_size": 8, "hop_length": 160}


def owlvit() -> Made:
    text = layers(vocab_size=WORDS, max_position_embeddings=16, **TEXT)
    vision = layers(image_size=32, patch_size=8)
    config = transformers.OwlViTConfig(text_config=text, vision_config=vision, projection_dim=32)
    return transformers.OwlViTForObjectDetection(config), size_of(32)


def clipseg() -> Made:
    text = layers(vocab_size=WORDS, max_position_embeddings=24, **TEXT)
    vision = layers(image_size=32, patch_size=8)
    config = transformers.CLIPSegConfig(
        text_config=text,
        vision_config=vision,
        projection_dim=32,
        extract_layers=[0, 1],
        reduce_dim=16,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=32,
    )
    return transformers.CLIPSegForImageSegmentation(config), size_of(32)


def grounding_dino() -> Made:
    swin = transformers.SwinConfig(
        image_size=64,
        window_size=2,
        embed_dim=16,
        depths=[1, 1, 1, 1],
        num_heads=[2, 2, 2, 2],
        out_features=["stage2", "stage3", "stage4"],
    )
    config = transformers.GroundingDinoConfig(
        backbone_config=swin,
        # The code counts BERT's [CLS], [SEP], full stop and question mark: 101, 102, 1012, 1029.
        text_config={"model_type": "bert", **bert(vocab_size=1100)},
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        num_queries=6,
        num_feature_levels=3,
        encoder_n_points=2,
        decoder_n_points=2,
        max_text_len=24,
    )
    return transformers.GroundingDinoForObjectDetection(config), size_of(64)


FAMILIES: Mapping[str, Callable[[], Made]] = {
    "clip": clip,
    "siglip": siglip,
    "align": align,
    "clap": clap,
    "vilt": vilt,
    "visual-bert": visual_bert,
    "lxmert": lxmert,
    "flava": flava,
    "blip-matching": blip,
    "blip-2-matching": blip_2,
    "bridge-tower": bridge_tower,
    "whisper-encoder": whisper,
    "owl-vit": owlvit,
    "clipseg": clipseg,
    "grounding-dino": grounding_dino,
}
