/*
 * A load generator for the benchmarks: epoll, one thread, Linux.
 *
 *     load [-p PER_SECOND] [-b BUSY] MODE PORT CONNECTIONS SECONDS
 *
 * It talks to the runner so that the runner can read the server's CPU clock at
 * the edges of the measurement, with neither process start nor the opening and
 * closing of lasting connections inside:
 *
 *     stdout "ready\n"       lasting connections are open and have answered once
 *     stdin  any byte        measure now
 *     stdout one JSON line   the result
 *     stdin  end of file     close everything and exit
 *
 * Theory of operation.  CONNECTIONS slots run the exchange of MODE over and over.
 * A result counts what finished inside the window of SECONDS ("completed") apart
 * from what had begun in it and finished in a short drain behind it ("drained"):
 * rates come from the first, cost per exchange from the sum.
 *
 * With -p the loop is open: an exchange begins PER_SECOND times a second, whatever
 * became of those before, and its time runs from when it was due.  One that has no
 * answer when its slot is due again is given up ("missed").
 *
 * With -b, BUSY further slots play ping-pong meanwhile, as fast as the server lets
 * them.  They are counted apart ("background").
 *
 * It must not be the bottleneck, so a connection costs it few system calls:
 *   - the first send comes right after connect().  Over loopback the handshake has
 *     ended when connect() returns; where it has not (a dropped SYN) send() says
 *     EAGAIN, and EPOLLOUT tells when;
 *   - close() takes the descriptor out of the epoll;
 *   - closing is a reset (SO_LINGER 0), so that nothing rests in TIME_WAIT.
 *
 * In the modes that say how a client leaves it does so by FIN, if it is silent, or by a
 * reset; first, as soon as it has its echo, or last, when it has seen the server's end.
 *
 * With TLS (where it was compiled with -DTLS, and OpenSSL) a lasting connection is opened with
 * its handshake, and nothing is verified: what an exchange costs the server is the same.
 * Where an exchange is a connection, it resumes the session of one before it, if the mode
 * says so; that the server makes another one is an error then.
 *
 * In some modes a client says nothing: it connects, and waits for the server to end
 * the connection, in one certain way.  Any other end is an error.  Where the server
 * may look at resets, it then closes without one.
 *
 * A mode is a row in MODES.
 */

#define _GNU_SOURCE
#ifdef TLS
#include <openssl/ssl.h>
#endif
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef SYS_epoll_pwait2
#define SYS_epoll_pwait2 441 /* Linux 5.11, on every processor */
#endif
#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24 /* Linux 4.2; absent from older libc headers */
#endif

enum {
    MESSAGE_MAX = 65536,
    EVENTS = 256,
    /* 250 hosts in each of 127.1.0.0/24 ... 127.1.15.0/24: 4000 sources, each with
     * its own range of ports.  More would only fill the kernel's per-peer caches. */
    SOURCE_NETS = 16,
    SOURCE_HOSTS = 250,
    OPENING_MOST = 256,
};

/* The slowest server needs about 15 ms for what 64 slots have in flight. */
#define DRAIN_NS 250000000ull
/* Opening lasting connections: one lost SYN (1 s, then 2 s) must not spoil it. */
#define OPEN_NS 20000000000ull

struct mode {
    const char *name;
    size_t size;       /* octets sent, and echoed, in one exchange */
    size_t line;       /* if not 0: octets of each line in it, the last of which is LF */
    const char *ahead; /* octets sent before those, and not echoed; NULL: none */
    size_t ahead_size;
    const char *text;  /* what is sent and echoed; NULL: letters */
    bool tls;
    bool lasting;      /* connections stay open; an exchange is a round trip */
    bool once;         /* each slot runs one exchange, then keeps its connection */
    uint64_t delay_ns; /* between connecting and sending */
    bool is_ended;     /* by the server; an exchange is a connection */
    int end;           /* if so: how, as recv() says it; 0: end of file */
    bool is_silent;    /* closes without a reset */
    bool is_last;      /* to leave: waits for the server's end of file after the echo */
    bool resumes;      /* its TLS, once there is a session */
};

/* A PROXY header of version 2: 203.0.113.9, port 4711, to 203.0.113.80, port 443. */
#define PROXY_V2 \
    "\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" \
    "\xcb\0\x71\x09\xcb\0\x71\x50\x12\x67\x01\xbb"

