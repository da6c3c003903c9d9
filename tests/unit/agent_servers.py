"""A small server that speaks OpenAI's protocol over HTTP, with the shipped model behind it."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import numpy as np

from llmgym.agents.policies import Policy

MODEL = "tiny-reasoner"


class TinyServer:
    """Serves ``/v1/completions`` and ``/v1/chat/completions`` while the context lasts.

    A chat is turned into a prompt by writing its messages one after the other. Temperature 0 is nearly greedy play.

    Attributes:
        requests: Bodies received, with the ``"path"`` and the ``"authorization"`` of each, in the order of arrival.
        answers: What to answer instead, one after the other: a status, or a whole body.
        delay: Seconds to wait before each answer.
        key: Required of each request; ``None``: any.
    """

    def __init__(self) -> None:
        self.policy = Policy.load(MODEL, device="cpu")
        self.requests: list[dict[str, Any]] = []
        self.answers: list[int | dict[str, Any]] = []
        self.delay = 0.0
        self.key: str | None = None
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"owner": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def answer(self, path: str, authorization: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        with self._lock:  # one model, and its random generator
            self.requests.append(body | {"path": path, "authorization": authorization})
            instead = self.answers.pop(0) if self.answers else None
            if isinstance(instead, dict):
                return 200, instead
            if instead is not None:
                return instead, {"error": {"message": f"told to say {instead}"}}
            if self.key is not None and authorization != f"Bearer {self.key}":
                return 401, {"error": {"message": f"Incorrect key: {authorization}"}}
            if body["model"] != MODEL:
                return 404, {"error": {"message": f"there is no model {body['model']}"}}
            return 200, self._complete(path, body)

    def _complete(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        chat = path.endswith("/chat/completions")
        prompt = "".join(m["content"] for m in body["messages"]) if chat else body["prompt"]
        tokenizer = self.policy.tokenizer
        assert tokenizer is not None
        ids = tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)
        written, ended = self._write(ids, body["max_tokens"], body["temperature"], body.get("seed", 0))
        text = tokenizer.decode(written)
        said = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        choice = {"index": 0, "finish_reason": "stop" if ended else "length", "logprobs": None} | said
        kind = "chat.completion" if chat else "text_completion"
        return {"id": "1", "object": kind, "created": 0, "model": MODEL, "choices": [choice]}

    def _write(self, ids: list[int], max_tokens: int, temperature: float, seed: int) -> tuple[list[int], bool]:
        policy, n_prompt = self.policy, len(ids)
        policy.forget()
        policy.generator.manual_seed(seed)
        with policy.playing(temperature=max(temperature, 1e-3)):
            while len(ids) < n_prompt + max_tokens:
                shown = np.array([ids])
                actions, _ = policy.act({"input_ids": shown, "attention_mask": np.ones_like(shown)})
                if actions[0] == policy.tokenizer.end_token_id:  # type: ignore[union-attr]
                    return ids[n_prompt:], True
                ids = [*ids, int(actions[0])]
        return ids[n_prompt:], False


class _Handler(BaseHTTPRequestHandler):
    owner: TinyServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status, answer = self.owner.answer(self.path, self.headers.get("Authorization", ""), body)
        time.sleep(self.owner.delay)
        data = json.dumps(answer).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client did not wait

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as it is called in the library
        pass
