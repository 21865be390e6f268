"""A folder of good inputs, and the command lines that read them: what `tests.fuzz` damages."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import shutil
import tarfile
from pathlib import Path
from typing import NamedTuple

import torch

from tests import benchmark_files as files
from tests import recipes, tiny

TURNS = [{"from": "human", "value": "<image>\nIs it red?"}, {"from": "gpt", "value": "Yes, it is."}]
TALK = [{"id": str(number), "image": f"img/{number}.png", "conversations": TURNS} for number in range(4)]
TRAINER = recipes.TRAINER | {"max_steps": 1, "warmup_steps": 0}
FINETUNE = {"stage": "projector", "output": "out", "max_length": 200, "trainer": TRAINER}
ASSEMBLE = {
    **{"stage": "lora", "encoder": "encoder", "language_model": "lm", "data": ["talk.jsonl"], "image_folder": "."},
    **{"projector": "mlp2x_gelu", "chat_template": "plain", "lora": {"rank": 2, "alpha": 4, "dropout": 0.0}},
}
STAGES = [
    {"name": "focusing", "steps": 1, "learning_rates": {"focusing": 1e-3}, "warmup_steps": 0},
    {"name": "early", "steps": 1, "num_tokens": 4, "learning_rates": {"focusing": 1e-3, "early": 1e-4}},
]
BOOTSTRAP = {
    **{"teacher": "tower", "images": ["img"], "held_out": "img", "held_out_images": 2, "stages": STAGES},
    **{"crop_scale": 0.5, "flip": True, "losses": {"cosine": 1.0, "relational": 0.1}},
    "trainer": {"per_device_train_batch_size": 2, "seed": 1},
}
# A training and an evaluation that were interrupted lie in folders of their own.
STOPPED = "output=stopped trainer.max_steps=2 trainer.save_steps=1"
BEGUN = "--questions asked.jsonl --images . --out begun"


class Target(NamedTuple):
    """A command line, and the files (or folders of files) that it reads and that may be damaged."""

    command: str
    reads: tuple[str, ...]


MODEL = "--model model --device cpu"
ASK = "--max-new-tokens 2 --batch-size 2"
CAPTIONS = ("coco.json", "karpathy.json", "captions.jsonl", "captions.csv", "flickr.csv", "flickr.token", "talk.json")
TARGETS = (
    Target(f"chat {MODEL} --image img/0.png --prompt What? --max-new-tokens 2", ("img/0.png",)),
    Target("chat --model model --image img/0.jpg --prompt What? --max-new-tokens 2", ("img/0.jpg",)),
    Target(f"chat {MODEL} --image img/0.png --prompt What? --max-new-tokens 2", ("model",)),
    Target("chat --model adapter --image img/0.png --prompt What? --max-new-tokens 2", ("adapter",)),
    Target("merge adapter --out out", ("adapter",)),
    Target("info model", ("model/config.json", "model/processor_config.json")),
    Target("info run.yaml", ("run.yaml",)),
    Target("info --encoder encoder --language-model lm", ("encoder/config.json", "lm/config.json")),
    Target("check-data talk.json --model model --workers 1", ("talk.json",)),
    Target("check-data talk.jsonl --workers 1", ("talk.jsonl",)),
    Target("finetune run.yaml", ("talk.json",)),
    Target("finetune run.yaml", ("run.yaml",)),
    Target("finetune run.yaml", ("img",)),
    Target("finetune run.yaml", ("model",)),
    Target("finetune run.yaml stage=lora model=adapter", ("adapter",)),
    Target("finetune run.yaml data=[talk.parquet]", ("talk.parquet",)),
    Target(f"finetune run.yaml {STOPPED} --resume", ("stopped",)),
    Target("finetune assemble.yaml", ("assemble.yaml",)),
    Target("finetune assemble.yaml", ("encoder", "lm")),
    Target("bootstrap boot.yaml", ("boot.yaml",)),
    Target("bootstrap boot.yaml", ("tower",)),
    Target("bootstrap boot.yaml", ("img",)),
    Target("bootstrap boot.yaml images=[webdataset:shard.tar]", ("shard.tar",)),
    *(
        Target(f"bootstrap boot.yaml images=[datasets:{name}:train:image]", (name,))
        for name in ("table.parquet", "table.csv", "table.jsonl")
    ),
    Target("bootstrap boot.yaml teacher=timm:test_vit pretrained=weights.pt", ("weights.pt",)),
    Target("bootstrap boot.yaml teacher=timm:test_vit pretrained=weights.safetensors", ("weights.safetensors",)),
    Target("train-lm lm.yaml", ("lm.yaml",)),
    Target("train-clip teacher.yaml", ("teacher.yaml",)),
    Target("visualize img/0.png --out out.png --model encoder", ("encoder", "img/0.png")),
    Target("zeroshot classes --model tower --workers 0 --batch-size 2 --classes classes.txt", ("classes.txt",)),
    Target("zeroshot classes --model tower --workers 0 --batch-size 2 --classes keyed.json", ("keyed.json",)),
    Target("zeroshot synsets --model tower --workers 0 --batch-size 2 --classes synsets.txt", ("synsets.txt",)),
    Target("zeroshot datasets:table.parquet:train:image:label --model tower --classes classes.txt", ("table.parquet",)),
    Target("rois --model encoder --count 2", ("encoder",)),
    Target("bench encoder --model encoder --device cpu --batch-size 1 --repeats 1 --warm-up 0", ("encoder",)),
    Target("zeroshot classes --model tower --workers 0 --batch-size 2 --templates templates.txt", ("templates.txt",)),
    Target("zeroshot classes --model tower --workers 0 --batch-size 2", ("classes", "tower")),
    *(Target(f"retrieve {name} --images . --model tower --workers 0 --batch-size 2", (name,)) for name in CAPTIONS),
    Target(f"eval gqa {MODEL} {ASK} --questions asked.jsonl --images . --out out", ("asked.jsonl",)),
    Target(f"eval gqa {MODEL} {ASK} {BEGUN}", ("begun",)),
    Target(
        f"eval pope {MODEL} {ASK} --questions pope.jsonl --images . --annotations coco --out out",
        ("pope.jsonl", "coco"),
    ),
    Target(f"eval mmbench {MODEL} {ASK} --questions mmbench.tsv --out out", ("mmbench.tsv",)),
    Target(
        "score vqav2 --answers answers.jsonl --annotations vqav2.json --json out.json", ("answers.jsonl", "vqav2.json")
    ),
    Target("score textvqa --answers answers.jsonl --annotations textvqa.json", ("answers.jsonl", "textvqa.json")),
    Target("score gqa --answers answers.jsonl --annotations gqa.json", ("answers.jsonl", "gqa.json")),
    Target("score mmbench --answers answers.jsonl --annotations mmbench.tsv", ("mmbench.tsv",)),
    Target("results results --out table", ("results/result.json",)),
    Target("demo --examples . --model model", ("questions.json",)),
)


def make_world(folder: Path) -> None:
    """Writes everything that the targets read."""
    tiny.sparseformer(folder / "encoder")
    tiny.language_model(folder / "lm")
    tiny.model(folder / "model", folder / "encoder", folder / "lm", roi_embedding=True)
    tiny.open_clip_model(folder / "tower")
    _adapter(folder)
    files.images(folder / "img", [*(f"{number}.png" for number in range(4)), "0.jpg", "0.webp", "0.gif"])
    files.images(folder / "classes", ["heart/0.png", "star/0.png", "ring/0.png"])
    files.images(folder / "synsets", ["n00000001/0.png", "n00000002/0.png"])
    (folder / "synsets.txt").write_text("n00000001 heart, love\nn00000002 star\n")
    for name, content in {
        "talk.json": TALK,
        "talk.jsonl": TALK,
        "keyed.json": {"0": ["heart", "a heart"], "1": ["ring", "a ring"], "2": ["star", "a star"]},
        "captions.jsonl": [{"image": f"img/{number}.png", "captions": ["a thing", f"{number}"]} for number in range(4)],
        "coco.json": {
            "images": [{"id": number, "file_name": f"img/{number}.png"} for number in range(4)],
            "annotations": [{"image_id": number, "id": number, "caption": f"thing {number}"} for number in range(4)],
        },
        "karpathy.json": {
            "dataset": "flickr30k",
            "images": [
                {"filename": f"img/{number}.png", "split": "test", "sentences": [{"raw": f"thing {number}"}]}
                for number in range(4)
            ],
        },
        "gqa.json": {str(number): {"answer": "yes", "imageId": str(number)} for number in range(4)},
        "results/result.json": {
            **{"model": "m", "benchmark": "gqa", "overall": 50.0, "metric": "accuracy", "count": 4},
            **{"tokens_per_image": 5, "seconds_per_question": 0.1},
        },
        "questions.json": [{"image": "img/0.png", "question": "What?", "answer": "yes"}],
    }.items():
        files.write(folder / name, content)
    files.questions(folder / "asked.jsonl", [(number, f"img/{number}.png", "Is it red?", "") for number in range(4)])
    pope = {"random": [(f"img/{number}.png", "Is it red?", "yes") for number in range(4)]}
    files.pope_annotations(folder / "coco", pope)
    asked = [(number + 1, image, text, "random") for number, (image, text, _) in enumerate(pope["random"])]
    files.questions(folder / "pope.jsonl", asked)
    files.mmbench_table(
        folder / "mmbench.tsv",
        [{"index": str(number), "question": "Which?", "A": "red", "B": "blue", "answer": "A"} for number in range(4)],
    )
    files.answers(folder / "answers.jsonl", [(number, "yes") for number in range(4)])
    files.vqav2_annotations(folder / "vqav2.json", {number: ["yes"] * 10 for number in range(4)})
    files.textvqa_annotations(
        folder / "textvqa.json", [(number, "a", "Is it red?", ["yes"] * 10) for number in range(4)]
    )
    (folder / "captions.csv").write_text("filepath\ttitle\n" + "".join(f"img/{n}.png\tthing {n}\n" for n in range(4)))
    (folder / "flickr.csv").write_text(
        "image,caption\n" + "".join(f'img/{n}.png,"a thing, {n}"\n' for n in range(4) for _ in range(2))
    )
    (folder / "flickr.token").write_text("".join(f"img/{n}.png#0\tthing {n}\n" for n in range(4)))
    (folder / "classes.txt").write_text("heart\nring\nstar\n")
    (folder / "templates.txt").write_text("a photo of a {}.\na drawing of a {}.\n")
    for name, recipe in {
        "run": FINETUNE | {"model": "model", "data": ["talk.json"], "projector_learning_rate": 1e-3},
        "assemble": FINETUNE | ASSEMBLE,
        "boot": recipes.BOOTSTRAP | BOOTSTRAP,
        "lm": recipes.LANGUAGE_MODEL | {"tokenizer": {"vocab_size": 400, "documents": 20}, "trainer": TRAINER},
        "teacher": recipes.CLIP | {"trainer": TRAINER},
    }.items():
        recipes.write(folder, recipe, name)
    _weights(folder)
    _containers(folder)
    stopping = multiprocessing.get_context("fork").Process(target=_stop_halfway, args=(folder,))
    stopping.start()
    stopping.join()


def _adapter(folder: Path) -> None:
    from peft import LoraConfig, get_peft_model

    from mllm.loading import load_model

    model, processor = load_model(folder / "model", "cpu", "float32")
    targets = r".*language_model.*\.(q|v)_proj"
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=targets, modules_to_save=["multi_modal_projector"]))
    adapted.save_pretrained(folder / "adapter")
    processor.save_pretrained(folder / "adapter")
    config = json.loads((folder / "adapter/adapter_config.json").read_text())
    config["base_model_name_or_path"] = "../model"
    (folder / "adapter/adapter_config.json").write_text(json.dumps(config))


def _weights(folder: Path) -> None:
    import timm
    from safetensors.torch import save_file

    weights = timm.create_model("test_vit").state_dict()
    torch.save({"model": weights, "epoch": 3}, folder / "weights.pt")
    save_file(weights, folder / "weights.safetensors")


def _containers(folder: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    with tarfile.open(folder / "shard.tar", "w") as shard:
        for number in range(4):
            for suffix, content in (("png", (folder / f"img/{number}.png").read_bytes()), ("txt", b"a thing")):
                entry = tarfile.TarInfo(f"{number}.{suffix}")
                entry.size = len(content)
                shard.addfile(entry, io.BytesIO(content))
    images = [{"bytes": (folder / f"img/{number}.png").read_bytes(), "path": f"{number}.png"} for number in range(4)]
    pyarrow.parquet.write_table(pyarrow.table({"image": images, "label": [0, 1, 2, 0]}), folder / "table.parquet")
    (folder / "table.csv").write_text("image,label\n" + "".join(f"img/{n}.png,{n}\n" for n in range(4)))
    files.write(folder / "table.jsonl", [{"image": f"img/{n}.png", "label": n} for n in range(4)])
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(TALK), folder / "talk.parquet")


def _stop_halfway(folder: Path) -> None:
    """A training that was interrupted before its second step, and an evaluation before its second batch."""
    from mllm.cli import main
    from mllm.evaluation.progress import Progress
    from mllm.finetuning.trainer import FinetuneTrainer

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    os.chdir(folder)
    setattr(FinetuneTrainer, "write_result", stop)  # noqa: B010  (a method, to the type checker)
    main(["finetune", "run.yaml", *STOPPED.split()])
    shutil.rmtree("stopped/checkpoint-2")
    add = Progress.add
    setattr(Progress, "add", lambda self, batch: stop() if batch.batch else add(self, batch))  # noqa: B010
    main(f"eval gqa {MODEL} {ASK} {BEGUN}".split())
