"""Runs inside a sandbox without a network: carries connections to a port of its loopback interface
to the endpoint's socket, and ends with the program that it runs.

    relay.py PORT SOCKET COMMAND ...
"""

import asyncio
import contextlib
import sys

_PART = 1 << 16
_WAITING = 1024
"""Connections that may wait to be taken."""


async def main(port: int, endpoint: str, command: list[str]) -> int:
    """The exit code of the command."""

    tasks = set[asyncio.Task[None]]()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_unix_connection(endpoint)
        await asyncio.gather(_pour(reader, far_writer), _pour(far_reader, writer))
        far_writer.close()
        writer.close()

    def taken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(carry(reader, writer))
        tasks.add(task)  # nothing else holds a task, which would be collected as it waits
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(taken, "127.0.0.1", port, backlog=_WAITING)
    async with server:
        program = await asyncio.create_subprocess_exec(*command)
        return await program.wait()


async def _pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A side that has said all still hears the other one."""
    with contextlib.suppress(OSError):  # one side hung up
        while part := await reader.read(_PART):
            writer.write(part)
            await writer.drain()
        writer.write_eof()


if __name__ == "__main__":
    code = asyncio.run(main(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
    sys.exit(code if code >= 0 else 128 - code)
