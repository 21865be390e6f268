"""A page that answers about images in the browser: a model, ONNX Runtime and transformers.js as static files."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from data.errors import InputError, translated
from data.files import check_new_folder, check_writable, whole_folder
from mllm.exporting.layout import export

PAGE = Path(__file__).parent / "page"
# What the page loads, from npm. transformers.js asks for the build of ONNX Runtime that knows WebGPU; the one without
# is half as large and takes the same calls.
TRANSFORMERS_JS, ONNX_RUNTIME = "@huggingface/transformers@4.3.2", "onnxruntime-web@1.30.0"
VENDORED = {
    TRANSFORMERS_JS: ["transformers.web.min.js"],
    ONNX_RUNTIME: ["ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"],
}
IMPORTS = {
    "@huggingface/transformers": "./vendor/transformers.web.min.js",
    "onnxruntime-web/webgpu": "./vendor/ort.wasm.min.mjs",
    "onnxruntime-common": "./vendor/ort.wasm.min.mjs",
}


def export_page(directory: Path, out: Path, int8: bool = False, num_tokens: int | None = None) -> dict[str, Any]:
    """Writes the page, which any web server serves as files: ``python -m http.server -d OUT``.

    Args:
        directory, int8, num_tokens: as for `mllm.exporting.layout.export`.
        out: a directory that does not exist yet, or is empty.

    Raises:
        InputError: npm is missing or finds no packages; and as for `export`.
    """
    check_new_folder(f"--out {out}", out)
    check_writable("--out", out)
    with whole_folder(out) as folder:
        add_page(folder)
        return export(directory, folder / "model", "onnx", "all", int8, num_tokens)


def add_page(folder: Path) -> None:
    """Writes the page and its libraries beside a model, which is in the folder ``model``."""
    vendor(folder / "vendor")
    for file in PAGE.iterdir():
        shutil.copy(file, folder)
    imports = json.dumps({"imports": IMPORTS})
    digest = base64.b64encode(hashlib.sha256(imports.encode()).digest()).decode()  # the one script in the page
    index = folder / "index.html"
    text = index.read_text(encoding="utf-8").replace("IMPORT_MAP", imports)
    index.write_text(text.replace("sha256-IMPORTS", f"sha256-{digest}"), encoding="utf-8")


def vendor(folder: Path) -> None:
    """Takes the page's libraries out of npm's packages, which npm checks and keeps."""
    if shutil.which("npm") is None:
        raise InputError("--to web: npm fetches the page's libraries; install it")
    folder.mkdir()
    with tempfile.TemporaryDirectory() as packed:
        command = ["npm", "pack", "--silent", "--prefer-offline", "--pack-destination", packed, *VENDORED]
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode:
            raise InputError(f"--to web: npm pack {' '.join(VENDORED)}: {(run.stderr or run.stdout).strip()}")
        for name, archive in zip(VENDORED, run.stdout.split(), strict=True):
            with translated(f"--to web: {name}"), tarfile.open(Path(packed) / archive) as content:
                for file in VENDORED[name]:
                    member = content.extractfile(f"package/dist/{file}")
                    assert member is not None
                    (folder / file).write_bytes(member.read())
