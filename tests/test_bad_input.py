"""Malformed input to every command: one line that names the file or field and the fix, exit code 2, nothing written."""

from __future__ import annotations

import io
import json
import logging
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
from PIL import Image
from safetensors.torch import load, save

from data.errors import shorten
from mllm.cli import COMMANDS, LONGEST_LINE, main
from tests.benchmark_files import turns


def png(width: int = 8, height: int = 8) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(buffer, "PNG")
    return buffer.getvalue()


def jsonl(*records: Any) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def edited(**changes: Any):
    """A JSON file with some fields changed; None takes a field out."""

    def edit(content: bytes) -> bytes:
        fields = {**json.loads(content), **changes}
        return json.dumps({name: value for name, value in fields.items() if value is not None}).encode()

    return edit


def within(section: str, **changes: Any):
    """A JSON file with some fields of a section changed."""
    return lambda content: edited(**{section: {**json.loads(content)[section], **changes}})(content)


def headless(content: bytes) -> bytes:
    """A file of weights without one of them."""
    weights = load(content)
    weights.pop("lm_head.weight")
    return save(weights, metadata={"format": "pt"})


HUGE = "1" * 5000  # digits, more than Python makes a number of
TALK = {"id": "1", "image": "a.png", "conversations": turns("<image>\nIs it red?", "Yes.")}
ASKED = {"question_id": "1", "image": "a.png", "text": "Is it red?"}
COCO = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"image_id": 1, "caption": "a"}]}
ANSWER = {"question_id": "1", "text": "yes"}
EXAMPLE = {"image": "a.png", "question": "?", "answer": "yes"}
TEACHER = (
    "output: out\nmodel: {embed_dim: 8, vision_cfg: {layers: 1}, text_cfg: {layers: 1}}\n"
    "data: [{captioned: 'synthetic:train:4'}]\n"
)
FINETUNE = "stage: projector\noutput: out\nmodel: model\ndata: [talk.json]\n"
SHARDS = {"metadata": {}, "weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}}
LORA = {"peft_type": "LORA", "base_model_name_or_path": "../model", "target_modules": ["q_proj"], "r": 2}

# What lies in the folder of every case, all of it good.
FILES: dict[str, Any] = {
    "a.png": png(),
    "talk.json": [TALK],
    "asked.jsonl": jsonl(ASKED),
    "answers.jsonl": jsonl(ANSWER),
    "truth.json": {"1": {"answer": "yes"}},
    "teacher.yaml": TEACHER,
    "boot.yaml": "output: out\nteacher: tower\nimages: [synthetic:train:4]\nheld_out: synthetic:validation:4\n"
    "stages: [{learning_rates: {focusing: 0.1}}]\n",
    "lm.yaml": "output: out\ntrainer: {max_steps: 1}\n",
    "run.yaml": FINETUNE,
    "classes/red/a.png": png(),
}


class Case(NamedTuple):
    """A command line, what it must say, and the files that are changed before: None takes one away."""

    command: str
    words: str
    files: Mapping[str, Any] = MappingProxyType({})


CHAT = "chat --model model --image a.png --prompt What?"
ADAPTER = CHAT.replace("model --image", "adapter --image")
LOOK = "visualize a.png --out out.png"
ASSEMBLE = "finetune run.yaml model=null encoder=encoder language_model=lm"
PARTS = {"encoder/NOTES": "", "lm/NOTES": ""}
GQA = "eval gqa --model model --images . --out out --questions asked.jsonl"
# a chat template of ten thousand million steps
ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
ZERO = "zeroshot --model tower --workers 0 classes"
RETRIEVE = "retrieve --model tower --workers 0 talk.json"
DEMO = "demo --examples . --model model"
SCORE = "score gqa --answers answers.jsonl --annotations truth.json"
DONE = {"batch": 0, "seconds": 1.0, "texts": ["yes"], "errors": {}}
BEGUN = {"out/progress-0.jsonl": jsonl(DONE)}
CASES = [
    # the command line itself
    Case("taech teacher.yaml", "unknown command 'taech'; there are train-clip, bootstrap"),
    Case("chat --promt What?", "unrecognized arguments: --promt"),
    Case("merge adapter", "required: --out"),
    Case("fetch smollm", "'smollm' (choose from"),
    Case("perplexity nowhere --text talk.txt", "nowhere: no such directory"),
    Case("self-distill --language-model lm --prompts nowhere.txt --out out", "nowhere.txt"),
    Case("eval vqa", "'vqa' (choose from"),
    Case("score scenes --answers a --annotations b", "'scenes' (choose from"),
    Case("eval synthetic --model model --size 8", "height=8"),
    Case("eval synthetic --model model --size x", "--size=x: give pixels"),
    # recipes
    Case("train-clip .", "recipe .: no such file"),
    Case("train-clip teacher.yaml", "teacher.yaml: is not UTF-8", {"teacher.yaml": b"output: \xff\xfe\n"}),
    Case("train-clip teacher.yaml", "unknown key 'heads'", {"teacher.yaml": TEACHER + "heads: 2\n"}),
    Case("train-clip teacher.yaml", "output is missing", {"teacher.yaml": TEACHER.replace("output: out", "")}),
    Case("train-clip teacher.yaml jitter=much", "jitter"),
    Case("train-clip teacher.yaml jitter", "override 'jitter': expected key=value"),
    Case("train-clip teacher.yaml crop_scale=0", "crop_scale=0.0: a fraction"),
    Case("train-clip teacher.yaml layer_decay=2", "layer_decay=2.0: a fraction"),
    Case("train-clip teacher.yaml ema=1", "ema=1.0: a decay"),
    Case("train-clip teacher.yaml data=[]", "data: at least one source"),
    Case("train-clip teacher.yaml 'data=[{weight: 1}]'", "data: each source is one of captioned, labeled and images"),
    Case("train-clip teacher.yaml 'data=[{images: synthetic:train:4}]'", "images without captions: name a teacher"),
    Case("train-clip teacher.yaml 'data=[{captioned: nowhere}]' trainer.max_steps=1", "nowhere"),
    Case("train-clip teacher.yaml 'curriculum=[{steps: 1, data: []}]'", "data: at least one source is needed"),
    Case(
        "train-clip teacher.yaml 'curriculum=[{steps: 1, data: [{captioned: a}]}]' trainer.max_steps=1",
        "curriculum: trainer.max_steps",
    ),
    Case("train-clip teacher.yaml model.text_cfg.hf_model_name=bert", "hf_model_name: is given by text_weights"),
    Case("train-clip teacher.yaml train_text=true", "train_text: belongs to text_weights"),
    Case("train-clip teacher.yaml text_bank=8", "text_bank: texts of earlier batches need a frozen text tower"),
    Case("train-clip teacher.yaml teacher=tower", "model.text_cfg: the text tower is the teacher's; leave it out"),
    Case("train-clip teacher.yaml text_weights=tower trainer.max_steps=1", "text_weights: "),
    Case("train-clip teacher.yaml image_weights=tower trainer.max_steps=1", "image_weights: "),
    Case("train-clip teacher.yaml model.embed_dim=null", "model: give embed_dim and text_cfg, or text_weights, or a"),
    Case("train-clip teacher.yaml trainer.max_stesp=3", "trainer: unknown key 'max_stesp'"),
    Case("train-clip teacher.yaml trainer.learning_rate=fast", "learning_rate must be float"),
    Case("train-clip teacher.yaml trainer.deepspeed=none.json", "deepspeed: no such file: none.json"),
    Case("train-clip teacher.yaml trainer.deepspeed=teacher.yaml", "needs the launcher"),
    Case("train-clip teacher.yaml trainer.lr_scheduler_type=wavy", "trainer: wavy is not a valid SchedulerType"),
    Case("train-clip teacher.yaml trainer.output_dir=x", "trainer: output_dir is given by the recipe's output"),
    Case("train-clip teacher.yaml model.vision_cfg.widht=3", "model.vision_cfg: unknown key 'widht'"),
    Case("train-clip teacher.yaml model.vision_cfg.timm_model_name=vit trainer.max_steps=1", "open_clip cannot"),
    Case("train-clip teacher.yaml model.text_cfg.heads=3 trainer.max_steps=1", "model: open_clip cannot build it"),
    Case("train-clip teacher.yaml model.vision_cfg.image_size=1000000", "image_size=1000000"),
    Case("train-clip teacher.yaml model.vision_cfg.image_size=0", "image_size=0"),
    Case("train-clip teacher.yaml model.embed_dim=0", "model.embed_dim=0"),
    Case("train-clip teacher.yaml std=[0.1,0,1]", "std=[0.1, 0.0, 1.0]: "),
    Case("train-clip teacher.yaml zero_shot=[nowhere] trainer.max_steps=1", "nowhere"),
    Case("train-clip teacher.yaml mean=[0.5]", "mean: expected three numbers"),
    Case("train-clip teacher.yaml 'data=[{captioned: synthetic:train:4:size=8}]' trainer.max_steps=1", "height=8"),
    Case("train-clip teacher.yaml", "trainer: max_steps is missing"),
    Case("train-clip teacher.yaml output=a.png trainer.max_steps=1", "output: a.png is a file"),
    Case(f"train-clip teacher.yaml output={'a' * 5000}", "aaa: File name too long"),
    Case(r"""train-clip teacher.yaml 'output="a\0b"'""", "output: holds the character NUL"),
    Case("bootstrap boot.yaml teacher=none", "teacher: none cannot be loaded"),
    Case("bootstrap boot.yaml teacher=nowhere", "no directory and no model of open_clip's"),
    Case("bootstrap boot.yaml teacher=ViT-B-16 pretrained=nothing.pt", "ViT-B-16 cannot be loaded"),
    Case("bootstrap boot.yaml teacher=ViT-B-16 pretrained=openai=none.pt", "none.pt: no such file of weights"),
    Case("bootstrap boot.yaml teacher=timm:nothing", "teacher: timm:nothing cannot be loaded: timm: Unknown model"),
    Case("bootstrap boot.yaml init_from=timm:nothing", "init_from: timm:nothing cannot be loaded"),
    Case("bootstrap boot.yaml init_pretrained=x", "init_pretrained"),
    Case("bootstrap boot.yaml init_from=x student.inherit=false", "init_from: nothing is inherited"),
    Case("bootstrap boot.yaml first_late_block=9", "first_late_block=9"),
    Case("bootstrap boot.yaml student.first_block=6", "first_block=6"),
    Case("bootstrap boot.yaml student.focus_width=100", "units[0].width=100"),
    Case("bootstrap boot.yaml 'stages=[{learning_rates: {middle: 1.0}}]'", "middle"),
    Case("bootstrap boot.yaml 'stages=[{warmup_steps: 1}]' trainer.lr_scheduler_type=constant", "constant_with_warmup"),
    Case("bootstrap boot.yaml 'stages=[{num_tokens: 1}]'", "num_tokens=1"),
    Case("bootstrap boot.yaml 'stages=[{name: x/../../../classes}]'", "name: 'x/../../../classes' becomes a file"),
    Case("bootstrap boot.yaml 'stages=[{num_tokens: 1000000}]'", "num_tokens=1000000"),
    Case("bootstrap boot.yaml 'stages=[{image_size: 1000000}]'", "image_size=1000000"),
    Case("bootstrap boot.yaml 'stages=[{elastic: [2, 1000000]}]'", "[fewest, most], 2 to 16384"),
    Case("bootstrap boot.yaml 'stages=[{steps: 1, warmup_steps: 2}]'", "warmup_steps=2"),
    Case("bootstrap boot.yaml 'stages=[{learning_rates: {early: -1}}]'", "learning_rates.early=-1"),
    Case("bootstrap boot.yaml 'stages=[{trainer: {max_steps: 3}}]'", "max_steps is given by its steps"),
    Case("bootstrap boot.yaml 'stages=[{}, {name: b, trainer: {lr_scheduler_type: wavy}}]'", "trainer: wavy is not"),
    Case("bootstrap boot.yaml student.num_tokens=1000000", "student.num_tokens=1000000"),
    Case("bootstrap boot.yaml student.repeats=0", "student.repeats=0"),
    Case("bootstrap boot.yaml teacher_image_size=1000000", "teacher_image_size=1000000"),
    Case("bootstrap boot.yaml report_tokens=[5,1000000]", "report_tokens[1]=1000000"),
    Case("bootstrap boot.yaml visualize_steps=-1", "visualize_steps=-1"),
    Case("bootstrap boot.yaml images=[synthetic:train:1000000000000000]", "count=1000000000000000"),
    Case(f"bootstrap boot.yaml images=[synthetic:train:{HUGE}]", "synthetic:SPLIT:COUNT"),
    Case("bootstrap boot.yaml held_out=classes", "none of the 1 samples is good", {"classes/red/a.png": b"x"}),
    Case("bootstrap boot.yaml teacher_cache=a.png", "teacher_cache: a.png is a file"),
    Case("bootstrap boot.yaml ema=1.0", "ema=1.0"),
    Case("bootstrap boot.yaml teacher_cache=x flip=true", "teacher_cache: the views must be fixed"),
    Case("bootstrap boot.yaml teacher_cache=x losses.tokens=1.0", "teacher_cache: holds no patches"),
    Case("bootstrap boot.yaml trainer.report_to=dvclive", "dvclive is not installed"),
    Case("bootstrap boot.yaml", "tower", {"tower/open_clip_config.json": "{"}),
    Case("bootstrap boot.yaml images=[]", "images: "),
    Case("bootstrap boot.yaml stages=[]", "stages: "),
    Case("bootstrap boot.yaml crop_scale=0", "crop_scale"),
    Case("bootstrap boot.yaml losses.l2=1", "losses: unknown l2"),
    Case("bootstrap boot.yaml images=[none]", "none: there is no such folder"),
    Case("bootstrap boot.yaml held_out=synthetic:dev:4", "dev"),
    Case("bootstrap boot.yaml output=a.png", "output: a.png is a file"),
    Case("train-lm lm.yaml tokenizer.vocab_size=100", "tokenizer.vocab_size=100"),
    Case("train-lm lm.yaml tokenizer.documents=0", "tokenizer.documents=0"),
    Case("train-lm lm.yaml model.num_attention_heads=0", "model.num_attention_heads=0"),
    Case("train-lm lm.yaml model.hidden_size=1000000", "model.hidden_size=1000000"),
    Case("train-lm lm.yaml trainer.max_steps=-1", "trainer: max_steps is missing"),
    Case("train-lm lm.yaml simple_fraction=-1", "simple_fraction: a fraction"),
    Case("train-lm lm.yaml chat_template=fancy", "chat_template: 'fancy' "),
    Case("train-lm lm.yaml model.num_attention_heads=3", "model.hidden_size: 256 must be a multiple of twice"),
    Case("train-lm lm.yaml max_length=4096", "max_length: choose 16 to model.max_position_embeddings (2048)"),
    Case("train-lm lm.yaml scenes.min_objects=9", "objects"),
    Case("finetune run.yaml stage=two", "stage: 'two'"),
    Case("finetune run.yaml model=null", "model: "),
    Case("finetune run.yaml model=none", "model directory none: no such directory"),
    Case("finetune run.yaml model=classes", "model directory classes: has no config.json"),
    Case("finetune run.yaml data=[]", "data: no source is given"),
    Case("finetune run.yaml data=[synthetic:train]", "synthetic:SPLIT:COUNT"),
    Case("finetune run.yaml trainer.eval_strategy=steps", "validation: "),
    Case("finetune run.yaml projector_options.queries=3", "projector_options: "),
    Case("finetune run.yaml whitening=0", "whitening: "),
    Case("finetune run.yaml projector=linear", "projector: "),
    Case("finetune run.yaml chat_template=plain", "chat_template: "),
    Case("finetune run.yaml lora.rank=3", "lora: "),
    Case("finetune run.yaml stage=lora lora.rank=1000000", "lora: rank=1000000"),
    Case("finetune run.yaml max_length=0", "max_length=0"),
    Case("finetune run.yaml projector_learning_rate=-1", "projector_learning_rate=-1.0"),
    Case("finetune run.yaml trainer.optim=best", "trainer: best is not a valid OptimizerNames"),
    Case(  # what was assembled is gone as well
        f"{ASSEMBLE} stage=lora lora.targets=nothing", "lora.targets: 'nothing'", PARTS
    ),
    Case("finetune run.yaml four_bit=true", "four_bit: "),
    Case("finetune run.yaml train_encoder=true", "train_encoder: "),
    Case("finetune run.yaml stage=full encoder_learning_rate=1e-5", "the encoder does not train"),
    Case("finetune run.yaml trainer.train_sampling_strategy=batch_rebalance", "train_sampling_strategy: take random"),
    Case("finetune run.yaml data=[none.json]", "none.json: there is no such file"),
    Case("finetune run.yaml model=null encoder=none language_model=none", "encoder directory none: no such directory"),
    Case("finetune run.yaml model=adapter", "which only stage lora goes on", {"adapter/adapter_config.json": LORA}),
    Case("finetune run.yaml image_folder=none", "none: there is no such folder of images"),
    # data files
    Case("check-data none.json", "none.json: there is no such file of conversations"),
    Case("check-data talk.json --image-folder none", "none: there is no such folder of images"),
    Case("check-data talk.json --max-length 9", "--max-length counts tokens: say of which model"),
    Case("check-data talk.json --model none", "model directory none: no such directory"),
    Case("check-data talk.json --json none/out.json", "--json none/out.json: no such directory"),
    Case("check-data talk.json --json classes", "--json classes: "),
    Case("check-data talk.json --workers 0", "--workers"),
    Case("check-data talk.json --json out.json", "talk.json: is no JSON", {"talk.json": json.dumps([TALK])[:-1]}),
    Case("check-data talk.json", "talk.json: line 1 is no JSON", {"talk.json": json.dumps(TALK, indent=1)}),
    Case("check-data talk.jsonl", "talk.jsonl: is not UTF-8", {"talk.jsonl": json.dumps([TALK]).encode("utf-16")}),
    Case("check-data classes", "classes: is a directory; name a file of conversations"),
    Case("check-data talk.json", "is no JSON: Exceeds the limit", {"talk.json": f'[{{"id": {HUGE}}}]'}),
    Case("check-data talk.jsonl", "line 1 is no JSON: Exceeds the limit", {"talk.jsonl": f'{{"id": {HUGE}}}'}),
    # images
    Case("bench encoder --batch-size 0", "--batch-size"),
    Case("bench encoder --prompt 9", "--prompt: belongs to `mllm bench first-token`"),
    Case("bench train --json none/out.json", "--json none/out.json: no such directory"),
    Case("bench encoder --device tpu", "tpu"),
    Case("visualize none.png --out out.png", "none.png: there is no such image"),
    Case(f"{LOOK} --model none", "no published SparseFormer"),
    Case("visualize a.png --out none/out.png", "--out none/out.png: no such directory"),
    Case("visualize a.png --out classes", "--out classes: is a directory"),
    Case(LOOK, "a.png: is broken or truncated", {"a.png": half(png(64, 64))}),
    Case(LOOK, "a.png: is no image", {"a.png": "<html>404</html>"}),
    Case("visualize classes --out out.png", "classes: "),
    Case(f"{LOOK} --model classes", "classes: has no config.json"),
    Case(f"{LOOK} --model encoder", "config.json", {"encoder/config.json": "{"}),
    Case(f"{LOOK} --model encoder", "config.json", {"encoder/config.json": [1]}),
    Case(f"{LOOK} --model encoder", "preprocessor_config.json", {"encoder/preprocessor_config.json": None}),
    Case(f"{LOOK} --model encoder", "encoder: the weights cannot be read", {"encoder/model.safetensors": half}),
    Case(f"{LOOK} --model encoder", "encoder", {"encoder/config.json": edited(units=3)}),
    Case(f"{LOOK} --model encoder --tokens 1", "--tokens 1"),
    Case(
        f"{LOOK} --model encoder", "takes no image", {"encoder/preprocessor_config.json": edited(image_std=[1, 1, {}])}
    ),
    Case("rois", "required: --model"),
    Case("rois --model encoder --count 0", "--count=0"),
    Case("rois --model none", "--model none: no such directory"),
    Case("rois --model encoder --answers 3", "holds a 'sparseformer', which answers no questions"),
    Case("bench speed", "'speed' (choose from"),
    Case("bench encoder --repeats 0", "--repeats"),
    # model directories
    Case("chat --model model --prompt What?", "--image FILE"),
    Case("chat --model model --prompt", "--prompt: expected one argument"),
    Case("chat --model model --image a.png --prompt ' '", "--prompt is empty"),
    Case(CHAT.replace("a.png", "none.png"), "none.png: there is no such image"),
    Case(CHAT, "a.png: is broken or truncated", {"a.png": half(png(64, 64))}),
    Case(f"{CHAT} --max-new-tokens 0", "--max-new-tokens"),
    Case(f"{CHAT} --max-new-tokens many", "--max-new-tokens: invalid int value: 'many'"),
    Case(f"{CHAT} --device abacus", "--device abacus"),
    Case(f"{CHAT} --dtype int8", "--dtype"),
    Case(f"{CHAT}\udce4", r"message 1: the text holds '\udce4', which is no character"),
    Case(CHAT.replace("model --image", "none --image"), "model directory none: no such directory"),
    Case(CHAT.replace("model --image", "a.png --image"), "model directory a.png: no such directory"),
    Case(CHAT.replace("model --image", "encoder --image"), "'sparseformer', which answers no questions"),
    Case(CHAT, "has no config.json", {"model/config.json": None}),
    Case(CHAT, "config.json", {"model/config.json": edited(model_type="lava")}),
    Case(CHAT, "config.json", {"model/config.json": edited(projector="mlp")}),
    Case(CHAT, "config.json", {"model/config.json": edited(vision_config={"model_type": "eye"})}),
    Case(CHAT, "the weights cannot be read", {"model/model.safetensors": None}),
    Case(CHAT, "missing: lm_head", {"model/model.safetensors": headless}),
    Case(CHAT, "00001-of", {"model/model.safetensors": None, "model/model.safetensors.index.json": SHARDS}),
    Case(CHAT, "wrong shape: ", {"model/config.json": within("text_config", hidden_size=64)}),
    Case(CHAT, "model: ", {"model/tokenizer.json": None}),
    Case(CHAT, "model: ", {"model/processor_config.json": None}),
    Case(CHAT, "takes no image", {"model/processor_config.json": within("image_processor", image_mean={"a": 1})}),
    Case(CHAT, "takes no image", {"model/processor_config.json": within("image_processor", resample={"a": 1})}),
    Case(CHAT, "image_std must be positive", {"model/processor_config.json": within("image_processor", image_std=0)}),
    Case(CHAT, "the model cannot answer", {"model/generation_config.json": edited(eos_token_id={"a": 1})}),
    Case(CHAT, "the model cannot answer", {"model/generation_config.json": edited(repetition_penalty="x")}),
    Case(CHAT, "an image becomes 5 tokens", {"model/processor_config.json": edited(num_image_tokens=4)}),
    Case(CHAT, "<image> is token 384 of its tokenizer, and 7 in", {"model/config.json": edited(image_token_index=7)}),
    Case(CHAT, "vision_feature_layer=9 does not exist", {"model/config.json": edited(vision_feature_layer=9)}),
    *(
        Case(command, "crop_size.width=0", {f"{name}/processor_config.json": narrow})
        for command, name in ((CHAT, "model"), ("finetune run.yaml", "model"), (GQA, "model"))
        for narrow in [within("image_processor", crop_size={"height": 32, "width": 0})]
    ),
    Case(CHAT, "not supported between", {"model/tokenizer_config.json": edited(model_max_length="x")}),
    Case(ASSEMBLE, "lm: no tokenizer can be read", PARTS | {"lm/tokenizer_config.json": edited(model_max_length="x")}),
    Case(
        "finetune run.yaml",
        "attention_dropout=1.5",
        {"model/config.json": within("text_config", attention_dropout=1.5)},
    ),
    Case(
        "finetune run.yaml",
        "takes no image",
        {"model/processor_config.json": within("image_processor", image_mean=[1, 1])},
    ),
    *(
        Case(CHAT, "model", {f"model/{name}": content})
        for name in ("tokenizer.json", "tokenizer_config.json", "config.json", "processor_config.json")
        for content in (half, [], 3, "<html>404</html>", "[" * 100000, b"\xff\xfe")
    ),
    *(
        Case(CHAT, "model.safetensors", {"model/model.safetensors": content})
        for content in ("", half, "<html>404</html>")
    ),
    Case(CHAT, "chat template", {"model/chat_template.jinja": None}),
    Case(CHAT, "chat template", {"model/chat_template.jinja": "{{ messages["}),
    Case(CHAT, "chat_template.jinja: is not UTF-8 (byte 0)", {"model/chat_template.jinja": b"\xff"}),
    Case(CHAT, "goes on and on", {"model/chat_template.jinja": ENDLESS}),
    Case(GQA, "goes on and on", {"model/chat_template.jinja": ENDLESS}),
    Case("finetune run.yaml", "goes on and on", {"model/chat_template.jinja": ENDLESS}),
    Case("check-data talk.json --model model", "goes on and on", {"model/chat_template.jinja": ENDLESS}),
    Case(ADAPTER, "adapter_config.json", {"adapter/adapter_config.json": "{"}),
    Case(ADAPTER, "adapter_config.json", {"adapter/adapter_config.json": [1]}),
    Case(ADAPTER, "base_model_name_or_path", {"adapter/adapter_config.json": {"peft_type": "LORA"}}),
    Case("serve --model none", "model directory none: no such directory"),
    Case("serve --port 99999999", "--port 99999999: bind(): port must be 0-65535"),
    Case("serve --host 0.0.0.0", "--host 0.0.0.0 opens the server to others: set --api-key"),
    Case("probe none none", "--model: name at least one model"),
    Case("probe none classes --model tower", "none"),
    Case("push none me/x", "model directory none: no such directory"),
    Case("train-task none.yaml", "recipe none.yaml: no such file"),
    Case("export model --to web --part vision --out out", "--part vision: a page needs all of the model"),
    Case("export none --out out", "none: no such directory"),
    Case("export tower --out out", "tower"),
    Case("export model --out classes", "--out classes: exists already"),
    Case("export encoder --part encoder --tokens 0 --out out", "must be at least 1"),
    Case("quantize none --bits 8 --out out", "none: no such directory"),
    Case("quantize model --bits 8 --out classes", "--out classes: exists already"),
    Case("quantize adapter --bits 4 --out out", "is an adapter", {"adapter/adapter_config.json": LORA}),
    Case("merge model --out out", "model: is no adapter directory"),
    Case("merge none --out out", "none: is no adapter directory"),
    Case("merge adapter --out classes", "--out classes: exists already", {"adapter/adapter_config.json": LORA}),
    Case("merge adapter --out out", "its base model", {"adapter/adapter_config.json": LORA}),
    Case("merge adapter --out out --base none", "none: no such directory", {"adapter/adapter_config.json": LORA}),
    Case("merge adapter --out out --base model", "adapter", {"adapter/adapter_config.json": LORA}),
    Case(
        "merge adapter --out out --base model",
        "adapter",
        {"adapter/adapter_config.json": LORA, "adapter/adapter_model.safetensors": b"torn"},
    ),
    Case("info", "--encoder is missing"),
    Case("info none", "model directory none: no such directory"),
    Case("info none.yaml", "none.yaml: no such file"),
    Case("info model --projector linear", "--projector: "),
    Case("info model a=b", "a=b: overrides belong to a recipe"),
    Case("info model --gpus 0", "--gpus"),
    Case("info model --batch-size 0", "--batch-size"),
    Case("info model", "config.json", {"model/config.json": half}),
    Case("info model", "image_size=[1]", {"model/config.json": within("vision_config", image_size=[1])}),
    Case("info model", "'layer_norm_eps'", {"model/config.json": within("vision_config", layer_norm_eps=[1])}),
    Case("info model", "'projector_options'", {"model/config.json": edited(projector_options=[])}),
    Case("info model", "drop_path_rate=3", {"model/config.json": within("vision_config", drop_path_rate=3)}),
    Case("info model", "makes no model", {"model/config.json": within("text_config", vocab_size=-1)}),
    Case("info model", "makes no model", {"model/config.json": within("text_config", intermediate_size=10**18)}),
    Case("info adapter", "adapter_config.json", {"adapter/adapter_config.json": "{"}),
    Case("info --encoder vit --language-model lm", "--encoder vit: no such directory, and no published"),
    Case("info --encoder encoder --language-model encoder", "which is no causal language model"),
    Case("info --encoder encoder --language-model lm --projector none", "there are: linear"),
    Case("info --encoder encoder --language-model lm --projector-option ratio", "expected KEY=VALUE"),
    Case("info --encoder encoder --language-model lm --projector-option ratio=2", "'mlp2x_gelu' has no option 'ratio'"),
    Case("info --encoder clip --language-model lm --projector pixel_shuffle", "is the first the class token?"),
    Case("info --encoder encoder --language-model lm --projector-option ratio=[", "the value is no YAML"),
    # benchmarks
    Case("eval gqa --model model", "gqa: --questions is missing"),
    Case("eval gqa --model model --questions q", "gqa: --images is missing"),
    Case("eval gqa --model model --questions q --images .", "gqa: --out is missing"),
    Case("eval mmbench --model model --questions q --images .", "--images is no option of mmbench"),
    Case(f"{GQA} --ocr", "--ocr is no option of gqa"),
    Case(f"{GQA} --limit 0", "--limit"),
    Case(f"{GQA} --max-new-tokens 0", "--max-new-tokens"),
    Case(f"{GQA} --annotations none.json", "none.json: there is no such file"),
    Case(f"{GQA} --device abacus", "--device abacus"),
    Case(GQA.replace("model model", "model none"), "model directory none: no such directory"),
    Case(GQA.replace("asked.jsonl", "none.jsonl"), "none.jsonl: there is no such file"),
    Case(GQA.replace("out out", "out a.png"), "--out a.png"),
    Case(GQA.replace("images .", "images none"), "--images none: there is no such folder"),
    Case(GQA.replace("images .", "images classes"), "--images classes: none of the images is there"),
    Case(GQA, "question 1: message 1: the text holds", {"asked.jsonl": jsonl({**ASKED, "text": "Is \ud800 red?"})}),
    Case(GQA, "--images .: none of the images", {"asked.jsonl": jsonl({**ASKED, "image": "a_" * 150})}),
    Case(GQA, "asked.jsonl: line 1 is no JSON: Exceeds", {"asked.jsonl": f'{{"question_id": {HUGE}}}'}),
    Case(f"{GQA} --annotations truth.json", "is no JSON: Exceeds", {"truth.json": f'{{"1": {HUGE}}}'}),
    Case(GQA, "progress-0.jsonl: line 1 is no batch of answers", {"out/progress-0.jsonl": "[1]\n"}),
    Case(GQA, "line 1 is no batch of answers", {"out/progress-0.jsonl": jsonl({**DONE, "texts": [3]})}),
    Case(GQA, "progress-0.jsonl: is a directory", {"out/progress-0.jsonl/a": ""}),
    Case(GQA, "settings.json", {**BEGUN, "out/settings.json": "{"}),
    Case(GQA, "settings.json", {**BEGUN, "out/settings.json": [1]}),
    Case(GQA, "was begun with", {**BEGUN, "out/settings.json": {"benchmark": "pope"}}),
    Case(GQA, "the weights cannot be read", {"model/model.safetensors": half}),
    Case("eval synthetic --model model --count 0", "--count"),
    Case("eval synthetic --model model --annotations a", "a: synthetic has no annotations; leave them out"),
    Case("eval synthetic --model model --questions a", "--questions is no option of synthetic"),
    Case("eval synthetic --model model --batch-size -1", "--batch-size"),
    Case("eval synthetic --model model --json none/out.json", "--json none/out.json: no such directory"),
    Case("eval synthetic --model model --json classes", "--json classes: "),
    Case("score gqa --answers none --annotations truth.json", "none: there is no such file"),
    Case(f"{SCORE} --json none/out.json", "--json none/out.json: no such directory"),
    Case(f"{SCORE} --json classes", "--json classes: "),
    Case("results none", "none: there is no such folder"),
    Case("results classes", "classes: no result.json there"),
    Case("results out", "result.json: is no JSON", {"out/result.json": "{"}),
    Case("results out --out none/table", "--out none/table.md: no such directory", {"out/result.json": {}}),
    # zero-shot classification and retrieval
    Case("zeroshot classes", "--model: name at least one model"),
    Case("zeroshot classes --pretrained openai", "follows the --model"),
    Case("zeroshot classes --model ViT-B-32", "set pretrained as well"),
    Case("zeroshot . --model tower", "a.png: lies in no class's folder"),
    Case("zeroshot synthetic:dev:8 --model tower", "split='dev'"),
    Case(f"{ZERO} --pretrained openai", "brings its own weights"),
    Case(f"{ZERO} --batch-size 0", "--batch-size"),
    Case(f"{ZERO} --json none/out.json", "--json none/out.json: no such directory"),
    Case(f"{ZERO} --classes none.txt", "none.txt: there is no such file"),
    Case(f"{ZERO} --classes two.txt", "two.txt: is not UTF-8", {"two.txt": "Häuser".encode("latin-1")}),
    Case(f"{ZERO} --classes two.txt", "there are 2, the images have 1", {"two.txt": "a\nb\n"}),
    Case(f"{ZERO} --classes imagenet", "there are 1000, the images have 1"),
    Case(f"{ZERO} --templates two.txt", "must have {} for the class", {"two.txt": "{}{"}),
    Case(f"{ZERO} --templates two.txt", "must have {} for the class", {"two.txt": "{} {}\n"}),
    Case("zeroshot --model tower train", "train are no classes", {f"train/train/{name}/a.png": png() for name in "ab"}),
    Case("zeroshot --model tower none", "none: there is no such folder of images"),
    Case("zeroshot --model classes classes", "is not the directory of a model"),
    Case("zeroshot --model tower synthetic:test:8:objects=2", "no option 'objects'"),
    Case("zeroshot --model tower synthetic:test:8:classes=words", "classes=words"),
    Case("zeroshot --model tower synthetic:test:8:size=x", "size=x"),
    Case("zeroshot --model tower picture:test", "picture:test: "),
    Case(ZERO, "tower", {"tower/open_clip_config.json": "{"}),
    Case(ZERO, "tower", {"tower/open_clip_model.safetensors": half}),
    Case(ZERO, "classes: there is no good image", {"classes/red/a.png": b"torn"}),
    Case("retrieve talk.json", "--model: name at least one model"),
    Case("retrieve --model tower none.json", "none.json: there is no such file"),
    Case(f"{RETRIEVE} --images none", "none: there is no"),
    Case(RETRIEVE, "talk.json: is empty", {"talk.json": []}),
    Case(RETRIEVE, "is no JSON", {"talk.json": '{"images": ['}),
    Case(RETRIEVE, "is no JSON", {"talk.json": '[{"image": '}),
    Case(RETRIEVE, "item 1 names no image", {"talk.json": [{"captions": ["a"]}]}),
    Case(RETRIEVE, "item 1 names no image", {"talk.json": [{"image": 3, "caption": "a"}]}),
    Case(RETRIEVE, "item 1: has no caption; give it as one of captions, caption", {"talk.json": [{"image": "a.png"}]}),
    Case(RETRIEVE, "item 1: the caption is 7; give a text", {"talk.json": [{"image": "a.png", "captions": ["a", 7]}]}),
    Case(RETRIEVE, "talk.json: holds no caption", {"talk.json": [{"image": "a.png", "captions": [" ", None]}]}),
    Case(RETRIEVE, "holds no captions in a known form: ", {"talk.json": 3}),
    Case(RETRIEVE, "holds no captions in a known form: ", {"talk.json": {"data": []}}),
    Case(RETRIEVE, "holds no captions in a known form: ", {"talk.json": "name,label\na.png,cat\n"}),
    Case(RETRIEVE, "line 2 has no tab", {"talk.json": "a.png#0\ta cat\na.png#1 a cat\n"}),
    Case(RETRIEVE, "line 3 is no row of a table", {"talk.json": 'image,caption\na.png,"a cat\na.png,a cat\n'}),
    Case(RETRIEVE, "line 2 names no image", {"talk.json": "image,caption\n,a cat\n"}),
    Case(
        RETRIEVE, "annotations[0].image_id 9", {"talk.json": {**COCO, "annotations": [{"image_id": 9, "caption": "a"}]}}
    ),
    Case(RETRIEVE, "annotations[0] has no text 'caption'", {"talk.json": {**COCO, "annotations": [{"image_id": 1}]}}),
    Case(RETRIEVE, "images[0] has not both 'id' and 'file_name'", {"talk.json": {**COCO, "images": [{"id": 1}]}}),
    Case(
        RETRIEVE,
        "images[1].id 1",
        {"talk.json": {**COCO, "images": [*COCO["images"], {"id": 1, "file_name": "b.png"}]}},
    ),
    Case(RETRIEVE, "images[0] has no list 'sentences'", {"talk.json": {"images": [{"filename": "a.png"}]}}),
    Case(
        f"{RETRIEVE} --split val", "has only test", {"talk.json": {"images": [{"filename": "a.png", "split": "test"}]}}
    ),
    Case(f"{RETRIEVE} --split test", "--split test: talk.json is not divided into splits; leave it out"),
    Case("retrieve --model tower --workers 0 classes", "classes: no image has a .txt or .json of its name"),
    Case(
        RETRIEVE, "item 1 is no caption", {"talk.json": [TALK | {"conversations": turns("<image>", "A.", "?", "B.")}]}
    ),
    Case(RETRIEVE, "conversations[0].from", {"talk.json": [{**TALK, "conversations": [{"from": "me", "value": "x"}]}]}),
    Case("retrieve --model tower synthetic:test:4 --images .", "has no files of images"),
    Case("retrieve --model tower synthetic:test:4 --split val", "has no files of images"),
    Case(RETRIEVE, "talk.json: there is no good image", {"a.png": None}),
    # generated images and the demo
    Case(f"{LOOK} --model encoder --tokens 1000000", "num_tokens=1000000"),
    Case("rois --model encoder --count 1000000000000", "--count=1000000000000"),
    Case("synthetic --out classes", "classes: exists already and is no empty folder"),
    Case("synthetic --out a.png", "a.png: exists already"),
    Case("synthetic --out out --size 3x", "--size=3x: give pixels"),
    Case("synthetic --out out --size 8", "height=8: scenes are"),
    Case("synthetic --out out --format zip", "format=zip"),
    Case("synthetic --out out --split dev", "split='dev'"),
    Case("synthetic --out out --count 0", "count"),
    Case("synthetic --out out --count -1", "count"),
    Case("synthetic --out out --count 1000000000000", "count=1000000000000"),
    Case("synthetic --out a.png/out", "a.png/out"),
    Case("demo --examples none", "none/questions.json: no such file"),
    Case("demo --examples .", "questions.json: is no JSON", {"questions.json": "["}),
    Case("demo --examples .", "must be a list of objects", {"questions.json": [ASKED]}),
    Case("demo --examples .", "has no questions", {"questions.json": []}),
    Case(DEMO, "none.png: there is no such image", {"questions.json": [{**EXAMPLE, "image": "none.png"}]}),
    Case(DEMO, "accepted must be a list of texts", {"questions.json": [{**EXAMPLE, "accepted": "red"}]}),
    Case(f"{DEMO} --out a.png", "--out a.png: is a file; name a folder", {"questions.json": [EXAMPLE]}),
]
MODELS = {
    "model": "model_dir",
    "encoder": "encoder_dir",
    "lm": "language_model_dir",
    "clip": "clip_dir",
    "tower": "open_clip_dir",
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: shorten(f"{case.command}: {case.words}"))
def test_one_line_and_nothing_written(case, request, tmp_path, monkeypatch, capfd, caplog):
    monkeypatch.chdir(tmp_path)
    models = {name: fixture for name, fixture in MODELS.items() if name in case.command.split()}
    models |= {path.split("/")[0]: MODELS[path.split("/")[0]] for path in case.files if path.split("/")[0] in MODELS}
    models |= {
        name: MODELS[name] for name in {"finetune": ["model"], "bootstrap": ["tower"]}.get(case.command.split()[0], [])
    }
    for name, fixture in models.items():
        shutil.copytree(request.getfixturevalue(fixture), name)
    for files in (FILES, case.files):
        for name, content in files.items():
            write(Path(name), content)
    before = contents(tmp_path)
    capfd.readouterr()
    try:
        code = main(shlex.split(case.command))
    except SystemExit as left:  # argparse
        code = left.code
    printed = capfd.readouterr()
    assert code == 2, printed.err
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1, printed.err
    assert case.words in printed.err
    assert len(printed.err) <= len("error: \n") + LONGEST_LINE
    assert contents(tmp_path) == before
    warnings = [record.getMessage() for record in caplog.records if record.levelno > logging.INFO]
    assert all(message.startswith("skipped a bad sample: ") for message in warnings)


def test_every_command_is_given_bad_input():
    assert {case.command.split()[0] for case in CASES} >= set(COMMANDS)


def write(path: Path, content: Any) -> None:
    """Text, bytes, what is to be JSON, a function of the old content, or None for no file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is None:
        path.unlink()
    elif callable(content):
        path.write_bytes(content(path.read_bytes()))
    elif isinstance(content, (str, bytes)):
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    else:
        path.write_text(json.dumps(content))


def contents(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}
