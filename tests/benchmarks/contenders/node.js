// Node's `net`: callbacks on libuv, the event loop beneath uvloop.
//
//     node node.js TASK
//
// The questions of ``lag`` are those of _lag.py; here the loop itself answers them.
'use strict';

const net = require('node:net');

const HOST = '127.0.0.1';
const BACKLOG = 65535; // Node's own is 511: a burst would wait for SYNs to be sent again
const SLEEP_MS = 1; // libuv's clock, which is uvloop's too, ticks in these: a lag may be one too long

const TASKS = {
  once(socket) {
    socket.once('data', (data) => socket.end(data));
  },
  all(socket) {
    socket.on('data', (data) => socket.write(data));
  },
  close(socket) {
    socket.destroy();
  },
};
TASKS.lag = TASKS.once;

const serve = TASKS[process.argv[2]];

const server = net.createServer({ noDelay: true }, (socket) => {
  socket.on('error', () => {}); // the client's reset
  serve(socket);
});
server.listen(0, HOST, BACKLOG, () => console.log(server.address().port));

let lags = null; // in milliseconds; null: nobody watches

function sleep() {
  const begun = performance.now();
  setTimeout(() => {
    if (lags === null) return;
    lags.push(Math.max(0, performance.now() - begun - SLEEP_MS));
    sleep();
  }, SLEEP_MS);
}

function summary(ordered) {
  const at = (fraction) => ordered[Math.round((ordered.length - 1) * fraction)] ?? 0;
  return { lag_count: ordered.length, lag_p50_ms: at(0.5), lag_p99_ms: at(0.99) };
}

process.stdin.setEncoding('ascii').on('data', (line) => {
  if (line === 'start\n') {
    lags = [];
    sleep();
  } else {
    console.log(JSON.stringify(summary(lags.sort((one, other) => one - other))));
    lags = null;
  }
});
process.stdin.on('end', () => process.exit()); // never outlive the runner
