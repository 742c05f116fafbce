"""A chat endpoint over HTTP: what may pass is asked for again, at the pace that the endpoint sets;
its reply is read, not indexed.

All requests of this process to one address share one gate: when the endpoint asks for silence,
everybody is silent. The key is in the requests and in nothing else.
"""

import asyncio
import json
import re
import time
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from actors.language_models.reply import (
    QUOTED_LETTERS,
    Reply,
    Unusable,
    error_of,
    read_reply,
)
from r2v_dist.config.models import ModelConfig, read_key
from r2v_dist.errors import RuntimeFailure, UsageError
from r2v_dist.language_model import ContextLimitReached, whole
from r2v_dist.retry_after import retry_after_s

_CROWDED = 429
_PASSING = (408, 409, 425, _CROWDED)
_LONGEST_BACKOFF_S = 30.0
_QUOTED = 300
"""Letters of a problem that are shown."""
_SHOWN_PREFIX = 4
"""Letters of a key that may be shown."""
_TOO_LONG = re.compile(
    r"context_length_exceeded|(maximum|max) context|context (length|window)|prompt is too long"
    r"|too many (input )?tokens|input is too long",
    re.IGNORECASE,
)
_SECTIONS = {"judge": "verifier.judge"}
"""Where a role is configured, if not under its own name."""
_ADVICE = (
    (
        r"max_tokens|max_completion_tokens",
        "set {section}.sampling.max_tokens_field to the other name",
    ),
    (r"temperature", "set {section}.sampling.temperature to null"),
    (r"top_p", "set {section}.sampling.top_p to null"),
    (r"\bseed\b", "set {section}.sampling.send_seed to false"),
    (r"chat_template_kwargs", "take {section}.chat_template_kwargs out"),
    (r"completion choice|\bn\b", "set {section}.sampling.candidates to 1"),
)
"""What to do about a setting that an endpoint refuses, by what it says."""
_FILTERED = re.compile(r"content_filter|content management policy|content_policy", re.IGNORECASE)


class PromptFiltered(Exception):
    """The endpoint refuses to answer this prompt."""


class Gate:
    """When an address may be asked again."""

    def __init__(self) -> None:
        self._opens = 0.0
        self.reason = ""

    def close(self, seconds: float, reason: str) -> None:
        """Keep everybody waiting for so long from now."""
        self._opens = max(self._opens, time.monotonic() + seconds)
        self.reason = reason

    async def passed(self, deadline: float) -> bool:
        """Wait until the address may be asked; False, at once, where that is after the deadline."""
        while (wait := self._opens - time.monotonic()) > 0:
            if self._opens > deadline:
                return False
            await asyncio.sleep(wait)
        return True


_GATES: dict[str, Gate] = {}
"""By address."""


