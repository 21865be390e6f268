"""A miniature of all that scripts/reproduce downloads, as tests/loopback.py serves it."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from encoder import SparseFormerConfig, SparseFormerVisionModel
from encoder.configuration import bootstrapped_units
from encoder.official import published_names
from encoder.presets import OPENAI, Preset
from tests import benchmark_files, tiny

ROOT = Path(__file__).parents[1]
SHORT = benchmark_files.SHORT
RELEASE = "github.com/showlab/sparseformer/releases/download/v2.0.0-refactor"
COCO, PICTURES = "images.cocodataset.org/zips", ["1.jpg", "2.jpg", "3.jpg"]


def preset(classes: int | None = None, **changes: Any) -> Preset:
    """A published SparseFormer's configuration in small; with ``classes`` a classifier's."""
    config = {
        "units": bootstrapped_units(16, 32, 2, repeats=2),
        "num_latent_tokens": 4,
        "num_sampling_points": 4,
        "early_channels": 8,
        "mixing_hidden_size": 8,
        "attention_head_dim": 8,
        "hidden_act": "gelu" if classes else "quick_gelu",
        "projection_dim": classes or 16,
        "projection_bias": classes is not None,
        "image_size": tiny.IMAGE_SIZE,
    }
    return Preset({**config, **changes}, *OPENAI, resize=tiny.IMAGE_SIZE, crop=tiny.IMAGE_SIZE)


def release_file(small: Preset, file: Path) -> None:
    """Random weights of a preset, under the names of the published ones."""
    torch.manual_seed(7)
    model = SparseFormerVisionModel(SparseFormerConfig(**small.config))
    ours = model.state_dict()
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": {published: ours[name] for published, name in published_names(model).items()}}, file)


def as_pickle(directory: Path) -> None:
    """Weights as the older repositories of the hub have them."""
    from safetensors.torch import load_file

    torch.save(load_file(directory / "model.safetensors"), directory / "pytorch_model.bin")
    (directory / "model.safetensors").unlink()


def pictures(*names: str) -> dict[str, bytes]:
    """Files of images by name."""
    found = {}
    for seed, name in enumerate(names):
        content = io.BytesIO()
        benchmark_files.image(seed).save(content, "JPEG")
        found[name] = content.getvalue()
    return found


def write_zip(file: Path, content: Mapping[str, bytes]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(file, "w") as made:
        for name, each in content.items():
            made.writestr(name, each)


def sample(name: str, image: str | None, *values: str) -> dict[str, Any]:
    return {"id": name, "conversations": benchmark_files.turns(*values), **({"image": image} if image else {})}


def serve_llava(served: Path, small: Preset, work: Path) -> Path:
    """Fills a server's folder with LLaVA's files in small; gives the list of them, in the folder ``work``."""
    hub = served / "hub"
    as_pickle(tiny.clip(hub / "models/openai/clip-vit-large-patch14-336"))
    language_model = tiny.language_model(hub / "models/lmsys/vicuna-7b-v1.5")
    as_pickle(language_model)
    (language_model / "tokenizer.model").write_bytes(tiny.sentencepiece_model())
    (language_model / "tokenizer.json").unlink()
    release_file(small, served / RELEASE / "sparseformer_btsp_openai_clip_large_converted.pth")
    _training_data(served, hub / "datasets")
    _benchmarks(served, hub / "datasets")
    entries = yaml.safe_load((ROOT / "scripts/reproduce/llava15.yaml").read_text())
    for entry in entries.values():  # what it says of sizes and sums is true of the true files
        for what in ("bytes", "about", "sha256", "md5"):
            entry.pop(what, None)
    train = (served / COCO / "train2017.zip").read_bytes()
    entries["coco_train2017"] |= {"bytes": len(train), "sha256": hashlib.sha256(train).hexdigest()}
    (work / "files.yaml").write_text(yaml.safe_dump(entries, sort_keys=False))
    return work / "files.yaml"


def _training_data(served: Path, datasets: Path) -> None:
    captions = [sample(f"{n}", f"00000/{n}.jpg", "<image>\nWhat is it?", "a red circle") for n in range(6)]
    benchmark_files.write(datasets / "liuhaotian/LLaVA-Pretrain/blip_laion_cc_sbu_558k.json", captions)
    write_zip(datasets / "liuhaotian/LLaVA-Pretrain/images.zip", pictures(*(f"00000/{n}.jpg" for n in range(6))))
    where = "Please provide the bounding box coordinate of the region this sentence describes: a star."
    mix = [
        sample("coco", "coco/train2017/1.jpg", "<image>\nIs it red?" + SHORT, "Yes"),
        sample("gqa", "gqa/images/1.jpg", "Is it large?" + SHORT + "\n<image>", "No"),
        sample("ocr", "ocr_vqa/images/1.jpg", "<image>\nWho wrote it?", "A. Nonymous"),
        sample("textvqa", "textvqa/train_images/1.jpg", "<image>\nWhat does it say?", "stop"),
        sample("vg", "vg/VG_100K/1.jpg", "<image>\n" + where, "[0.25, 0.3, 0.75, 0.9]"),
        sample("vg2", "vg/VG_100K_2/1.jpg", "<image>\n" + where, "[0.0, 0.1, 0.5, 0.5]"),
        sample("text", None, "Hello.", "Hello!"),
    ]
    benchmark_files.write(datasets / "liuhaotian/LLaVA-Instruct-150K/llava_v1_5_mix665k.json", mix)
    covers = datasets / "weizhiwang/llava_v15_instruction_images/ocr_vqa_images_llava_v15.zip"
    write_zip(covers, pictures("images/1.jpg"))
    write_zip(served / COCO / "train2017.zip", pictures("train2017/1.jpg"))
    write_zip(served / "downloads.cs.stanford.edu/nlp/data/gqa/images.zip", pictures("images/1.jpg", "images/2.jpg"))
    write_zip(
        served / "dl.fbaipublicfiles.com/textvqa/images/train_val_images.zip",
        pictures("train_images/1.jpg", "train_images/2.jpg"),
    )
    for part in ("", "2"):
        name = f"VG_100K{'_2' if part else ''}/1.jpg"
        write_zip(served / f"cs.stanford.edu/people/rak248/VG_100K_2/images{part}.zip", pictures(name))


def _benchmarks(served: Path, datasets: Path) -> None:
    raw = served / "raw.githubusercontent.com"
    pope = raw / "AoiDragon/POPE/e3e39262c85a6a83f26cf5094022a782cb0df58d/output/coco"
    asked = "Is there a dog in the image?"
    kinds = ("random", "popular", "adversarial")
    benchmark_files.pope_annotations(pope, {kind: [("1.jpg", asked, "yes")] for kind in kinds})
    benchmark_files.write(
        served / "dl.fbaipublicfiles.com/textvqa/data/TextVQA_0.5.1_val.json",
        {"data": [{"question_id": 1, "image_id": "1", "question": "what is it", "answers": ["stop"] * 10}]},
    )
    write_zip(
        served / "downloads.cs.stanford.edu/nlp/data/gqa/questions1.2.zip",
        {
            "testdev_balanced_questions.json": json.dumps(
                {"7": {"question": "Is it red?", "answer": "yes", "types": {"structural": "verify"}}}
            ).encode(),
            "train_all_questions.json": b"large",
        },
    )
    problem = {"question": "Which?", "choices": ["a", "b"], "answer": 0, "image": "image.png"}
    benchmark_files.write(
        raw / "lupantech/ScienceQA/main/data/scienceqa/problems.json",
        {"1": {**problem, "split": "test", "hint": "", "topic": "t", "category": "c", "grade": "grade1"}},
    )
    write_zip(served / "scienceqa.s3.us-west-1.amazonaws.com/images/test.zip", pictures("test/1/image.png"))
    mme = "MME_Benchmark_release_version/MME_Benchmark"
    lines = "Is it red? Please answer yes or no.\tYes\nIs it blue? Please answer yes or no.\tNo\n"
    write_zip(
        datasets / "darkyarding/MME/MME_Benchmark_release_version.zip",
        {**pictures(f"{mme}/existence/1.jpg"), f"{mme}/existence/1.txt": lines.encode()},
    )
    table = served / "download.openmmlab.com/mmclassification/datasets/mmbench/mmbench_dev_20230712.tsv"
    table.parent.mkdir(parents=True)
    row = {"index": "1", "question": "Which?", "A": "one", "B": "two", "answer": "A", "category": "c"}
    benchmark_files.mmbench_table(table, [row])
    benchmark_files.write(
        served / "ofasys-wlcb.oss-cn-wulanchabu.aliyuncs.com/Qwen-VL/evaluation/refcoco/refcoco_val.jsonl",
        [{"image": "data/coco/train2014/1.jpg", "sent": "a star", "bbox": [1, 2, 20, 30], "width": 40, "height": 32}],
    )
    for name in ("test2015", "val2014", "train2014"):
        write_zip(served / COCO / f"{name}.zip", pictures(*(f"{name}/{each}" for each in PICTURES)))
    work = served / "unpacked"
    ask = benchmark_files.questions
    ask(work / "vqav2/llava_vqav2_mscoco_test-dev2015.jsonl", [(1, "1.jpg", "Is it red?" + SHORT, "default")])
    ask(work / "vqav2/llava_vqav2_mscoco_test2015.jsonl", [(n, "1.jpg", "Is it red?" + SHORT, "d") for n in (1, 2)])
    ask(work / "gqa/llava_gqa_testdev_balanced.jsonl", [("7", "1.jpg", "Is it red?" + SHORT, "default")])
    words = "what is it\nReference OCR token: stop" + SHORT
    ask(work / "textvqa/llava_textvqa_val_v051_ocr.jsonl", [("1", "1.jpg", words, "default")])
    ask(work / "pope/llava_pope_test.jsonl", [(n, "1.jpg", asked + SHORT, kind) for n, kind in enumerate(kinds)])
    question = {"from": "human", "value": "<image>\nWhich?\nA. a\nB. b"}
    both = [question, {"from": "gpt", "value": "The answer is A."}]
    benchmark_files.write(
        work / "scienceqa/llava_test_CQM-A.json", [{"id": "1", "image": "1/image.png", "conversations": both}]
    )
    pair = [f"Is it {color}? Please answer yes or no." for color in ("red", "blue")]
    place = "existence/1.jpg"
    ask(work / "MME/llava_mme.jsonl", [(place, place, each + SHORT, "existence") for each in pair])
    files = {str(file.relative_to(work)): file.read_bytes() for file in work.rglob("*") if file.is_file()}
    write_zip(served / "drive.usercontent.google.com/download", files)