/* A ClientHello for example.com, of TLS 1.3; nothing that a reader of it can do without. */
#define HELLO \
    "\x16\3\1\0\x4a" "\1\0\0\x46" "\3\3" "thirty-two octets made at random" "\0" \
    "\0\2\x13\1" "\1\0" "\0\x1b" \
    "\0\0\0\x10\0\x0e\0\0\x0b" "example.com" \
    "\0\x2b\0\3\2\3\4"

static const struct mode MODES[] = {
    {.name = "echo1", .size = 1},
    {.name = "fin-first", .size = 1, .is_silent = true},
    {.name = "fin-last", .size = 1, .is_silent = true, .is_last = true},
    {.name = "reset-last", .size = 1, .is_last = true},
    {.name = "late", .size = 1, .delay_ns = 8000000},
    {.name = "burst", .size = 1, .once = true},
    {.name = "pingpong", .size = 64, .lasting = true},
    {.name = "bulk", .size = MESSAGE_MAX, .lasting = true},
    {.name = "lines1", .size = 64, .line = 64, .lasting = true},
    {.name = "lines16", .size = 1024, .line = 64, .lasting = true},
    {.name = "proxied", .size = 1, .ahead = PROXY_V2, .ahead_size = sizeof PROXY_V2 - 1},
    {.name = "hello", .size = sizeof HELLO - 1, .text = HELLO},
#ifdef TLS
    {.name = "tls", .size = 64, .tls = true, .lasting = true},
    {.name = "tls-full", .size = 1, .tls = true, .is_silent = true, .is_last = true},
    {.name = "tls-resumed", .size = 1, .tls = true, .is_silent = true, .is_last = true,
     .resumes = true},
#endif
    {.name = "ended", .is_ended = true, .end = 0},
    {.name = "closed", .is_ended = true, .end = 0, .is_silent = true},
    {.name = "reset", .is_ended = true, .end = ECONNRESET, .is_silent = true},
    {.name = "refused", .is_ended = true, .end = ECONNREFUSED, .is_silent = true},
};

static const struct mode BUSY = {.name = "busy", .size = 64, .lasting = true};

struct slot {
    const struct mode *mode;
    int fd;              /* -1: nothing is open */
#ifdef TLS
    SSL *tls;            /* NULL: none is spoken */
    bool resumed;        /* it was asked for a session */
#endif
    bool running;        /* an exchange is */
    size_t sent;         /* octets of this exchange */
    size_t received;
    uint64_t started;    /* ns, when this exchange began */
    uint64_t due;        /* ns, when to send, if that is later */
    struct slot *next;   /* that sends later */
    uint32_t interest;   /* epoll events asked for; 0: not registered yet */
};

static const struct mode *mode;
static struct sockaddr_in server;
static struct slot *slots; /* those of the mode, then those that are busy meanwhile */
static size_t slot_count, busy_count;
static uint64_t tick_ns; /* between two begins of an open loop; 0: the loop is closed */
static int epoll_fd;
static unsigned char message[MESSAGE_MAX];

static enum { OPENING, WINDOW, DRAIN } phase;
static size_t running_count; /* slots, of the mode and busy ones */
static struct slot *waiting, **waiting_end = &waiting; /* to send, the next due first */

/* ---- what is counted ---- */

static uint64_t *latencies; /* ns, of the exchanges in the window */
static size_t completed, latency_room;
static uint64_t drained, errors, missed, background;
static bool some_failed; /* since the last look: slots wait for a new connection */
static char first_error[128];

