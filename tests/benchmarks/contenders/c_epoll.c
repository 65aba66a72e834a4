/*
 * The limit: a minimal echo server, epoll, one thread, nothing but system calls.
 *
 *     c_epoll MODE        echo1: answer one read and close; else: until end of file
 *
 * Prints its port, serves until it is killed.  A connection costs accept4, recv,
 * send and close; an epoll_ctl only if it lasts or its data is not there yet.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EVENTS = 256, READ_SIZE = 65536 };

static bool once;

/* Answer what is there; whether the connection goes on. */
static bool answer(int fd)
{
    static char buffer[READ_SIZE];
    ssize_t n = recv(fd, buffer, sizeof buffer, 0);

    if (n < 0 && errno == EAGAIN)
        return true;
    /* The answers of these modes fit the send buffer: a short send ends it. */
    return n > 0 && send(fd, buffer, (size_t)n, MSG_NOSIGNAL) == n && !once;
}

static void take(int epoll_fd, int listener)
{
    int fd;

    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        if (!answer(fd) || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event))
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
    once = argc > 1 && !strcmp(argv[1], "echo1");
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
