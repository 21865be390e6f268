"""Asks a running `mllm serve` with OpenAI's client: words as they come, then what they took and where they are from.

$ mllm serve --model runs/mine/model &
$ python examples/openai_client.py examples/scene-1.png "what is in the picture?"
"""

from __future__ import annotations

import argparse
import base64
import os
from collections.abc import Sequence
from pathlib import Path

import openai


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image", type=Path)
    parser.add_argument("question")
    parser.add_argument("--server", default="http://127.0.0.1:8000/v1")
    args = parser.parse_args(arguments)
    client = openai.OpenAI(base_url=args.server, api_key=os.environ.get("MLLM_API_KEY", "none"))
    url = f"data:;base64,{base64.b64encode(args.image.read_bytes()).decode()}"
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": args.question}]
    stream = client.chat.completions.create(
        model=client.models.list().data[0].id,
        messages=[{"role": "user", "content": parts}],
        stream=True,
        extra_body={"explain": True},
    )
    for chunk in stream:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
        if told := (chunk.model_extra or {}).get("mllm"):
            print(f"\n\nfirst token after {told['time_to_first_token']:.2f} s")
            for word in told.get("words", []):
                weights = word["weights"][0]
                token = max(range(len(weights)), key=weights.__getitem__)
                box = ", ".join(f"{side:.2f}" for side in told["images"][0]["rois"][token])
                print(f"{word['text']:>12}  most from the token at [{box}]")


if __name__ == "__main__":
    main()
