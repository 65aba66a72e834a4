"""An SMTP server's front door: a deny list, a trap for those who can't wait, and mail.

Run ``python examples/smtp_greeter.py [PORT [DENIED...]]``, with addresses or networks that are not
welcome, and send mail to ``localhost:7013``. Ctrl-C or SIGTERM ends it.

A mail server waits to be greeted, and most programs that send spam don't (RFC 5321, 4.3.1). So who
is not on the list has to wait a little, and who speaks first is told that, and sent away. All that
is before there is a connection: ``deliver`` is for those who were let in.
"""

from __future__ import annotations

import re
import sys

import trio_wsk
from trio_wsk.inspectors import Rules, deny, early_talkers

PORT = 7013
PAUSE = 2.0
"""How many seconds a client has to wait for the greeting."""
IDLE = 300.0
"""How many seconds nothing may pass (RFC 5321, 4.5.3.2.7)."""
LONGEST_LINE = 998
"""How many octets a line may have without its end (RFC 5321, 4.5.3.1.6)."""
LARGEST_MESSAGE = 10_000_000
MOST_RECIPIENTS = 100
"""RFC 5321, 4.5.3.1.8."""

MAIL = re.compile(rb"MAIL FROM:<([^<>]*)>(?: .*)?", re.IGNORECASE)
RCPT = re.compile(rb"RCPT TO:<([^<>]+)>", re.IGNORECASE)

REPLIES = {
    b"EHLO": f"250-localhost\r\n250-PIPELINING\r\n250 SIZE {LARGEST_MESSAGE}",
    b"HELO": "250 localhost",
    b"RSET": "250 2.0.0 forgotten",
    b"NOOP": "250 2.0.0 as you wish",
    b"QUIT": "221 2.0.0 good-bye",
}
FRESH_STARTS = (b"EHLO", b"HELO", b"RSET")


def deliver(sender: bytes, recipients: list[bytes], message: bytes) -> str:
    """Take a message: the application."""
    print(f"{len(message)} octets from {sender!r} to {recipients!r}", flush=True)
    return "250 2.0.0 delivered"


def rules(denied: list[str]) -> Rules:
    """Say who is greeted; whoever leaves meanwhile is forgotten."""
    return Rules(
        deny(denied, close=b"554 5.7.1 you are not welcome\r\n"),
        early_talkers(PAUSE, close=b"554 5.5.1 you are hasty\r\n"),
    )


class Session:
    """What one client has said so far."""

    def __init__(self, connection: trio_wsk.Connection) -> None:
        self.connection = connection
        self.reader = trio_wsk.Reader(connection, max_octets=LONGEST_LINE)
        self.sender: bytes | None = None
        self.recipients: list[bytes] = []

    async def serve(self) -> None:
        """Greet the client, and answer one command after the other."""
        await self.say("220 localhost ESMTP")
        try:
            async for line in self.reader.lines(b"\r\n"):
                await self.say(await self.answer(line))
                if line[:4].upper() == b"QUIT":
                    return
        except trio_wsk.ReadLimitError:
            await self.say("500 5.5.6 the line is too long")
        if self.reader.ended is trio_wsk.More.IDLE:
            await self.say("421 4.4.2 you have said nothing for long")
        elif self.reader.ended is trio_wsk.More.DRAINING:
            await self.say("421 4.3.2 come back later")

    async def answer(self, line: bytes) -> str:
        """Do what one line says."""
        verb = line[:4].upper()
        if mail := MAIL.fullmatch(line):
            self.sender, self.recipients = mail[1], []
            return "250 2.1.0 go on"
        if rcpt := RCPT.fullmatch(line):
            return self.add_recipient(rcpt[1])
        if verb == b"DATA":
            return await self.take_message()
        if verb in FRESH_STARTS:
            self.sender, self.recipients = None, []
        return REPLIES.get(verb, "500 5.5.2 what?")

    def add_recipient(self, recipient: bytes) -> str:
        """Note one more who is to get the message."""
        if self.sender is None:
            return "503 5.5.1 from whom?"
        if len(self.recipients) == MOST_RECIPIENTS:
            return "452 4.5.3 there are too many"
        self.recipients.append(recipient)
        return "250 2.1.5 go on"

    async def take_message(self) -> str:
        """Read a message, all of it, whatever becomes of it."""
        if self.sender is None or not self.recipients:
            return "503 5.5.1 from whom, and to whom?"
        await self.say("354 go on, and end with a dot")
        message, fault = bytearray(), ""
        while (line := await self.reader.read_until(b"\r\n")) != b".":
            if b"\n" in line or b"\r" in line:
                fault = "554 5.6.0 a line ends with CR and LF, and has neither"
            elif len(message) + len(line) > LARGEST_MESSAGE:
                fault = "552 5.3.4 the message is too long"
            else:
                message += line.removeprefix(b".") + b"\r\n"
        sender, recipients = self.sender, self.recipients
        self.sender, self.recipients = None, []
        return fault or deliver(sender, recipients, bytes(message))

    async def say(self, reply: str) -> None:
        """Send a reply."""
        await self.connection.send_all(f"{reply}\r\n".encode())


async def serve(connection: trio_wsk.Connection) -> None:
    """Handle one connection that was let in."""
    await Session(connection).serve()


if __name__ == "__main__":
    trio_wsk.run(
        serve,
        int(sys.argv[1]) if sys.argv[1:] else PORT,
        host="localhost",
        inspect=rules(sys.argv[2:]),
        idle_timeout=IDLE,
    )
