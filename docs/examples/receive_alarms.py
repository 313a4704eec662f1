"""A receiver of notifications: it believes those that are signed with the secret, and prints what they say.

FAULTLINE_NOTIFY_SECRET_FILE=secret python docs/examples/receive_alarms.py 8008
"""

from __future__ import annotations

import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from agents.connectors.notify.signature import SIGNATURE_HEADER, is_signed

SECRET = Path(os.environ["FAULTLINE_NOTIFY_SECRET_FILE"]).read_bytes().strip()


class Receiver(BaseHTTPRequestHandler):
    """Answers 200 to what it has printed; whatever else it answers, `faultline notify` tries again or logs it."""

    def do_POST(self) -> None:
        """Take one notification."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        is_ours = is_signed(SECRET, body, self.headers.get(SIGNATURE_HEADER, ""), time.time())
        if is_ours:
            print(json.loads(body)["text"], flush=True)
        self.send_response(200 if is_ours else 403)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Only alarms are printed."""


HTTPServer(("127.0.0.1", int(sys.argv[1])), Receiver).serve_forever()
