/*
 * The limit: a minimal echo server, epoll, one thread, nothing but system calls.
 *
 *     c_epoll TASK        once: answer one read and close; all: answer until end of
 *                         file; close: close without reading
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
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EVENTS = 256, READ_SIZE = 65536 };

static bool once, at_once;

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

int main(int argc, char **argv)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t length = sizeof address;
    struct epoll_event events[EVENTS], event = {.events = EPOLLIN};
    const int one = 1;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int epoll_fd = epoll_create1(EPOLL_CLOEXEC);

    prctl(PR_SET_PDEATHSIG, SIGKILL); /* never outlive the runner */
    once = argc > 1 && !strcmp(argv[1], "once");
    at_once = argc > 1 && !strcmp(argv[1], "close");
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one); /* inherited */
    event.data.fd = listener;
    if (bind(listener, (struct sockaddr *)&address, length) || listen(listener, 65535)
        || getsockname(listener, (struct sockaddr *)&address, &length)
        || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &event)) {
        perror("c_epoll");
        return 1;
    }
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    for (;;) {
        int count = epoll_wait(epoll_fd, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            if (events[i].data.fd == listener)
                take(epoll_fd, listener);
            else if (!answer(events[i].data.fd))
                close(events[i].data.fd);
        }
    }
}
