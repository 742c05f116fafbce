"""Runs inside a sandbox without a network: carries connections to a port of its loopback interface
to the endpoint's socket, and ends with the program that it runs: `relay.py PORT SOCKET COMMAND ...`.
"""

import asyncio
import sys

_PART = 1 << 16


async def main(port: int, endpoint: str, command: list[str]) -> int:
    """The exit code of the command."""

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_unix_connection(endpoint)
        await asyncio.gather(_pour(reader, far_writer), _pour(far_reader, writer))

    server = await asyncio.start_server(carry, "127.0.0.1", port)
    async with server:
        program = await asyncio.create_subprocess_exec(*command)
        return await program.wait()


async def _pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while part := await reader.read(_PART):
            writer.write(part)
            await writer.drain()
    except ConnectionError:
        pass  # one side hung up; the other one is told below
    writer.close()


if __name__ == "__main__":
    code = asyncio.run(main(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
    sys.exit(code if code >= 0 else 128 - code)
