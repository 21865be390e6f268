"""What `scripts/soak.sh` runs: many clients at a server that is ended, killed and started again, over and over.

Clients ask whole answers and streams, one question or the next of a conversation, and some go away in the middle. The
same question must always get the same answer; a server that is asked to end must finish every answer it has begun; no
request may be answered with 500 or more; and memory must not grow.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
from load_serving import QUESTIONS, Reply, ask, body, free_port, mllm_serve, started

KINDS = ["stream", "whole", "conversation", "several", "leave"]


class Soak:
    """The clients of one soak, and what they have seen.

    Attributes:
        counts: outcomes by name.
        wrong: what must not be, in words.
        answers: what the server said first to each question.
        ending: None while the server is to answer, "kill" or "end" while it is not.
    """

    def __init__(self, url: str, seed: int) -> None:
        self.url, self.random = url, random.Random(seed)
        self.counts, self.wrong = Counter[str](), list[str]()
        self.answers: dict[int, str] = {}
        self.firsts: list[float] = []
        self.ending: str | None = None
        self.stopped = False

    async def client(self, number: int) -> None:
        """Asks until the soak has ended."""
        while not self.stopped:
            if self.ending is not None:
                await asyncio.sleep(0.05)
                continue
            kind, which = self.random.choice(KINDS), self.random.randrange(len(QUESTIONS))
            reply = Reply()
            try:
                reply = await ask(self.url, self._body(kind, which, number), leave=3 if kind == "leave" else None)
            except (OSError, IndexError, ValueError, asyncio.IncompleteReadError) as problem:
                self._broken(kind, reply, repr(problem))
                continue
            self._judge(kind, which, reply)

    def _body(self, kind: str, which: int, number: int) -> bytes:
        if kind == "several":
            return body(which, n=2, temperature=1.0, seed=number)
        content = json.loads(body(which, stream=kind != "whole"))
        if kind == "conversation":
            content["messages"] += [
                {"role": "assistant", "content": self.answers.get(which, "yes")},
                {"role": "user", "content": QUESTIONS[which][1]},
            ]
        return json.dumps(content).encode()

    def _judge(self, kind: str, which: int, reply: Reply) -> None:
        self.counts[f"{kind} {reply.status}"] += 1
        if reply.status >= 500 or reply.status not in (200, 429):
            self.wrong.append(f"{kind}: status {reply.status}, {reply.error}")
        elif reply.status == 200 and reply.error is not None:
            self.wrong.append(f"{kind}: {reply.error}")
        elif reply.status == 200 and kind != "leave" and not reply.whole:
            self._broken(kind, reply, "an answer without its end")
        elif reply.status == 200 and kind in ("stream", "whole"):
            known = self.answers.setdefault(which, reply.text)
            if reply.text != known:
                self.wrong.append(f"{kind} {which}: {reply.text!r} after {known!r}")
        if reply.first is not None:
            self.firsts.append(reply.first)

    def _broken(self, kind: str, reply: Reply, problem: str) -> None:
        """A connection that broke: a killed server may do that, and an ending one before it has begun to answer."""
        self.counts[f"{kind} broken"] += 1
        if self.ending is None or (self.ending == "end" and reply.begun):
            self.wrong.append(f"{kind}: {problem}")


async def soak(args: argparse.Namespace) -> dict[str, Any]:
    """Runs servers one after another, and returns what was seen."""
    port = free_port()
    found = Soak(f"http://127.0.0.1:{port}", args.seed)
    clients: list[asyncio.Task[None]] = []
    end, memory, ends = time.monotonic() + 60 * args.minutes, list[list[int]](), Counter[str]()
    command = mllm_serve(args.model, port, "--max-queue", str(2 * args.clients))
    while time.monotonic() < end:
        context = started(command, port)
        server: subprocess.Popen[bytes] = await asyncio.to_thread(context.__enter__)
        process = psutil.Process(server.pid)
        found.ending = None
        clients = clients or [asyncio.create_task(found.client(number)) for number in range(args.clients)]
        life = min(60 * args.restart, max(1.0, end - time.monotonic()))
        await asyncio.sleep(life / 3)
        early = process.memory_info().rss
        await asyncio.sleep(life * 2 / 3)
        memory.append([early >> 20, process.memory_info().rss >> 20])
        how = ["end", "kill"][sum(ends.values()) % 2]
        ends[how] += 1
        found.ending = how
        server.send_signal(signal.SIGTERM if how == "end" else signal.SIGKILL)
        code = await asyncio.to_thread(server.wait)
        if how == "end" and code != 143:
            found.wrong.append(f"after SIGTERM the server has ended with {code}")
        await asyncio.sleep(0.5)  # whoever was cut off finds out
        await asyncio.to_thread(context.__exit__, None, None, None)
    found.stopped = True
    await asyncio.gather(*clients)
    firsts = sorted(found.firsts) or [float("nan")]
    return {
        "minutes": args.minutes,
        "clients": args.clients,
        "servers": dict(ends),
        "requests": dict(sorted(found.counts.items())),
        "first_token_p50": firsts[len(firsts) // 2],
        "first_token_p95": firsts[int(0.95 * len(firsts))],
        "resident_mib_early_and_late": memory,
        "wrong": found.wrong[:50],
    }


def main() -> int:
    """Prints a report as JSON; 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--restart", type=float, default=2, help="minutes that a server lives")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", metavar="FILE")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    report = asyncio.run(soak(args))
    text = json.dumps(report, indent=1) + "\n"
    sys.stdout.write(text)
    if args.out:
        Path(args.out).write_text(text)
    return 1 if report["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
