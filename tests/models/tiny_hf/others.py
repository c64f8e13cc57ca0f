"""Tiny models of ten classes that mmtrt does not know: each goes the general way."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import transformers

from tiny_hf.shared import TEXT, WORDS, Made, bert, layers, size_of


def alt_clip() -> Made:
    """Text and image, two encoders; XLM-RoBERTa's positions."""
    config = transformers.AltCLIPConfig(
        text_config=bert(max_position_embeddings=33, type_vocab_size=1, project_dim=32),
        vision_config=layers(image_size=32, patch_size=8, projection_dim=32),
        projection_dim=32,
    )
    return transformers.AltCLIPModel(config), size_of(32)


def x_clip() -> Made:
    """Text and video, whose frames talk to one another."""
    vision = layers(
        image_size=32,
        patch_size=8,
        num_frames=4,
        mit_hidden_size=32,
        mit_intermediate_size=64,
        mit_num_attention_heads=2,
    )
    config = transformers.XCLIPConfig(
        text_config=layers(vocab_size=WORDS, max_position_embeddings=24, **TEXT),
        vision_config=vision,
        projection_dim=32,
        prompt_num_attention_heads=2,
    )
    return transformers.XCLIPModel(config), size_of(32)


def group_vit() -> Made:
    """Text and image, whose patches are grouped."""
    vision = layers(
        image_size=32,
        patch_size=8,
        depths=[1, 1, 0],
        num_group_tokens=[8, 4, 0],
        num_output_groups=[8, 4, 4],
    )
    config = transformers.GroupViTConfig(
        text_config=layers(vocab_size=WORDS, max_position_embeddings=24, **TEXT),
        vision_config=vision,
        projection_dim=32,
        projection_intermediate_dim=64,
    )
    return transformers.GroupViTModel(config), size_of(32)


def layoutlmv3() -> Made:
    """Text, its place on a page, and the page's picture."""
    config = transformers.LayoutLMv3Config(
        **bert(max_position_embeddings=33),
        coordinate_size=6,
        shape_size=4,
        input_size=32,
        patch_size=8,
        num_labels=5,
    )
    return transformers.LayoutLMv3ForTokenClassification(config), size_of(32)


def git() -> Made:
    """An image in front of a text that is being written."""
    config = transformers.GitConfig(**bert(), vision_config=layers(image_size=32, patch_size=8))
    return transformers.GitForCausalLM(config), size_of(32)


def pix2struct() -> Made:
    """Patches of any grid, read by a decoder."""
    text = {"hidden_size": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2, "vocab_size": WORDS}
    vision = {"hidden_size": 32, "patch_embed_hidden_size": 192, "d_kv": 16, "d_ff": 64, "patch_size": 8, "seq_len": 64}
    config = transformers.Pix2StructConfig(
        text_config={**text, **TEXT},
        vision_config={**vision, "num_hidden_layers": 2, "num_attention_heads": 2},
    )
    return transformers.Pix2StructForConditionalGeneration(config), {"max_patches": 24, "patch_size": 8}


def tvp() -> Made:
    """A text and the video in which its moment is looked for."""
    backbone = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", out_features=["stage2"]
    )
    config = transformers.TvpConfig(
        backbone_config=backbone, **bert(), num_frames=4, max_img_size=64, visual_prompt_size=8
    )
    return transformers.TvpForVideoGrounding(config), size_of(64)


def clvp() -> Made:
    """Text and speech, whose codes a decoder writes from both."""
    # Rotary positions take 32 channels of a head at least.
    encoder = layers(64, vocab_size=WORDS, projection_dim=32, **TEXT)
    decoder = {
        "vocab_size": WORDS,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_mel_attn_blocks": 1,
        "feature_size": 8,
        "max_position_embeddings": 64,
        "max_text_tokens": 32,
        "decoder_fixing_codes": [3, 4, 4, 5],
        **TEXT,
    }
    config = transformers.ClvpConfig(
        text_config=encoder, speech_config=encoder, decoder_config=decoder, projection_dim=32
    )
    return transformers.ClvpModelForConditionalGeneration(config), {"feature_size": 8}


def llava() -> Made:
    """A language model that reads an image's patches where its placeholders stand in the text."""
    text = layers(vocab_size=WORDS, max_position_embeddings=64, num_key_value_heads=2, **TEXT)
    config = transformers.LlavaConfig(
        vision_config={"model_type": "clip_vision_model", **layers(image_size=32, patch_size=8)},
        text_config={"model_type": "llama", **text},
        image_token_index=5,
        image_seq_length=16,
    )
    return transformers.LlavaForConditionalGeneration(config), size_of(32)


def speech_to_text() -> Made:
    """Speech, read by a decoder."""
    config = transformers.Speech2TextConfig(
        vocab_size=WORDS,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        conv_channels=32,
        input_feat_per_channel=8,
        max_source_positions=64,
        max_target_positions=32,
        decoder_start_token_id=1,
        **TEXT,
    )
    return transformers.Speech2TextForConditionalGeneration(config), {"feature_size": 8}


OTHERS: Mapping[str, Callable[[], Made]] = {
    "alt-clip": alt_clip,
    "x-clip": x_clip,
    "group-vit": group_vit,
    "layoutlmv3": layoutlmv3,
    "git": git,
    "pix2struct": pix2struct,
    "tvp": tvp,
    "clvp": clvp,
    "llava": llava,
    "speech-to-text": speech_to_text,
}
