#!/usr/bin/env python3
"""A slow line: line.py HOST:PORT MEGABIT prints the port it listens on, and forwards connections to HOST:PORT.

The responses of all connections together are limited to that many megabits per second.
"""

import asyncio
import sys

CHUNK = 64 << 10


class Line:
    """A rate in bytes per second, shared by all connections."""

    def __init__(self, rate):
        self.rate = rate
        self.free_at = 0.0

    async def take_turn(self, count):
        now = asyncio.get_running_loop().time()
        self.free_at = max(self.free_at, now) + count / self.rate
        await asyncio.sleep(self.free_at - now)


async def pump(reader, writer, line=None):
    try:
        while chunk := await reader.read(CHUNK):
            if line:
                await line.take_turn(len(chunk))
            writer.write(chunk)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


async def main(upstream, megabit):
    host, port = upstream.rsplit(":", 1)
    line = Line(megabit * 1e6 / 8)

    async def connection(reader, writer):
        try:
            far_reader, far_writer = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.close()
            return
        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer, line))

    server = await asyncio.start_server(connection, "127.0.0.1", 0)
    print(f"port {server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    try:
        asyncio.run(main(sys.argv[1], float(sys.argv[2])))
    except KeyboardInterrupt:
        pass
