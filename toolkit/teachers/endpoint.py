"""Client of an OpenAI-compatible server: how vLLM, or any other engine, comes in as teacher, judge
or system under test, from an environment of its own.

Requests run concurrently up to a limit, are tried again with growing pauses, and what was answered
is kept in a content-keyed store, so that a killed run goes on where it was.
"""

from __future__ import annotations

import json
import logging
import os
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from http.client import HTTPException
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toolkit.teachers.answers import AnswerStore

log = logging.getLogger("toolkit")

#: Answers of a server that is busy or restarting, not of one that refuses.
TRANSIENT = frozenset({408, 409, 425, 429, 500, 502, 503, 504})


class EndpointError(RuntimeError):
    """A server refused a request, or could not be reached in as many attempts as allowed."""


@dataclass(frozen=True)
class Reply:
    """What a server answered.

    Attributes
    ----------
    text : str
        Stripped of surrounding white space.
    finish : str
        ``stop`` or ``length``.
    first : dict of str to float
        Log-probabilities of the candidates for the first token, where asked for.
    """

    text: str
    finish: str
    first: dict[str, float] = field(default_factory=dict)


class Endpoint:
    """An OpenAI-compatible chat server.

    Parameters
    ----------
    url : str
        Up to and with the version, e.g. ``http://localhost:8000/v1``.
    model : str, optional
        Name the server knows; its only one by default.
    key_variable : str
        Environment variable that holds the API key; none is sent where it is unset. Keys never
        stand in a recipe, a log or a message.
    concurrency : int
        Requests in flight.
    attempts : int
        Of each request.
    backoff, max_backoff : float
        Seconds before the second attempt, doubled each time up to the second number, with jitter;
        a server's ``Retry-After`` is obeyed.
    timeout : float
        Seconds for one attempt.

    Example
    -------
    >>> endpoint = Endpoint("http://localhost:8000/v1/", model="tiny")
    >>> endpoint.url, endpoint.pause(3, None) <= 8.0
    ('http://localhost:8000/v1', True)
    """

    def __init__(
        self,
        url: str,
        model: str | None = None,
        key_variable: str = "OPENAI_API_KEY",
        concurrency: int = 8,
        attempts: int = 6,
        backoff: float = 1.0,
        max_backoff: float = 60.0,
        timeout: float = 120.0,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"endpoint {url!r}: give a URL such as http://localhost:8000/v1")
        if concurrency < 1 or attempts < 1:
            raise ValueError("endpoint: concurrency and attempts are at least 1")
        self.url = url.rstrip("/")
        self._model = model
        self.key_variable = key_variable
        self.concurrency = concurrency
        self.attempts = attempts
        self.backoff = backoff
        self.max_backoff = max_backoff
        self.timeout = timeout

    @cached_property
    def model(self) -> str:
        """The model's name; asks the server where none was given.

        Raises
        ------
        EndpointError
            When the server has several, with their names.
        """
        if self._model:
            return self._model
        names = [entry["id"] for entry in self._send("/models", None).get("data", [])]
        if len(names) != 1:
            raise EndpointError(
                f"{self.url} serves {', '.join(names) or 'no model'}: name one (`model`)"
            )
        return names[0]

    def pause(self, attempt: int, retry_after: str | None) -> float:
        """Seconds before another attempt.

        Parameters
        ----------
        attempt : int
            Attempts made, from 1.
        retry_after : str or None
            The server's header.

        Returns
        -------
        float
        """
        if retry_after and retry_after.strip().isdecimal():
            return min(float(retry_after), self.max_backoff)
        longest = min(self.backoff * 2 ** (attempt - 1), self.max_backoff)
        # Clients that failed together should not come back together.
        return longest * random.uniform(0.5, 1.0)

    def _send(self, path: str, payload: Mapping | None, stop: threading.Event | None = None) -> Any:
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(self.key_variable):
            headers["Authorization"] = f"Bearer {key}"
        data = None if payload is None else json.dumps(payload).encode()
        problem = ""
        for attempt in range(1, self.attempts + 1):
            retry_after = None
            try:
                request = urllib.request.Request(self.url + path, data, headers)
                with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                said = error.read(2000).decode(errors="replace").strip()
                problem = f"status {error.code}: {said or error.reason}"
                if error.code not in TRANSIENT:
                    raise EndpointError(f"{self.url}{path} refused, {problem}") from None
                retry_after = error.headers.get("Retry-After")
            except (OSError, HTTPException, json.JSONDecodeError) as error:
                # No connection, a timeout, a connection or an answer cut short.
                problem = f"{type(error).__name__}: {error}"
            if attempt < self.attempts:
                seconds = self.pause(attempt, retry_after)
                log.info("%s%s: %s; again in %.1f s", self.url, path, problem, seconds)
                if stop is None:
                    time.sleep(seconds)
                elif stop.wait(seconds):
                    break
        raise EndpointError(f"{self.url}{path}: gave up after {attempt} attempts, {problem}")

    def request(
        self,
        messages: Sequence[Mapping],
        max_tokens: int,
        top_logprobs: int = 0,
        stop_strings: Sequence[str] = (),
    ) -> dict[str, Any]:
        """The body of a greedy request; the same body is the same question.

        Parameters
        ----------
        messages : sequence of dict
        max_tokens : int
        top_logprobs : int
            Candidates of the first token to score; 0 for none.
        stop_strings : sequence of str
            The reply ends before the first of these.

        Returns
        -------
        dict
        """
        body = {"model": self.model, "messages": list(messages), "max_tokens": max_tokens}
        body |= {"temperature": 0, "seed": 0}
        body |= {"stop": list(stop_strings)} if stop_strings else {}
        return body | ({"logprobs": True, "top_logprobs": top_logprobs} if top_logprobs else {})

    def reply(self, body: Mapping, stop: threading.Event | None = None) -> Reply:
        """Ask one question.

        Parameters
        ----------
        body : dict
            Of `request`.
        stop : threading.Event, optional
            Ends the pauses between attempts.

        Returns
        -------
        Reply

        Raises
        ------
        EndpointError
        """
        answer = self._send("/chat/completions", body, stop)
        try:
            choice = answer["choices"][0]
            text = (choice["message"]["content"] or "").strip()
            scored = ((choice.get("logprobs") or {}).get("content") or [{}])[0]
            first = {c["token"]: float(c["logprob"]) for c in scored.get("top_logprobs", [])}
        except (KeyError, IndexError, TypeError) as error:
            raise EndpointError(
                f"{self.url} answered something else than a chat completion: {str(answer)[:300]}"
            ) from error
        return Reply(text, choice.get("finish_reason") or "stop", first)

    def replies(
        self,
        bodies: Sequence[Mapping],
        store: AnswerStore,
        done: Callable[[int], object] | None = None,
    ) -> list[Reply]:
        """Ask all questions, several at a time; what the store has is not asked again.

        Parameters
        ----------
        bodies : sequence of dict
        store : AnswerStore
            Every answer is written as it comes.
        done : callable, optional
            Called with the number of answers that came.

        Returns
        -------
        list of Reply
            In order.

        Raises
        ------
        EndpointError
            Of the first request that failed for good; the answers that came are kept, and no
            further request is sent.
        """
        keys = [body_key(body) for body in bodies]
        todo = {key: body for key, body in zip(keys, bodies, strict=True)}
        todo = {key: body for key, body in todo.items() if key not in store.answers}
        waiting = iter(todo.items())
        stop = threading.Event()
        with ThreadPoolExecutor(self.concurrency) as pool:
            running = {}

            def start() -> None:
                for key, body in waiting:
                    running[pool.submit(self.reply, body, stop)] = key
                    return

            failed: BaseException | None = None
            try:
                for _ in range(self.concurrency):
                    start()
                while running:
                    finished, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in finished:
                        key = running.pop(future)
                        if error := future.exception():
                            # What is in flight may still end well, and is kept; nothing new starts.
                            failed = failed or error
                            stop.set()
                            continue
                        store.add([{"key": key, **vars(future.result())}])
                        if done is not None:
                            done(1)
                        if failed is None:
                            start()
            finally:
                # On an interrupt, pauses end at once.
                stop.set()
        if failed is not None:
            raise failed
        found = [store.answers[key] for key in keys]
        return [Reply(a["text"], a["finish"], a["first"]) for a in found]


def body_key(body: Mapping) -> str:
    """Content key of a request: everything but the server's address.

    Parameters
    ----------
    body : dict

    Returns
    -------
    str

    Example
    -------
    >>> body_key({"a": 1, "b": 2}) == body_key({"b": 2, "a": 1})
    True
    """
    return sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:24]
