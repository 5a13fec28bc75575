"""Asks the questions of a file, one per line with \\r written as |CR|, by PyPI hl7's blocking client.

mllp_query.py PORT FILE; prints each answer on a line, \\r written as |CR|.
"""

import sys

import hl7
from hl7.client import MLLPClient


def main(port, path):
    with MLLPClient("127.0.0.1", int(port)) as client:
        client.socket.settimeout(20)
        for line in open(path, encoding="utf-8", newline=""):
            answer = client.send_message(line.strip("\n").replace("|CR|", "\r"))
            text = answer.strip(b"\x0b\x1c\r").decode("utf-8")
            hl7.parse(text)
            print(text.replace("\r", "|CR|"), flush=True)


main(*sys.argv[1:])
