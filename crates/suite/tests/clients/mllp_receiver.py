"""A receiver made of PyPI hl7's MLLP server: writes the control id of each message down, durably, then acknowledges it.

mllp_receiver.py PORT FILE
"""

import asyncio
import os
import sys

from hl7.mllp import start_hl7_server


async def main(port, path):
    book = open(path, "a", encoding="ascii")

    async def talk(reader, writer):
        try:
            while not writer.is_closing():
                message = await reader.readmessage()
                book.write(str(message["MSH.F10"]) + "\n")
                book.flush()
                os.fsync(book.fileno())
                writer.writemessage(message.create_ack())
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await start_hl7_server(talk, host="127.0.0.1", port=int(port))
    print("listening", flush=True)
    async with server:
        await server.serve_forever()


asyncio.run(main(*sys.argv[1:]))
