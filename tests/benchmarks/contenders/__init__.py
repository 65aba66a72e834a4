"""
The servers that are measured, each file a program of its own.

``python -m tests.benchmarks.contenders.NAME TASK`` binds a free port of 127.0.0.1,
prints the port on a line of its own, and serves until it is killed. TASK says what is
done with a connection:

``once``
  answer one read and close;
``all``
  answer every read until end of file;
``close``
  close without reading;
``lines``
  answer every line until end of file;
``tls``
  as ``all``, over TLS;
``tls-once``
  as ``once``, over TLS;
``lag``
  as ``once``, beside a task that sleeps for 1 ms again and again; see `_lag`.

What the client's reset raises is no error here.
"""