static void die(const char *what)
{
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static void count_error(const char *where, const char *what)
{
    if (!errors++)
        snprintf(first_error, sizeof first_error, "%s: %s", where, what);
}

static void count_latency(uint64_t ns)
{
    if (completed == latency_room) {
        latency_room = latency_room ? latency_room * 2 : 65536;
        latencies = realloc(latencies, latency_room * sizeof *latencies);
        if (!latencies)
            die("realloc");
    }
    latencies[completed++] = ns;
}

static void count_end(const struct slot *slot)
{
    if (slot->mode == &BUSY)
        background += phase == WINDOW;
    else if (phase == WINDOW)
        count_latency(now_ns() - slot->started);
    else
        drained += phase == DRAIN;
}

/* ---- one exchange ---- */

static void slot_run(struct slot *slot, bool running)
{
    running_count += running;
    running_count -= slot->running;
    slot->running = running;
}

static void slot_close(struct slot *slot)
{
#ifdef TLS
    if (slot->tls) /* else OpenSSL would not have its session resumed */
        SSL_set_shutdown(slot->tls, SSL_SENT_SHUTDOWN);
    SSL_free(slot->tls);
    slot->tls = NULL;
#endif
    if (slot->fd >= 0)
        close(slot->fd);
    slot->fd = -1;
    slot->interest = 0;
    slot_run(slot, false);
}

static void slot_fail(struct slot *slot, const char *where, const char *what)
{
    count_error(where, what);
    slot_close(slot);
    some_failed = true;
}

static void slot_watch(struct slot *slot, uint32_t interest)
{
    struct epoll_event event = {.events = interest, .data.ptr = slot};

    if (slot->interest == interest)
        return;
    if (epoll_ctl(epoll_fd, slot->interest ? EPOLL_CTL_MOD : EPOLL_CTL_ADD,
                  slot->fd, &event))
        die("epoll_ctl");
    slot->interest = interest;
}

#ifdef TLS
static SSL_CTX *tls_context;
static SSL_SESSION *tls_session; /* to be resumed; NULL: none yet */

/* Keep the session that a server has just given a ticket for. */
static int tls_keep(SSL *tls, SSL_SESSION *session)
{
    (void)tls;
    SSL_SESSION_free(tls_session);
    tls_session = session;
    return 1;
}

static bool tls_made_another(struct slot *slot)
{
    return slot->tls && slot->resumed && !SSL_session_reused(slot->tls);
}

/* What a call of OpenSSL that did nothing waits for, as errno has it: EAGAIN, or else an error. */
static int tls_errno(struct slot *slot, int result)
{
    int why = SSL_get_error(slot->tls, result);

    if (why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE)
        return EAGAIN;
    return why == SSL_ERROR_SYSCALL && errno ? errno : EPROTO;
}

static void tls_begin(struct slot *slot)
{
    slot->tls = SSL_new(tls_context);
    if (!slot->tls || !SSL_set_fd(slot->tls, slot->fd))
        die("SSL_new");
    SSL_set_connect_state(slot->tls);
    slot->resumed = slot->mode->resumes && tls_session;
    if (slot->resumed && !SSL_set_session(slot->tls, tls_session))
        die("SSL_set_session");
}
#endif

static ssize_t slot_put(struct slot *slot, const void *data, size_t size)
{
#ifdef TLS
    if (slot->tls) {
        int n = SSL_write(slot->tls, data, (int)size);
        if (n <= 0)
            errno = tls_errno(slot, n);
        return n > 0 ? n : -1;
    }
#endif
    return send(slot->fd, data, size, MSG_NOSIGNAL);
}

static ssize_t slot_get(struct slot *slot, void *data, size_t size)
{
#ifdef TLS
    if (slot->tls) {
        int n = SSL_read(slot->tls, data, (int)size);
        if (n <= 0 && SSL_get_shutdown(slot->tls) & SSL_RECEIVED_SHUTDOWN)
            return 0;
        if (n <= 0)
            errno = tls_errno(slot, n);
        return n > 0 ? n : -1;
    }
#endif
    return recv(slot->fd, data, size, 0);
}

static size_t to_send(const struct mode *of)
{
    return of->ahead_size + of->size;
}

static void slot_send(struct slot *slot)
{
    while (slot->sent < to_send(slot->mode)) {
        ssize_t n = slot_put(slot, message + slot->sent, to_send(slot->mode) - slot->sent);
        if (n >= 0) {
            slot->sent += (size_t)n;
        } else if (errno == EAGAIN) {
            /* TLS that has something to send has room for it, and waits to read. */
            slot_watch(slot, slot->mode->tls ? EPOLLIN : EPOLLIN | EPOLLOUT);
            return;
        } else {
            slot_fail(slot, "send", strerror(errno));
            return;
        }
    }
    slot_watch(slot, EPOLLIN);
}

static void slot_connect(struct slot *slot)
{
    static uint32_t turn;
    static const int one = 1;
    static const struct linger reset = {.l_onoff = 1, .l_linger = 0};
    struct sockaddr_in source = {.sin_family = AF_INET};
    uint32_t net = turn / SOURCE_HOSTS % SOURCE_NETS, host = turn % SOURCE_HOSTS + 1;

    turn++;
    source.sin_addr.s_addr = htonl(127u << 24 | 1u << 16 | net << 8 | host);
    slot->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (slot->fd < 0)
        die("socket");
    if (!slot->mode->is_silent)
        setsockopt(slot->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    /* The port is chosen by connect(), which knows that only the four-tuple counts. */
    setsockopt(slot->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    if (slot->mode->lasting)
        setsockopt(slot->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (bind(slot->fd, (struct sockaddr *)&source, sizeof source))
        die("bind to 127.1.x.y");
    if (connect(slot->fd, (struct sockaddr *)&server, sizeof server)
        && errno != EINPROGRESS)
        slot_fail(slot, "connect", strerror(errno));
#ifdef TLS
    else if (slot->mode->tls)
        tls_begin(slot);
#endif
}

static void slot_wait(struct slot *slot)
{
    slot->due = now_ns() + slot->mode->delay_ns;
    slot->next = NULL;
    *waiting_end = slot;
    waiting_end = &slot->next;
}

/* Begin an exchange whose time runs from `started`. */
static void slot_begin(struct slot *slot, uint64_t started)
{
    slot->started = started;
    slot->sent = slot->received = 0;
    slot_run(slot, true);
    if (slot->fd < 0)
        slot_connect(slot);
    if (slot->fd < 0)
        return;
    if (slot->mode->delay_ns)
        slot_wait(slot);
    else
        slot_send(slot);
}

/* Send what waited for its time, which begins only now. */
static void send_due(uint64_t now)
{
    while (waiting && waiting->due <= now) {
        struct slot *slot = waiting;

        waiting = slot->next;
        if (!waiting)
            waiting_end = &waiting;
        slot->started = now_ns();
        slot_send(slot);
    }
}

/* Whether the server has ended the connection, in the way that it should. */
static bool slot_ended(struct slot *slot)
{
    unsigned char octet;
    ssize_t n = slot_get(slot, &octet, sizeof octet);

    if (n < 0 && errno == EAGAIN)
        return false;
    if (n > 0)
        slot_fail(slot, "recv", "data where the end should be");
    else if (n < 0 && errno != slot->mode->end)
        slot_fail(slot, "recv", strerror(errno));
    else if (n == 0 && slot->mode->end)
        slot_fail(slot, "recv", "end of file");
    return slot->fd >= 0;
}

/* Whether this event ended the exchange, well. */
static bool slot_receive(struct slot *slot)
{
    if (slot->mode->is_ended || (slot->mode->is_last && slot->received == slot->mode->size))
        return slot_ended(slot);
    unsigned char buffer[MESSAGE_MAX];
    ssize_t n = slot_get(slot, buffer, slot->mode->size - slot->received);

    if (n < 0 && errno == EAGAIN)
        return false;
    if (n < 0)
        slot_fail(slot, "recv", strerror(errno));
    else if (n == 0)
        slot_fail(slot, "recv", "end of file before the echo");
    else if (memcmp(buffer, message + slot->mode->ahead_size + slot->received, (size_t)n))
        slot_fail(slot, "recv", "not what was sent");
#ifdef TLS
    else if (tls_made_another(slot))
        slot_fail(slot, "tls", "not resumed");
#endif
    else
        slot->received += (size_t)n;
    return slot->fd >= 0 && slot->received == slot->mode->size && !slot->mode->is_last;
}

static bool slot_event(struct slot *slot, uint32_t events)
{
    bool ended = false;

    if (events & (EPOLLIN | EPOLLERR | EPOLLHUP)) {
        if (!slot->running) /* a connection that should be silent */
            slot_fail(slot, "idle", "data or end of file without a question");
        else
            ended = slot_receive(slot);
        if (slot->mode->tls && slot->fd >= 0 && slot->sent < to_send(slot->mode))
            slot_send(slot); /* its handshake goes on */
    }
    if (!ended && slot->fd >= 0 && events & EPOLLOUT)
        slot_send(slot);
    if (ended) {
        count_end(slot);
        slot_run(slot, false);
        if (!slot->mode->lasting && !slot->mode->once)
            slot_close(slot);
    }
    return ended;
}

/* ---- phases ---- */

/* Open the next of those that last, not so many at once that SYNs are dropped. */
static void open_more(void)
{
    static size_t next;

    for (; next < slot_count + busy_count && running_count < OPENING_MOST; next++)
        if (slots[next].mode->lasting)
            slot_begin(&slots[next], now_ns());
}

/* Begin what an open loop has due. */
static uint64_t tick(uint64_t now)
{
    static uint64_t due;
    static size_t turn;

    for (due = due ? due : now; due <= now; due += tick_ns) {
        struct slot *slot = &slots[turn++ % slot_count];

        if (slot->fd >= 0) {
            missed++;
            slot_close(slot);
        }
        slot_begin(slot, due);
    }
    return due;
}

/* Once around, so that a server that refuses everything is not hammered. */
static void begin_closed(void)
{
    some_failed = false;
    for (size_t i = 0; i < slot_count; i++)
        if (slots[i].fd < 0)
            slot_begin(&slots[i], now_ns());
}

/* Begin what is to begin now, and say when to look again (ns). */
static uint64_t feed(uint64_t now, uint64_t until)
{
    if (phase == OPENING)
        open_more();
    /* A lasting connection that broke stays closed: errors tell. */
    if (phase == WINDOW && some_failed && !mode->lasting && !mode->once && !tick_ns)
        begin_closed();
    if (phase == WINDOW && tick_ns) {
        uint64_t next = tick(now);
        until = next < until ? next : until;
    }
    send_due(now);
    return waiting && waiting->due < until ? waiting->due : until;
}

static int wait_until(struct epoll_event *events, uint64_t until)
{
    uint64_t now = now_ns(), ns = until > now ? until - now : 0;
    struct timespec patience = {(time_t)(ns / 1000000000), (long)(ns % 1000000000)};
    /* epoll_wait() counts in milliseconds, and older libc headers lack the other. */
    long count = syscall(SYS_epoll_pwait2, epoll_fd, events, EVENTS, &patience, NULL, 0);

    if (count < 0 && errno != EINTR)
        die("epoll_pwait2");
    return (int)count;
}

/*
 * Handle what happens until `until` (ns), or until no exchange is running and none
 * will begin.  In the window, one that ended is followed by the next.
 */
static void run(uint64_t until)
{
    struct epoll_event events[EVENTS];

    for (;;) {
        uint64_t now = now_ns();
        if (now >= until)
            return;
        uint64_t next = feed(now, until);
        bool goes_on = phase == WINDOW && !mode->once;
        if (!goes_on && !running_count)
            return;
        int count = wait_until(events, next);
        for (int i = 0; i < count; i++) {
            struct slot *slot = events[i].data.ptr;
            bool again = goes_on && (slot->mode == &BUSY || !tick_ns);
            if (slot_event(slot, events[i].events) && again)
                slot_begin(slot, now_ns());
        }
    }
}

/* Begin with every slot, but leave those of an open loop for their time. */
static void begin_all(void)
{
    for (size_t i = tick_ns ? slot_count : 0; i < slot_count + busy_count; i++)
        slot_begin(&slots[i], now_ns());
}

/* ---- the result ---- */

static int compare_ns(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static double percentile_ms(double fraction)
{
    if (!completed)
        return 0;
    return (double)latencies[(size_t)(fraction * (double)(completed - 1))] / 1e6;
}

static double cpu_seconds(void)
{
    struct rusage usage;

    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec)
        + (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static void print_result(double window, double elapsed, double cpu, size_t unfinished)
{
    qsort(latencies, completed, sizeof *latencies, compare_ns);
    printf("{\"mode\": \"%s\", \"connections\": %zu, \"window_seconds\": %.6f, "
           "\"elapsed_seconds\": %.6f, \"client_cpu_seconds\": %.6f, "
           "\"completed\": %zu, \"drained\": %llu, \"unfinished\": %zu, "
           "\"missed\": %llu, \"background\": %llu, \"errors\": %llu, \"first_error\": \"%s\", "
           "\"latency_ms\": {\"p50\": %.4f, \"p90\": %.4f, \"p99\": %.4f, "
           "\"max\": %.4f}}\n",
           mode->name, slot_count, window, elapsed, cpu, completed,
           (unsigned long long)drained, unfinished, (unsigned long long)missed,
           (unsigned long long)background, (unsigned long long)errors,
           first_error, percentile_ms(0.5), percentile_ms(0.9), percentile_ms(0.99),
           percentile_ms(1.0));
    fflush(stdout);
}

static void usage(void)
{
    fprintf(stderr, "usage: load [-p PER_SECOND] [-b BUSY] MODE PORT CONNECTIONS SECONDS;"
                    " modes:");
    for (size_t i = 0; i < sizeof MODES / sizeof *MODES; i++)
        fprintf(stderr, " %s", MODES[i].name);
    fprintf(stderr, "\n");
    exit(2);
}

static void parse(int argc, char **argv, double *seconds)
{
    double per_second = 0;
    int option;

    while ((option = getopt(argc, argv, "p:b:")) != -1) {
        if (option == 'p' && (per_second = atof(optarg)) > 0)
            tick_ns = (uint64_t)(1e9 / per_second);
        else if (option == 'b')
            busy_count = (size_t)atol(optarg);
        else
            usage();
    }
    if (argc - optind != 4)
        usage();
    for (size_t i = 0; i < sizeof MODES / sizeof *MODES; i++)
        if (!strcmp(argv[optind], MODES[i].name))
            mode = &MODES[i];
    server.sin_family = AF_INET;
    server.sin_port = htons((uint16_t)atoi(argv[optind + 1]));
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    slot_count = (size_t)atol(argv[optind + 2]);
    *seconds = atof(argv[optind + 3]);
    if (!mode || !server.sin_port || !slot_count || slot_count > 60000
        || busy_count > 60000 || !(*seconds > 0))
        usage();
    /* An open loop begins connections: with those that last, or are one each, and with
     * those that wait in a queue when their slot is taken, it makes no sense. */
    if (tick_ns && (mode->lasting || mode->once || mode->delay_ns))
        usage();
}

static void prepare(void)
{
    for (size_t i = 0; i < sizeof message; i++)
        message[i] = (unsigned char)('a' + i % 26);
    for (size_t i = mode->line; mode->line && i <= sizeof message; i += mode->line)
        message[i - 1] = '\n';
    if (mode->ahead)
        memcpy(message, mode->ahead, mode->ahead_size);
    if (mode->text)
        memcpy(message, mode->text, mode->size);
#ifdef TLS
    if (mode->tls && !(tls_context = SSL_CTX_new(TLS_client_method())))
        die("SSL_CTX_new");
    if (mode->tls) {
        /* Some contenders end without close_notify, as their users' servers would. */
        SSL_CTX_set_options(tls_context, SSL_OP_IGNORE_UNEXPECTED_EOF);
        SSL_CTX_set_session_cache_mode(tls_context, SSL_SESS_CACHE_CLIENT);
        SSL_CTX_sess_set_new_cb(tls_context, tls_keep);
    }
#endif
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    slots = calloc(slot_count + busy_count, sizeof *slots);
    if (epoll_fd < 0 || !slots)
        die("epoll_create1");
    for (size_t i = 0; i < slot_count + busy_count; i++) {
        slots[i].fd = -1;
        slots[i].mode = i < slot_count ? mode : &BUSY;
    }
}

/* Open the connections that last, and have each answer once; whether all did. */
static bool open_lasting(void)
{
    phase = OPENING;
    run(now_ns() + OPEN_NS);
    if (!errors && !running_count)
        return true;
    fprintf(stderr, "load: %zu connections did not answer (%s)\n",
            running_count + (size_t)errors, errors ? first_error : "too slow");
    return false;
}

static void measure(double seconds)
{
    double cpu_before = cpu_seconds();
    uint64_t begin = now_ns();

    phase = WINDOW;
    begin_all();
    run(begin + (uint64_t)(seconds * 1e9));
    uint64_t window_end = now_ns();
    phase = DRAIN;
    run(window_end + DRAIN_NS);
    uint64_t drain_end = now_ns();
    print_result((double)(window_end - begin) / 1e9, (double)(drain_end - begin) / 1e9,
                 cpu_seconds() - cpu_before, running_count);
}

int main(int argc, char **argv)
{
    double seconds;
    char byte;

    prctl(PR_SET_PDEATHSIG, SIGKILL); /* never outlive the runner */
    prctl(PR_SET_TIMERSLACK, 1);      /* an open loop begins on time */
    parse(argc, argv, &seconds);
    prepare();
    if (!open_lasting())
        return 1;
    printf("ready\n");
    fflush(stdout);
    if (read(STDIN_FILENO, &byte, 1) != 1)
        return 0;
    measure(seconds);
    while (read(STDIN_FILENO, &byte, 1) > 0)
        ;
    return 0;
}