class Endpoint:
    """One endpoint as one model asks it. `role` is the section of the configuration that names
    it."""

    def __init__(self, config: ModelConfig, role: str, attempts: int, backoff_s: float) -> None:
        self._config = config
        self._role = role
        self._section = _SECTIONS.get(role, role)
        self._attempts = attempts
        self._backoff_s = backoff_s
        self._key = read_key(config.api_key_env)
        self._gate = _GATES.setdefault(config.base_url, Gate())
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        try:
            self._http = httpx.AsyncClient(
                base_url=config.base_url,
                headers=headers,
                timeout=config.timeout_s,
                follow_redirects=True,
            )
        except (httpx.InvalidURL, ImportError, ValueError, OSError) as error:
            raise UsageError(
                f"{self._section}.base_url = {config.base_url}: {_client_problem(error)}"
            ) from None

    async def ask(self, body: dict[str, Any]) -> Reply:
        """The endpoint's reply, with at least one choice.

        Raises RuntimeFailure when none comes within `retry_s`, UsageError where the endpoint
        refuses what the configuration says, ContextLimitReached and PromptFiltered where it refuses
        this prompt.
        """
        deadline = time.monotonic() + self._config.retry_s
        problem = ""
        failures = 0
        while await self._gate.passed(deadline):
            wait: float | None = None
            try:
                async with asyncio.timeout(self._config.timeout_s):
                    return self._read(await self._http.post("chat/completions", json=body))
            except TimeoutError:
                problem = f"no whole answer within {self._config.timeout_s:g} s"
            except httpx.RequestError as error:
                problem = f"{type(error).__name__}: {error}{_way_there(self._config.base_url)}"
            except Unusable as error:
                problem = str(error)
                wait = (
                    self._backoff(failures)
                    if error.crowded and error.wait_s is None
                    else error.wait_s
                )
            failures += 1
            if wait is not None:
                limit = f"{self._section}.retry_s = {self._config.retry_s:g}"
                reason = f"{problem} (it asks to wait; {limit})"
                self._gate.close(max(wait, self._backoff_s), reason)
            elif failures >= self._attempts or time.monotonic() >= deadline:
                break
            else:
                await asyncio.sleep(
                    max(0.0, min(self._backoff(failures - 1), deadline - time.monotonic()))
                )
        else:
            problem = self._gate.reason
        raise RuntimeFailure(self.described(problem))

    def _backoff(self, failures: int) -> float:
        return min(_LONGEST_BACKOFF_S, self._backoff_s * 2.0**failures)

    def _read(self, response: httpx.Response) -> Reply:
        text = whole(response.content.decode("utf-8", "replace"))
        status = response.status_code
        wait_s = retry_after_s(response.headers)
        try:
            payload = json.loads(text)
        except (ValueError, RecursionError):
            payload = None
        error = error_of(payload)
        if response.is_success and not error:
            return read_reply(payload, text)
        problem = f"HTTP {status}: {error or text}"
        if response.is_success or status >= 500 or status in _PASSING:
            raise Unusable(problem, wait_s, crowded=status == _CROWDED)
        if status in (400, 413, 422) and _TOO_LONG.search(problem):
            raise ContextLimitReached(self.described(problem))
        if status in (400, 403, 422) and _FILTERED.search(problem):
            raise PromptFiltered(self.described(problem))
        raise UsageError(f"{self.described(problem)}; {self._advice(status, problem)}")

    def _advice(self, status: int, problem: str) -> str:
        if status in (401, 403):
            variable = self._config.api_key_env
            model = self._config.model
            return f"set the environment variable {variable} to a key that may use {model}"
        if status in (404, 405):
            return f"check {self._section}.base_url and {self._section}.model"
        fix = next(
            (fix for pattern, fix in _ADVICE if re.search(pattern, problem)),
            "change what it refuses in {section}",
        )
        return fix.format(section=self._section)

    def described(self, problem: str) -> str:
        """The problem in one short line with the address, and without the key."""
        line = " ".join(redacted(problem[:QUOTED_LETTERS], self._key).split())
        if len(line) > _QUOTED:
            line = f"{line[: _QUOTED - 90]} ... {line[-80:]}"
        return f"{self._role} endpoint {self._config.base_url}: {line}"


def _client_problem(error: Exception) -> str:
    """Why no client can be made: the address, or what the environment says of proxies and
    certificates. A proxy's address may hold a password, so it is not shown."""
    variables = "HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY, SSL_CERT_FILE and SSL_CERT_DIR"
    kind = type(error).__name__
    return (
        f"no client can be made for it ({kind}); check the address, and the environment variables "
        f"{variables}"
    )


def _way_there(url: str) -> str:
    """Which proxy of the environment stands between; nothing where none does."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if not {parts.scheme, "all"} & set(getproxies()) or proxy_bypass(host):
        return ""
    return f" (asked through the proxy of the environment; NO_PROXY={host} leaves it out)"


def redacted(text: str, key: str) -> str:
    """The text without the key, without the beginning or the end of it, and without anything
    called a bearer token."""
    for length in range(len(key), _SHOWN_PREFIX, -1):
        text = text.replace(key[:length], "[key]").replace(key[-length:], "[key]")
    if key:
        text = re.sub(rf"(?<![\w-]){re.escape(key)}(?![\w-])", "[key]", text)
    return re.sub(r"(?i)\b(bearer)\s+(?!\[key\])[^\s\"']+", r"\1 [key]", text)
