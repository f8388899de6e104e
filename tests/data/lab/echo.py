"""Small services of the lab's internet host, on each address given: echo.py LOGDIR ADDRESS…

7    TCP and UDP echo; TCP goes on until the client's half is closed, then closes its own
19   TCP: says "hello\n" first, then echoes
8007 TCP: reads until the client half-closes, then answers "LENGTH SHA256\n"
8008 TCP: says "bye\n", half-closes at once, then reads to the end and writes "LENGTH SHA256" to LOGDIR/8008
"""

import asyncio
import hashlib
import pathlib
import socket
import sys

LOG_DIR = pathlib.Path(sys.argv[1])


async def echo(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


async def greet(reader, writer):
    writer.write(b"hello\n")
    await echo(reader, writer)


async def summary(reader):
    digest, length = hashlib.sha256(), 0
    while data := await reader.read(65536):
        digest.update(data)
        length += len(data)
    return f"{length} {digest.hexdigest()}"


async def answer_at_the_end(reader, writer):
    text = await summary(reader)
    writer.write(f"{text}\n".encode())


async def close_first(reader, writer):
    writer.write(b"bye\n")
    writer.write_eof()
    text = await summary(reader)
    (LOG_DIR / "8008").write_text(text)


def service(body):
    async def handle(reader, writer):
        try:
            await body(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    return handle


class UdpEcho(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, peer):
        self.transport.sendto(data, peer)


async def main():
    loop = asyncio.get_running_loop()
    bodies = {7: echo, 19: greet, 8007: answer_at_the_end, 8008: close_first}
    for address in sys.argv[2:]:
        for port, body in bodies.items():
            await asyncio.start_server(service(body), address, port, backlog=4096)
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        await loop.create_datagram_endpoint(UdpEcho, local_addr=(address, 7), family=family)
    print("serving", flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
