"""A chat endpoint over HTTP: what may pass is asked for again, at the pace that the endpoint sets;
its reply is read, not indexed.

All requests of this process to one address share one gate: when the endpoint asks for silence,
everybody is silent. The key is in the requests and in nothing else.
"""

import asyncio
import json
import re
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from r2v_dist.config.models import ModelConfig, read_key, shown_address
from r2v_dist.errors import RuntimeFailure, UsageError
from r2v_dist.language_model import ContextLimitReached, whole

_CROWDED = 429
_PASSING = (408, 409, 425, _CROWDED)
_LONGEST_BACKOFF_S = 30.0
_MOST_TOKENS = 10_000_000
"""Of one reply; an episode's sum has to fit a 32-bit column."""
_READ = 4000
_QUOTED = 300
"""Letters of a problem that are looked at, and that are told."""
_TOLD_PREFIX = 4
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


@dataclass(frozen=True)
class Choice:
    """One answer of an endpoint: its text, and why it ended."""

    text: str
    finish_reason: str


@dataclass(frozen=True)
class Reply:
    """What an endpoint answered to one request."""

    choices: tuple[Choice, ...]
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Unusable(Exception):
    """A reply that is no answer; another request may bring one.

    `wait_s` is what the endpoint asks for. One that is asked too much, and does not say for how
    long, is `crowded`.
    """

    def __init__(self, problem: str, wait_s: float | None = None, crowded: bool = False) -> None:
        super().__init__(problem)
        self.wait_s = wait_s
        self.crowded = crowded


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
                f"{self._section}.base_url = {shown_address(config.base_url)}: "
                f"{_client_problem(error)}"
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
                problem = f"{type(error).__name__}: {error}"
            except Unusable as error:
                problem = str(error)
                wait = (
                    self._backoff(failures)
                    if error.crowded and error.wait_s is None
                    else error.wait_s
                )
            failures += 1
            if wait is not None:
                reason = f"{problem} (it asks to wait; {self._section}.retry_s = {self._config.retry_s:g})"
                self._gate.close(max(wait, self._backoff_s), reason)
            elif failures >= self._attempts or time.monotonic() >= deadline:
                break
            else:
                await asyncio.sleep(
                    max(0.0, min(self._backoff(failures - 1), deadline - time.monotonic()))
                )
        else:
            problem = self._gate.reason
        raise RuntimeFailure(self.told(problem))

    def _backoff(self, failures: int) -> float:
        return min(_LONGEST_BACKOFF_S, self._backoff_s * 2.0**failures)

    def _read(self, response: httpx.Response) -> Reply:
        text = whole(response.content.decode("utf-8", "replace"))
        status = response.status_code
        wait_s = retry_after(response.headers)
        try:
            payload = json.loads(text)
        except (ValueError, RecursionError):
            payload = None
        error = _error_of(payload)
        if response.is_success and not error:
            return read_reply(payload, text)
        said = f"HTTP {status}: {error or text}"
        if response.is_success or status >= 500 or status in _PASSING:
            raise Unusable(said, wait_s, crowded=status == _CROWDED)
        if status in (400, 413, 422) and _TOO_LONG.search(said):
            raise ContextLimitReached(self.told(said))
        if status in (400, 403, 422) and _FILTERED.search(said):
            raise PromptFiltered(self.told(said))
        raise UsageError(f"{self.told(said)}; {self._advice(status, said)}")

    def _advice(self, status: int, said: str) -> str:
        if status in (401, 403):
            variable = self._config.api_key_env
            return f"set the environment variable {variable} to a key that may use {self._config.model}"
        if status in (404, 405):
            return f"check {self._section}.base_url and {self._section}.model"
        fix = next(
            (fix for pattern, fix in _ADVICE if re.search(pattern, said)),
            "change what it refuses in {section}",
        )
        return fix.format(section=self._section)

    def told(self, problem: str) -> str:
        """The problem in one short line with the address, and without the key."""
        line = " ".join(redacted(problem[:_READ], self._key).split())
        if len(line) > _QUOTED:
            line = f"{line[: _QUOTED - 90]} ... {line[-80:]}"
        return f"{self._role} endpoint {shown_address(self._config.base_url)}: {line}"


def _client_problem(error: Exception) -> str:
    """Why no client can be made: the address, or what the environment says of proxies and
    certificates. A proxy's address may hold a password, so it is not told."""
    variables = "HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY, SSL_CERT_FILE and SSL_CERT_DIR"
    return f"no client can be made for it ({type(error).__name__}); check the address, and the environment variables {variables}"


def redacted(text: str, key: str) -> str:
    """The text without the key, without the beginning or the end of it, and without anything
    called a bearer token."""
    for length in range(len(key), _TOLD_PREFIX, -1):
        text = text.replace(key[:length], "[key]").replace(key[-length:], "[key]")
    if key:
        text = re.sub(rf"(?<![\w-]){re.escape(key)}(?![\w-])", "[key]", text)
    return re.sub(r"(?i)\b(bearer)\s+(?!\[key\])[^\s\"']+", r"\1 [key]", text)


def retry_after(headers: httpx.Headers) -> float | None:
    """Seconds that the endpoint asks to wait, as a number or as a date; None where it says
    nothing of the kind."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name, "").strip()
        if re.fullmatch(r"\d{1,9}(\.\d+)?", value):
            return float(value) * unit
    try:
        moment = parsedate_to_datetime(headers.get("retry-after", "")).timestamp()
    except (ValueError, OverflowError):
        return None
    return max(0.0, moment - time.time())


def read_reply(payload: object, text: str) -> Reply:
    """A reply with at least one choice. Raises Unusable, quoting `text`, for anything else."""
    choices = payload.get("choices") if isinstance(payload, dict) else None
    if not isinstance(payload, dict) or not isinstance(choices, list) or not choices:
        raise Unusable(f"HTTP 200 without an answer: {text[:_READ]}")
    read = tuple(_choice(choice) for choice in choices)
    usage = payload.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    return Reply(read, _count(counts.get("prompt_tokens")), _count(counts.get("completion_tokens")))


def _choice(choice: object) -> Choice:
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        raise Unusable(
            f"HTTP 200 with a choice that holds no message: {json.dumps(choice)[:_READ]}"
        )
    return Choice(_content(message.get("content")), str(choice.get("finish_reason") or ""))


def _content(content: object) -> str:
    """The text of a message: a string, or the text parts of a list."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    texts = [part.get("text") if isinstance(part, dict) else part for part in content]
    return "".join(text for text in texts if isinstance(text, str))


def _count(value: object) -> int:
    """A number of tokens; 0 for what cannot be one, and for more than the store keeps."""
    usable = isinstance(value, int | float) and not isinstance(value, bool)
    return int(value) if usable and 0 <= value <= _MOST_TOKENS else 0  # type: ignore[operator, call-overload]


def _error_of(payload: object) -> str:
    """What an error object says, empty where there is none."""
    if not isinstance(payload, dict):
        return ""
    error = payload.get("error") or (payload.get("detail") if "choices" not in payload else None)
    if not error:
        return ""
    if not isinstance(error, dict):
        return str(error)
    parts = [error.get("message"), error.get("code"), error.get("type")]
    return "; ".join(str(part) for part in parts if part) or json.dumps(error)
