"""Weights and adapters of a run at an address, on the node of an engine."""

import asyncio
from pathlib import Path

import pytest

from actors.vllm.engine import EngineAnswer, EngineRequest, Site
from actors.vllm.server import EngineServer
from r2v_dist import files
from r2v_dist.config.models import ModelConfig
from r2v_dist.errors import UsageError
from tests.object_storage import mirror_of, s3_server

ADDRESS = "s3://bucket/run"
CONFIG = ModelConfig(backend="vllm", model="m")
MODEL, ADAPTER = "checkpoints/slm/scratch", "checkpoints/slm/bc-1"


class Reader:
    """An engine that only says what it finds where its weights should be."""

    def __init__(self, config: ModelConfig, path: str, site: Site) -> None:
        self.read = [_content(path)]

    async def warm_up(self) -> None: ...

    async def generate(self, request: EngineRequest) -> EngineAnswer:
        raise NotImplementedError

    async def reload(self, path: str, adapter: str = "") -> None:
        self.read += [_content(path), _content(adapter)]

    async def sleep(self) -> None: ...

    async def wake(self, path: str, adapter: str = "") -> None:
        await self.reload(path, adapter)

    def check(self) -> None: ...


def _content(folder: str) -> str:
    return (Path(folder) / "weights").read_text()


def publish(folder: Path, content: str) -> None:
    scratch = folder.with_name(f"{folder.name}.tmp")
    scratch.mkdir(parents=True)
    (scratch / "weights").write_text(content)
    files.publish(scratch, folder)


def test_an_engine_fetches_weights_and_adapter_whenever_it_takes_others(tmp_path: Path) -> None:
    with s3_server():
        learner, engine = (mirror_of(ADDRESS, tmp_path / name) for name in ("learner", "engine"))
        made: list[Reader] = []

        def make(config: ModelConfig, path: str, site: Site) -> Reader:
            made.append(Reader(config, path, site))
            return made[0]

        server = EngineServer(CONFIG, Site(), make=make)

        async def serve(number: int) -> None:
            publish(learner / f"{ADAPTER}{number}", f"adapter {number}")
            told = (str(engine / MODEL), f"v{number}", str(engine / f"{ADAPTER}{number}"))
            await server.serve(*told)

        async def phases() -> None:
            await serve(1)
            await serve(2)
            await server.sleep()
            await serve(3)

        publish(learner / MODEL, "model")
        asyncio.run(phases())
        assert made[0].read == [
            "model",
            *(one for number in (1, 2, 3) for one in ("model", f"adapter {number}")),
        ]


def test_an_engine_across_nodes_refuses_an_adapter_at_an_address(tmp_path: Path) -> None:
    adapter = mirror_of(ADDRESS, tmp_path) / ADAPTER
    server = EngineServer(CONFIG, Site(across_nodes=True), make=Reader)
    with pytest.raises(UsageError, match=f"^{ADDRESS}/{ADAPTER}: the engine's ranks are on"):
        asyncio.run(server.serve(str(tmp_path), "v1", str(adapter)))
