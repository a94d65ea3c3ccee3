#!/usr/bin/env python3
"""A faulty registry: flaky.py HOST:PORT DIGEST prints the port it listens on, and forwards requests to HOST:PORT.

The first GET of every layer is cut off at 60 %. The second is answered correctly, except for the layer
DIGEST, whose second response has the right length and wrong bytes. All later ones are correct. Responses
are logged to standard error in the format of docker-registry's access log.
"""

import asyncio
import collections
import sys

CHUNK = 64 << 10
# A blob from this size on is a layer.
LAYER = 1 << 20
SENT_FIRST = 0.6


def headers(head):
    """A head that announces the end of its connection."""
    lines = head.decode("latin-1").split("\r\n")[:-2]
    others = [line for line in lines if not line.lower().startswith("connection:")]
    return "\r\n".join([*others, "Connection: close", "", ""]).encode("latin-1")


def content_length(head):
    for line in head.decode("latin-1").split("\r\n"):
        name, _, value = line.partition(":")
        if name.lower() == "content-length":
            return int(value)
    return None


class Registry:
    def __init__(self, upstream, corrupted):
        host, port = upstream.rsplit(":", 1)
        self.upstream = host, int(port)
        self.corrupted = corrupted
        self.requests = collections.Counter()

    async def connection(self, reader, writer):
        try:
            await self.exchange(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def exchange(self, reader, writer):
        """Answers one request."""
        request = await reader.readuntil(b"\r\n\r\n")
        far_reader, far_writer = await asyncio.open_connection(*self.upstream)
        try:
            far_writer.write(headers(request))
            answer = await far_reader.readuntil(b"\r\n\r\n")
            line = request.split(b"\r\n")[0].decode("latin-1")
            status = answer.split(b" ")[1].decode("latin-1")
            writer.write(headers(answer))
            sent = 0
            if not line.startswith("HEAD "):
                sent = await self.body(line, content_length(answer), far_reader, writer)
            print(f'- - - [-] "{line}" {status} {sent} "" ""', file=sys.stderr, flush=True)
        finally:
            far_writer.close()

    async def body(self, line, length, reader, writer):
        """Forwards a body, cut off or corrupted; returns the number of bytes sent."""
        path = line.split(" ")[1]
        time = 0
        if "/blobs/" in path and (length or 0) >= LAYER:
            self.requests[path] += 1
            time = self.requests[path]
        corrupt = time == 2 and path.endswith(self.corrupted)
        end = int(length * SENT_FIRST) if time == 1 else length
        sent = 0
        while end is None or sent < end:
            chunk = await reader.read(CHUNK if end is None else min(CHUNK, end - sent))
            if not chunk:
                break
            writer.write(bytes(len(chunk)) if corrupt else chunk)
            await writer.drain()
            sent += len(chunk)
        return sent


async def main(upstream, corrupted):
    registry = Registry(upstream, corrupted)
    server = await asyncio.start_server(registry.connection, "127.0.0.1", 0)
    print(f"port {server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        asyncio.run(main(sys.argv[1], sys.argv[2]))
    except KeyboardInterrupt:
        pass
