// Node's `net`: callbacks on libuv, the event loop beneath uvloop.
//
//     node node.js TASK
'use strict';

const net = require('node:net');

const HOST = '127.0.0.1';
const BACKLOG = 65535; // Node's own is 511: a burst would wait for SYNs to be sent again

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

const serve = TASKS[process.argv[2]];

const server = net.createServer({ noDelay: true }, (socket) => {
  socket.on('error', () => {}); // the client's reset
  serve(socket);
});
server.listen(0, HOST, BACKLOG, () => console.log(server.address().port));

process.stdin.on('end', () => process.exit()); // never outlive the runner
process.stdin.resume();
