"""Data over QUIC, there and back: one end of it.

::

    python -m fedsdn.bench.quic serve 15010 10.2.0.11
    python -m fedsdn.bench.quic ask 15010 10.2.0.11 1000000

The server sends back what comes on a stream, and ends with its standard input. The client sends so
many bytes, and prints ``same`` if they come back, or ``others``. It lets any certificate pass.
"""

from __future__ import annotations

import asyncio
import datetime
import os
import ssl
import sys

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

try:
    from aioquic.asyncio.client import connect
    from aioquic.asyncio.server import serve
    from aioquic.quic.configuration import QuicConfiguration
except ModuleNotFoundError as error:
    sys.exit(f"{error.name} is missing: run 'pip install fedsdn[dev]'")

_PROTOCOL = ["fedsdn-bench"]
_LIMIT_SECONDS = 25.0


def _certificate(configuration: QuicConfiguration) -> None:
    """Make a server's key and certificate, which nobody is to trust."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bench.test")])
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    configuration.private_key = key
    configuration.certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .sign(key, SHA256())
    )


def _send_back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    async def work() -> None:
        writer.write(await reader.read())
        writer.write_eof()

    task = asyncio.ensure_future(work())
    _running.add(task)
    task.add_done_callback(_running.discard)


_running: set[asyncio.Future[None]] = set()


async def _serve(port: int, address: str) -> None:
    configuration = QuicConfiguration(is_client=False, alpn_protocols=_PROTOCOL)
    _certificate(configuration)
    server = await serve(address, port, configuration=configuration, stream_handler=_send_back)
    print("listening", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.close()


async def _ask(port: int, address: str, size: int) -> str:
    configuration = QuicConfiguration(alpn_protocols=_PROTOCOL, verify_mode=ssl.CERT_NONE)
    data = os.urandom(size)
    async with connect(address, port, configuration=configuration) as client:
        reader, writer = await client.create_stream()
        writer.write(data)
        writer.write_eof()
        return "same" if await reader.read() == data else "others"


def main() -> None:
    """Run one end."""
    what, port, address, *rest = sys.argv[1:]
    if what == "serve":
        asyncio.run(_serve(int(port), address))
    else:
        asked = asyncio.wait_for(_ask(int(port), address, int(rest[0])), _LIMIT_SECONDS)
        print(asyncio.run(asked))


if __name__ == "__main__":
    main()
