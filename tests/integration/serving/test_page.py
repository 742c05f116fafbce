"""The page at `/` in a real browser: what it shows, that it keeps up with traffic, that it asks
nobody but the gateway, and that text stays text."""

import asyncio
import contextlib
import json
import os
import shutil
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from r2v_dist.serving.access import Access
from tests.gateway_rig import USER, Rig, ScriptedVerifier, rig

playwright = pytest.importorskip(
    "playwright.async_api", reason="no playwright: install the extra `dev` (make setup)"
)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no browser: install chromium (apt-get install chromium)"
)
WITHIN_MS = 60_000
MARKUP = "<img src=x onerror=\"document.title='run'\"><b>bold</b>"
PRICES = {"slm": 1.0, "slm_prompt": 0.5, "teacher": 30.0, "teacher_prompt": 10.0}


class Looking:
    """A page of the gateway's, and what went wrong on it or left for elsewhere."""

    def __init__(self, page: Any, url: str) -> None:
        self.page = page
        self._url = url
        self.problems: list[str] = []
        self.elsewhere: list[str] = []
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("request", self._asked)

    async def open(self, path: str = "/") -> None:
        await self.page.goto(self._url + path)

    async def shows(self, selector: str, text: str) -> None:
        """Wait until an element says exactly this. Raises TimeoutError where it does not."""
        found = self.page.locator(selector)
        await playwright.expect(found).to_have_text(text, timeout=WITHIN_MS)

    async def texts(self, selector: str) -> list[str]:
        found: list[str] = await self.page.locator(selector).all_inner_texts()
        return found

    def _said(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(message.text)

    def _asked(self, request: Any) -> None:
        if not request.url.startswith((self._url, "data:")):
            self.elsewhere.append(request.url)


@contextlib.asynccontextmanager
async def looking(r: Rig) -> AsyncIterator[Looking]:
    async with playwright.async_playwright() as driver:
        unconfined = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = await driver.chromium.launch(executable_path=CHROMIUM, args=unconfined)
        try:
            yield Looking(await browser.new_page(), r.url)
        finally:
            await browser.close()


async def ask(http: httpx.AsyncClient, **given: Any) -> None:
    body = {"model": "r2v", "messages": USER} | given
    assert (await http.post("/v1/chat/completions", json=body)).status_code == 200


def test_the_page_follows_the_traffic_asks_nobody_else_and_shows_markup_as_text() -> None:
    async def case() -> None:
        async with (
            rig(verifier=ScriptedVerifier(), prices=PRICES) as r,
            looking(r) as seen,
            httpx.AsyncClient(base_url=r.url, timeout=60) as http,
        ):
            await seen.open()
            await seen.shows("#answers", "0")
            await seen.shows("#latest", "no answer yet")
            await seen.shows("#scores", "no decision of the router yet")
            for model in ("r2v", "r2v", "r2v@always", "r2v-slm"):
                await ask(http, model=model)
            await seen.shows("#answers", "4")
            await seen.shows("#rate", "25.0 %")
            assert (await seen.texts("#scores .mark.own")) == ["threshold 0.400"]
            bars = seen.page.locator("#scores rect")
            assert await bars.count() >= 1
            line = await seen.page.locator("#scores .mark.own").bounding_box()
            bar = await bars.first.bounding_box()
            assert bar["x"] + bar["width"] <= line["x"] + 1  # .394 and the threshold .4
            reasons = await seen.texts("#latest td:nth-child(5)")
            assert reasons == ["forced", "router, at always", "router", "router"]
            assert await seen.texts("#latest td:nth-child(4)") == ["slm", "teacher", "slm", "slm"]
            assert "router 3, forced 1" in (await seen.texts("#reasons"))[0]
            await ask(http)
            await seen.shows("#answers", "5")
            await as_if_harmful(seen, http)
            assert (seen.problems, seen.elsewhere) == ([], [])

    asyncio.run(case())


async def as_if_harmful(seen: Looking, http: httpx.AsyncClient) -> None:
    """As if every text of the status came from somebody who means harm."""
    status = json.dumps(marked((await http.get("/v1/status")).json()))
    await seen.page.route("**/v1/status", lambda route: route.fulfill(body=status))
    await seen.shows("#policy", f"{MARKUP} {MARKUP}")
    reason = seen.page.locator("#latest td:nth-child(5)").first
    await playwright.expect(reason).to_have_text(f"{MARKUP}, would be {MARKUP}", timeout=WITHIN_MS)
    assert await seen.page.locator("main b b, main img, h1 b, h1 img").count() == 0
    assert await seen.page.title() == "r2v gateway"


def marked(value: Any) -> Any:
    """Every text replaced, keys of counts too; what is not there is there."""
    if isinstance(value, dict):
        told = {name: marked(inner) for name, inner in value.items()}
        told |= {"would": MARKUP} if "would" in told else {}
        told |= (
            {"reasons": {MARKUP: 1}, "psi": {MARKUP: 1.0}, "beyond": {MARKUP: 1.0}}
            if "reasons" in told
            else {}
        )
        return told
    if isinstance(value, list):
        return [marked(inner) for inner in value]
    return MARKUP if isinstance(value, str) else value


@pytest.mark.slow
def test_without_its_key_the_page_says_what_to_do_and_no_number_is_shown() -> None:
    async def case() -> None:
        async with (
            rig(access=Access(keys=("k-1",))) as r,
            looking(r) as seen,
            httpx.AsyncClient(
                base_url=r.url, timeout=60, headers={"authorization": "Bearer k-1"}
            ) as http,
        ):
            await ask(http)
            await seen.open()
            await seen.shows("#problem", "Give a key: add #key=KEY to this address and reload.")
            await seen.shows("#answers", "–")
            await seen.open("/?again#key=k-1")
            await seen.shows("#answers", "1")
            assert await seen.page.locator("#problem").is_hidden()

    asyncio.run(case())
