/*
 * The limit: a minimal echo server, epoll, one thread, nothing but system calls.
 *
 *     c_epoll TASK        once: answer one read and close; all: answer until end of
 *                         file; close: close without reading; lag: as once, beside
 *                         a timer of 1 ms, which tells what _lag.py tells
 *
 * Prints its port, serves until it is killed.  A connection costs accept4, recv,
 * send and close; an epoll_ctl only if it lasts or its data is not there yet.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS = 256, READ_SIZE = 65536, SLEEP_NS = 1000000, LAGS = 100000 };

static bool once, at_once;

static int sleeper = -1;     /* a timerfd */
static uint64_t slept_from;  /* ns */
static double lags_ms[LAGS]; /* a hundred seconds of them */
static size_t lag_count;

/* Whether all was sent.  A full send buffer makes everybody wait: in no mode does
 * one fill, but for a moment. */
static bool send_all(int fd, const char *data, size_t size)
{
    struct pollfd writable = {.fd = fd, .events = POLLOUT};

    while (size) {
        ssize_t n = send(fd, data, size, MSG_NOSIGNAL);
        if (n >= 0) {
            data += n;
            size -= (size_t)n;
        } else if (errno != EAGAIN || poll(&writable, 1, -1) < 0) {
            return false;
        }
    }
    return true;
}

/* Answer what is there; whether the connection goes on. */
static bool answer(int fd)
{
    static char buffer[READ_SIZE];
    ssize_t n = recv(fd, buffer, sizeof buffer, 0);

    if (n < 0 && errno == EAGAIN)
        return true;
    return n > 0 && send_all(fd, buffer, (size_t)n) && !once;
}

static void take(int epoll_fd, int listener)
{
    int fd;

    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        if (at_once || !answer(fd) || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event))
            close(fd);
    }
}

static uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* Sleep for so long, once; 0: not at all. */
static void sleep_for(long ns)
{
    struct itimerspec due = {.it_value = {.tv_nsec = ns}};

    slept_from = now_ns();
    timerfd_settime(sleeper, 0, &due, NULL);
}

static void wake(void)
{
    uint64_t expirations, slept = now_ns() - slept_from;

    if (read(sleeper, &expirations, sizeof expirations) < 0)
        return;
    if (lag_count < LAGS)
        lags_ms[lag_count++] = slept > SLEEP_NS ? (double)(slept - SLEEP_NS) / 1e6 : 0;
    sleep_for(SLEEP_NS);
}

static int compare(const void *one, const void *other)
{
    double a = *(const double *)one, b = *(const double *)other;

    return (a > b) - (a < b);
}

static double percentile_ms(double fraction)
{
    return lag_count ? lags_ms[(size_t)((double)(lag_count - 1) * fraction + 0.5)] : 0;
}

/* Do what the runner asks for: start, or stop and tell. */
static void obey(void)
{
    char line[16];
    ssize_t n = read(STDIN_FILENO, line, sizeof line);

    if (n <= 0)
        exit(0);
    if (line[0] == 's') {
        lag_count = 0;
        sleep_for(SLEEP_NS);
        return;
    }
    sleep_for(0);
    qsort(lags_ms, lag_count, sizeof *lags_ms, compare);
    printf("{\"lag_count\": %zu, \"lag_p50_ms\": %.4f, \"lag_p99_ms\": %.4f}\n", lag_count,
           percentile_ms(0.5), percentile_ms(0.99));
    fflush(stdout);
}

/* Wait for the timer and for the runner as well. */
static bool add_sleeper(int epoll_fd)
{
    struct epoll_event of_timer = {.events = EPOLLIN}, of_input = {.events = EPOLLIN};

    sleeper = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    of_timer.data.fd = sleeper;
    of_input.data.fd = STDIN_FILENO;
    return sleeper >= 0 && !epoll_ctl(epoll_fd, EPOLL_CTL_ADD, sleeper, &of_timer)
           && !epoll_ctl(epoll_fd, EPOLL_CTL_ADD, STDIN_FILENO, &of_input);
}

int main(int argc, char **argv)
{
    bool has_sleeper = argc > 1 && !strcmp(argv[1], "lag");
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t length = sizeof address;
    struct epoll_event events[EVENTS], event = {.events = EPOLLIN};
    const int one = 1;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int epoll_fd = epoll_create1(EPOLL_CLOEXEC);

    prctl(PR_SET_PDEATHSIG, SIGKILL); /* never outlive the runner */
    once = has_sleeper || (argc > 1 && !strcmp(argv[1], "once"));
    at_once = argc > 1 && !strcmp(argv[1], "close");
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one); /* inherited */
    event.data.fd = listener;
    if (bind(listener, (struct sockaddr *)&address, length) || listen(listener, 65535)
        || getsockname(listener, (struct sockaddr *)&address, &length)
        || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &event)
        || (has_sleeper && !add_sleeper(epoll_fd))) {
        perror("c_epoll");
        return 1;
    }
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    for (;;) {
        int count = epoll_wait(epoll_fd, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == listener)
                take(epoll_fd, listener);
            else if (has_sleeper && fd == sleeper)
                wake();
            else if (has_sleeper && fd == STDIN_FILENO)
                obey();
            else if (!answer(fd))
                close(fd);
        }
    }
}
