"""A TCP proxy that does to a connection what networks do: delay, swallow, cut, throttle.

In front of PostgreSQL it reads the frames of what the server sends, so that it can act exactly when a COMMIT has been
done and its client does not know it yet.
"""

import asyncio
import dataclasses
import socket
import struct
import threading

CHUNK_BYTES = 64 * 1024
COMMIT = b"COMMIT\0"
CUT, HOLD = "cut", "hold"


class Proxy:
    """Listens on `port` from the start. Attributes may be set at any time, from any thread."""

    def __init__(self, target_port):
        self.target_port = target_port
        # Seconds that each chunk waits, both ways.
        self.delay = 0.0
        # Bytes a second each way; 0 is no limit.
        self.rate = 0
        # Whether what arrives is swallowed: going up to the server, coming down from it.
        self.swallow_up = self.swallow_down = False
        # What came down and was swallowed.
        self.swallowed = bytearray()
        # Whether who connects is thrown out at once, and how many have connected.
        self.refuse = False
        self.accepted = 0
        self.pairs = set()
        self.armed = None
        self.fired = 0
        started = threading.Event()
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._run, args=(started,), daemon=True)
        self.thread.start()
        started.wait(10)

    def _run(self, started):
        asyncio.set_event_loop(self.loop)
        server = self.loop.run_until_complete(asyncio.start_server(self._accept, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        self.loop.run_forever()
        server.close()
        # What was accepted last starts its own tasks while others end.
        while tasks := asyncio.all_tasks(self.loop):
            for task in tasks:
                task.cancel()
            self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        # Transports that are closed let go of their sockets in the turn after.
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()

    def arm(self, action, user=None, times=1, skip=0, statement=b""):
        """At the next commits of this user, but for the first so many: cut the connection, or hold back all that comes down
        from then on. Of commits that were sent with a statement, if one is given."""
        self.fired = 0
        self.armed = Trap(action, user, times, skip, statement)

    def disarm(self):
        self.armed = None

    def cut(self):
        """Resets every connection at once; the number of them."""
        done = threading.Event()
        count = []

        def cut():
            pairs = list(self.pairs)
            count.append(len(pairs))
            for pair in pairs:
                pair.reset()
            done.set()

        self.loop.call_soon_threadsafe(cut)
        done.wait(10)
        return count[0]

    def heal(self):
        """No fault any more. What swallowed bytes have broken has to be cut."""
        self.delay, self.rate, self.armed = 0.0, 0, None
        self.swallow_up = self.swallow_down = self.refuse = False

    def stall(self):
        """Swallows everything both ways: connections look alive, and nothing comes any more."""
        self.swallow_up = self.swallow_down = True

    def lead_to(self, target_port):
        """Whoever connects from now on gets there; whoever is connected is cut off."""
        self.target_port = target_port
        self.cut()

    def close(self):
        self.cut()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)

    async def _accept(self, reader, writer):
        self.accepted += 1
        if self.refuse:
            reset(writer)
            return
        # The other side would hear nothing of it. A PostgreSQL that ends would wait a minute for its first word.
        try:
            while self.swallow_up and self.swallow_down:
                await asyncio.sleep(0.01)
            upstream = await asyncio.open_connection("127.0.0.1", self.target_port)
        except (OSError, asyncio.CancelledError):
            reset(writer)
            return
        pair = Pair(self, (reader, writer), upstream)
        self.pairs.add(pair)
        try:
            await pair.run()
        except asyncio.CancelledError:
            # The proxy is closed, which is the end of this task and no fault of it.
            return
        finally:
            self.pairs.discard(pair)


@dataclasses.dataclass
class Trap:
    """What happens at a commit."""

    action: str
    user: str | None
    times: int
    skip: int
    statement: bytes


class Pair:
    """One connection of a client and the one to the server behind it."""

    def __init__(self, proxy, client, server):
        self.proxy = proxy
        self.client_reader, self.client = client
        self.server_reader, self.server = server
        self.user = None
        self.held = False
        # Whether bytes were swallowed on this way. A connection loses nothing in its middle: what comes after the gap never
        # arrives either, also where the proxy passes everything again before this is cut. A replica would write WAL with a hole.
        self.gap_up = self.gap_down = False
        self.rest = b""
        # What went up last.
        self.asked = b""

    async def run(self):
        up = asyncio.ensure_future(self.pump(self.client_reader, self.server, self.going_up))
        down = asyncio.ensure_future(self.pump(self.server_reader, self.client, self.coming_down))
        try:
            # Either side's end is the end of both.
            await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (up, down):
                task.cancel()
            for writer in (self.client, self.server):
                writer.close()

    async def pump(self, reader, writer, transform):
        try:
            while chunk := await reader.read(CHUNK_BYTES):
                if self.proxy.delay:
                    await asyncio.sleep(self.proxy.delay)
                if self.proxy.rate:
                    await asyncio.sleep(len(chunk) / self.proxy.rate)
                chunk = transform(chunk)
                if chunk:
                    writer.write(chunk)
                    await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            # A connection that broke, which is what this is for.
            return

    def going_up(self, chunk):
        if self.user is None:
            self.user = user_of(chunk)
        self.asked = chunk
        self.gap_up = self.gap_up or self.proxy.swallow_up
        return b"" if self.gap_up else chunk

    def coming_down(self, chunk):
        place = self.commit_in(chunk)
        if self.held:
            return b""
        trap = self.proxy.armed
        if place is not None and trap and trap.user in (None, self.user) and trap.statement in self.asked:
            if trap.skip > 0:
                trap.skip -= 1
                return chunk
            trap.times -= 1
            if trap.times <= 0:
                self.proxy.armed = None
            if trap.action == CUT:
                self.reset()
            self.held = True
            self.proxy.fired += 1
            return b""
        self.gap_down = self.gap_down or self.proxy.swallow_down
        if self.gap_down:
            self.proxy.swallowed += chunk
            return b""
        return chunk

    def commit_in(self, chunk):
        """Whether a chunk from PostgreSQL has the end of a COMMIT. Frames are a letter, a length, and the rest of it."""
        if self.user == "":
            return None
        data = self.rest + chunk
        place, found = 0, None
        while len(data) - place >= 5:
            length = int.from_bytes(data[place + 1 : place + 5], "big")
            if len(data) - place < 1 + length:
                break
            if data[place] == ord("C") and data[place + 5 : place + 1 + length] == COMMIT:
                found = place
            place += 1 + length
        self.rest = data[place:]
        return found

    def reset(self):
        for writer in (self.client, self.server):
            reset(writer)


def reset(writer):
    """Ends a connection with an RST: whatever was on its way is lost."""
    connection = writer.get_extra_info("socket")
    if connection is not None:
        linger = struct.pack("ii", 1, 0)
        try:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        except OSError:
            # Closed already.
            return
    writer.transport.abort()


def user_of(chunk):
    """Who logs in, from the first message; empty for what is no start of a session with PostgreSQL."""
    if chunk[4:8] != (196608).to_bytes(4, "big"):
        return ""
    parts = chunk[8:].split(b"\0")
    parameters = dict(zip(parts[0::2], parts[1::2]))
    return parameters.get(b"user", b"").decode()
