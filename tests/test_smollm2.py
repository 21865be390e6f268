"""SmolLM2 from a package's GGUF file; a miniature stands in for it, of the same kind down to its four bits."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import pytest
import torch
import transformers

from data import InputError
from data.materials import is_model, model_folder
from mllm.materials.smollm2 import convert
from mllm.processing import MLLMProcessor
from mllm.prompts import IGNORE, encode_conversation, encode_prompt
from mllm.templates import CHAT_TEMPLATES, with_images
from tests import tiny

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
FOUR_BITS = gguf.GGMLQuantizationType.Q4_1


@pytest.fixture
def original(tmp_path) -> tuple[transformers.LlamaForCausalLM, transformers.PreTrainedTokenizerBase]:
    """A LLaMA with shared keys and tied embeddings, of the weights that are left of it in four bits and bfloat16."""
    tokenizer = tiny.bpe_tokenizer(tmp_path / "original", SPECIAL)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=True,
    )
    model = transformers.LlamaForCausalLM(config)
    for module in model.model.layers.modules():
        if isinstance(module, torch.nn.Linear):
            blocks = gguf.quantize(module.weight.detach().numpy(), FOUR_BITS)
            module.weight.data = torch.from_numpy(gguf.dequantize(blocks, FOUR_BITS))
    return model, tokenizer


def write_gguf(file: Path, model, tokenizer) -> None:
    """Writes as llama.cpp's converter does: the halves that are rotated together, in queries and keys, interleaved."""
    config, writer = model.config, gguf.GGUFWriter(file, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if token in SPECIAL else gguf.TokenType.NORMAL for token in tokens])
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(TEMPLATE)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weight in model.named_parameters():
        array = weight.detach().numpy()
        for part, heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
            if part in name:
                array = array.reshape(heads, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        linear = "_proj" in name
        renamed = names.get_name(name, try_suffixes=(".weight",))
        writer.add_tensor(
            renamed, gguf.quantize(array, FOUR_BITS) if linear else array, raw_dtype=FOUR_BITS if linear else None
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_gguf_becomes_a_plain_directory(original, tmp_path):
    model, tokenizer = original
    (tmp_path / "package" / "inside").mkdir(parents=True)
    write_gguf(tmp_path / "package" / "inside" / "a.gguf", model, tokenizer)
    convert(tmp_path / "package", tmp_path / "out")

    converted = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert converted.dtype == torch.bfloat16
    assert not hasattr(converted.config, "quantization_config")
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(converted.state_dict()[name].float(), weight, atol=1e-6, rtol=2**-8, msg=name)
    ids = torch.tensor([tokenizer("a small blue triangle")["input_ids"]])
    torch.testing.assert_close(converted.float()(ids).logits, model(ids).logits, atol=0.01, rtol=0.05)

    read = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    for text in (*tiny.SENTENCES, "<|im_start|>user\nWhy 12?<|im_end|>"):
        assert read(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert read.eos_token == "<|im_end|>"
    assert read.model_max_length == 128
    assert read.chat_template == TEMPLATE


def test_without_one_gguf_nothing_is_written(tmp_path):
    (tmp_path / "package").mkdir()
    with pytest.raises(InputError, match=r"holds 0 files \*\.gguf"):
        convert(tmp_path / "package", tmp_path / "out")
    (tmp_path / "package" / "a.gguf").write_bytes(b"GGUF and then nothing")
    with pytest.raises(InputError, match=r"a\.gguf: cannot be read"):
        convert(tmp_path / "package", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def tokenizers_here() -> list[str]:
    """The miniature's, and SmolLM2's own where `mllm fetch smollm2` has been called."""
    fetched = model_folder("smollm2")
    return ["miniature", *([str(fetched)] if is_model(fetched) else [])]


@pytest.mark.parametrize("where", tokenizers_here())
def test_without_a_system_turn_targets_are_the_answers_and_the_ends_of_their_turns(where, tmp_path):
    if where == "miniature":
        tokenizer = tiny.bpe_tokenizer(tmp_path, SPECIAL)
    else:
        tokenizer = transformers.AutoTokenizer.from_pretrained(where)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<image>"]}, replace_extra_special_tokens=False)
    template = with_images(CHAT_TEMPLATES["chatml"])
    processor = MLLMProcessor(transformers.CLIPImageProcessor(), tokenizer, num_image_tokens=3, chat_template=template)
    pieces = [  # as text, and whether it is learned
        ("<|im_start|>user\n<image><image><image>\nWhat is this?<|im_end|>\n<|im_start|>assistant\n", False),
        ("A cat, 2 dogs.<|im_end|>", True),
        ("\n<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\n", False),
        ("left<|im_end|>", True),
        ("\n", False),
    ]
    messages = [
        tiny.user("What is this?", 1),
        tiny.assistant("A cat, 2 dogs."),
        tiny.user("Where?"),
        tiny.assistant("left"),
    ]
    encoded = encode_conversation(processor, {"messages": messages, "images": [tiny.image()]})
    tokens = [(token, learned) for text, learned in pieces for token in tokenizer(text)["input_ids"]]
    assert encoded["input_ids"].tolist() == [token for token, _ in tokens]
    assert encoded["labels"].tolist() == [token if learned else IGNORE for token, learned in tokens]
    if where != "miniature":
        assert len(encode_prompt(processor, [tiny.user("What is this?")], ())) == 13
