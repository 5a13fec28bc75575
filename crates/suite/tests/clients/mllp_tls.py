"""Sends the messages of a file, one per line with \\r written as |CR|, by PyPI hl7's asyncio client over TLS.

mllp_tls.py PORT CA FILE [CERTIFICATE KEY]; prints MSA-1 and MSA-2 of each acknowledgement.
"""

import asyncio
import ssl
import sys

import hl7
from hl7.mllp import open_hl7_connection


async def main(port, authority, path, identity):
    context = ssl.create_default_context(cafile=authority)
    if identity:
        context.load_cert_chain(*identity)
    connecting = open_hl7_connection("localhost", int(port), ssl=context)
    reader, writer = await asyncio.wait_for(connecting, timeout=20)
    for line in open(path, encoding="ascii", newline=""):
        writer.writemessage(hl7.parse(line.strip("\n").replace("|CR|", "\r")))
        await writer.drain()
        acknowledgement = await asyncio.wait_for(reader.readmessage(), timeout=20)
        print(acknowledgement["MSA.F1"], acknowledgement["MSA.F2"])
    writer.close()


asyncio.run(main(*sys.argv[1:4], sys.argv[4:6]))
