"""What is expected of each model type: which run, which are refused, and which cannot run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

VERSION = "5.23.0"
"""The release of transformers that the tables are true for."""

SAMPLED = (
    "llama", "gpt2", "bert", "t5", "marian", "bart", "gemma3", "xlnet", "llava", "qwen2_vl",
    "mamba", "rwkv", "clip",
)  # fmt: skip
"""The types of the default suite; the others run with ``-m sweep``."""

TYPES: tuple[str, ...] = tuple(
    """
afmoe aimv2 albert altclip apertus arcee aria aria_text audioflamingo3 axk1 axk2 aya_vision
bailing_hybrid bamba bart beam bert bert-generation big_bird bigbird_pegasus biogpt bitnet
blenderbot blenderbot-small blip blip-2 bloom blt bridgetower bros camembert canary canine
chameleon chinese_clip clip clip_text_model clipseg clvp codegen cohere cohere2 cohere2_moe
cohere2_vision cohere_asr cohere_compass cohere_compass_text colmodernvbert colpali colqwen2
convbert cosmos3_edge cosmos3_edge_text cosmos3_omni cpmant csm ctrl cwm data2vec-text deberta
deberta-v2 deepseek_ocr2 deepseek_v2 deepseek_v3 deepseek_v32 deepseek_v4 deepseek_vl
deepseek_vl_hybrid diffllama diffusion_gemma distilbert doge dots1 dots3_note_text dpr electra
embedding_gemma2 embedding_gemma2_text emu3 encoder-decoder ernie ernie4_5 ernie4_5_moe
ernie4_5_vl_moe esm esmc eurobert evolla exaone4 exaone4_5 exaone_moe falcon falcon_h1
falcon_mamba flaubert flava flex_olmo flint florence2 fnet fsmt fun_asr_nano funnel fuyu gemma
gemma2 gemma3 gemma3_text gemma3n_text gemma4 gemma4_text gemma4_unified gemma4_unified_text git
glm glm4 glm46v glm4_moe glm4_moe_lite glm4v glm4v_moe glm4v_moe_text glm4v_text glm5_next
glm5_next_text glm_image glm_image_text glm_moe_dsa glm_ocr glm_ocr_text glmasr glmga got_ocr2
gpt-sw3 gpt2 gpt_bigcode gpt_neo gpt_neox gpt_neox_japanese gpt_oss gptj gradium_phonon_tts
granite granite4_vision granite_docling granite_docling_text granite_speech granite_speech_plus
granite_swa granitemoe granitemoe_swa granitemoehybrid granitemoeshared grounding-dino groupvit
gte helium higgs_audio_v2 hrm_text hunyuan_v1_dense hunyuan_v1_moe hunyuan_vl hunyuan_vl_text
hy_v3 hy_v4 hyperclovax hyperclovax_vision_v2 ibert idefics idefics2 idefics3 imagegpt inkling2
inkling2_text inkling_mm_model inkling_text instructblip instructblipvideo internlm3 internvl
iquestcoder jais2 jamba janus jetmoe jina_embeddings_v3 kimi_k25 kimi_linear kolibri1 kosmos-2
kosmos-2.5 laguna layoutlm layoutlmv3 led lfm2 lfm2_moe lfm2_vl lfm3 lfm3_vl lighton_ocr lilt
llama llama4 llama4_text llava llava_next llava_next_video llava_onevision longcat_flash
longformer longt5 luke lxmert m2m_100 mamba mamba2 marian markuplm mbart megatron-bert mellum
metaclip_2 mimo_v2_flash minicpm3 minicpm_ocr minicpmv4_6 minicpmv4_7 minimax minimax_m2
minimax_m3_vl minimax_m3_vl_text ministral ministral3 mistral mistral3 mistral4 mistral_large4
mistral_large4_text mixtral mllama mm-grounding-dino mobilebert modernbert modernbert-decoder
modernvbert molmo2 molmo2_text moonshine moshi moss_transcribe_diarize mpnet mpt mra mt5
muse_glimmer muse_glimmer_text muse_spark muse_spark_text musicflamingo mvp nanochat
nemo_speechlm nemotron nemotron3_5_asr nemotron_asr_streaming nemotron_h neomme nllb-moe
nomic_bert nystromformer olmo olmo2 olmo3 olmo_hybrid olmoe openai-gpt openai_privacy_filter opt
ovis2 owlv2 owlvit paddleocr_vl paligemma parakeet_rnnt parakeet_tdt pe_audio pegasus pegasus_x
perceiver persimmon phi phi3 phi4_multimodal phimoe pi0 pix2struct plbart pocket_tts pop2piano
pp_chart2table pp_formulanet prophetnet qianfan_ocr qwen2 qwen2_5_omni_thinker qwen2_5_vl
qwen2_5_vl_text qwen2_audio qwen2_moe qwen2_vl qwen2_vl_text qwen3 qwen3_5 qwen3_5_moe
qwen3_5_moe_text qwen3_5_text qwen3_asr qwen3_moe qwen3_next qwen3_omni_moe_thinker qwen3_vl
qwen3_vl_moe qwen3_vl_moe_text qwen3_vl_text qwen4_exp qwen4_exp_text recurrent_gemma reformer
rembert roberta roberta-prelayernorm roc_bert roformer rwkv sam3 sam3_lite_text
sam3_lite_text_text_model seamless_m4t seamless_m4t_v2 seed_oss shieldgemma2 siglip siglip2
smollm3 smolvlm solar_open speech-encoder-decoder speech_to_text speecht5 splinter squeezebert
stablelm starcoder2 step3p7 switch_transformers t5 t5gemma t5gemma2 tapas tipsv2
tipsv2_text_model trocr udop ultrabert ultravbert umt5 unlimited_ocr vaultgemma vibevoice
vibevoice_asr video_llama_3 video_llava videoprism vilt vipllava vision-encoder-decoder
vision-text-dual-encoder visual_bert vits voxtral voxtral_realtime whisper xclip xglm xlm
xlm-roberta xlm-roberta-xl xlnet xlstm xmod yoso youtu zamba zamba2 zaya
""".split()  # noqa: SIM905, one word a type, wrapped by a formatter
)
"""The types that run."""

_CODEBOOKS = "looks up the ids of several codebooks, not [B, L]"

NOT_RUN: dict[str, str] = {
    **dict.fromkeys(
        ("fast_vlm", "gemma3n", "pe_audio_video", "pe_video", "perception_lm"), "needs timm"
    ),
    "layoutlmv2": "needs detectron2",
    "higgs_audio_v2_tokenizer": "needs torchaudio",
    **dict.fromkeys(("dia", "kyutai_speech_to_text", "musicgen", "musicgen_melody"), _CODEBOOKS),
    **dict.fromkeys(
        ("fastspeech2_conformer", "fastspeech2_conformer_with_hifigan"),
        "does not train without labels of every kind",
    ),
    "align": "its image model has no size that the rules shrink",
    "clap": "its audio model has no size that the rules shrink",
    "tvp": "its video model has no size that the rules shrink",
    "dbrx": "its sub-configuration is not built from its default",
    "dots3_note": "its layers are configured by their numbers in the whole model",
    "gemma4_assistant": "its layers share the cache of another model",
    "gemma4_unified_assistant": "its layers share the cache of another model",
    "moonshine_streaming": "its configuration is incomplete",
    "nemotron_h_omni": "its default audio configuration is incomplete",
    "t5gemma2_encoder": "its default configuration is incomplete",
    "voxtral_realtime_text": "transformers does not export its class",
}
"""Types that look tokens up and do not run, and why."""


class Refusal(NamedTuple):
    """An error that says what to pass, and what is passed then."""

    message: str
    """What the error mentions."""
    arguments: dict[str, Any]


REFUSED: dict[str, Refusal] = {
    "csm": Refusal("got no noise", {"layer": "embed_text_tokens"}),
    **{
        model_type: Refusal("layer=", {"layer": layer})
        for model_type, layer in (
            ("aimv2", "text_model.embeddings.token_embedding"),
            ("altclip", "text_model.roberta.embeddings.word_embeddings"),
            ("canine", "canine.char_embeddings"),
            ("chinese_clip", "text_model.embeddings.word_embeddings"),
            ("clip", "text_model.embeddings.token_embedding"),
            ("clipseg", "text_model.embeddings.token_embedding"),
            ("clvp", "text_encoder_model.token_embedding"),
            ("flava", "flava.text_model.embeddings.word_embeddings"),
            ("grounding-dino", "model.text_backbone.embeddings.word_embeddings"),
            ("groupvit", "text_model.embeddings.token_embedding"),
            ("metaclip_2", "text_model.embeddings.token_embedding"),
            ("mm-grounding-dino", "model.text_backbone.embeddings.word_embeddings"),
            ("owlv2", "owlv2.text_model.embeddings.token_embedding"),
            ("owlvit", "owlvit.text_model.embeddings.token_embedding"),
            ("perceiver", "perceiver.input_preprocessor.embeddings"),
            ("pp_formulanet", "model.decoder.embed_tokens"),
            ("sam3", "text_encoder.text_model.embeddings.token_embedding"),
            ("sam3_lite_text", "text_encoder.embeddings.token_embedding"),
            ("vision-text-dual-encoder", "text_model.embeddings.word_embeddings"),
            ("xclip", "text_model.embeddings.token_embedding"),
        )
    },
}
"""Types that ``attach`` or the first training call refuses without the argument."""


def told(pad: int) -> Callable[[Tensor], dict[str, Tensor]]:
    """A function for ``tokens=`` that masks the id that fills rows."""
    return lambda ids: {"mask": ids != pad}


WITHOUT_A_MASK = (
    "fnet", "nemotron3_5_asr", "nemotron_asr_streaming", "parakeet_rnnt", "parakeet_tdt",
    "sam3_lite_text_text_model", "xlstm",
)  # fmt: skip
"""Types whose forward takes no mask: they are told what is padding by ``tokens=``."""

KINDS_OF_POSITIONS = {
    "cosmos3_edge": 3, "ernie4_5_vl_moe": 3, "glm46v": 3, "glm4v": 3, "glm_ocr": 3,
    "paddleocr_vl": 3, "qwen2_5_vl": 3, "qwen2_vl": 3, "qwen3_5": 3, "qwen3_vl": 3,
    "qwen3_vl_moe": 3,
}  # fmt: skip
"""Types whose ``position_ids`` may be [kinds, B, L], and how many kinds there are."""

WRONG: dict[str, str] = {}
"""Types whose padded rows get other noise than they should, and what is seen."""
