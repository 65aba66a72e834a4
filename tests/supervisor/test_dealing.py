"""Who gets which sockets, and how many connections: arithmetic, over real sockets."""

from __future__ import annotations

import socket
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

import trio_wsk
from trio_wsk._configuration.configuration import Configuration
from trio_wsk._supervisor.generation import jobs_of
from trio_wsk._supervisor.messages import Job
from trio_wsk._supervisor.sockets import KeptSockets, more_queues, open_sockets

PORT = Configuration(handler="app:who", port=0, host=["127.0.0.1"])


@given(st.integers(1, 6), st.integers(1, 6))
def test_no_queue_is_left_alone(queues: int, workers: int) -> None:
    """However many there are, each worker has a queue, and each queue a worker."""
    made = [[socket.socket(), socket.socket()] for _ in range(queues)]
    with closing(KeptSockets(made, are_ours=True, path=None)) as sockets:
        dealt = sockets.dealt(workers)

        assert workers == len(dealt)
        assert all(dealt)
        assert all(len({*each}) == len(each) for each in dealt)
        assert {fd for each in dealt for fd in each} == {
            fd for queue in sockets.descriptors for fd in queue
        }


@given(st.integers(1, 20), st.integers(0, 100))
def test_limit_is_that_of_all_workers(workers: int, more: int) -> None:
    """The connections that workers may have are together as many as the limit says."""
    configuration = Configuration(handler="app:who", max_connections=workers + more)
    jobs = jobs_of(configuration, [[3]] * workers, is_last=True)
    shares = [job.configuration.max_connections or 0 for job in jobs]

    assert workers + more == sum(shares)
    assert max(shares) - min(shares) <= 1
    assert all(job == Job.unpacked(job.packed()) for job in jobs)


async def test_workers_have_queues_of_their_own() -> None:
    """On a port there is a socket for each worker, on one port, and more when there are more."""
    with closing(await open_sockets(PORT, 2)) as sockets:
        await more_queues(sockets, PORT, 3)
        ports = {sock.getsockname() for queue in sockets.queues for sock in queue}

        assert 3 == len(sockets.queues)
        assert 1 == len(ports)
        assert not any(sock.get_inheritable() for queue in sockets.queues for sock in queue)


async def test_port_of_another_server_is_taken() -> None:
    """A port on which another one listens can't be had, also if that one would share it."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(trio_wsk.BindError, match="somebody listens there already"):
            await open_sockets(Configuration(handler="a:b", port=port, host=["127.0.0.1"]), 2)
