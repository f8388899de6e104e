// The server: one process echoes TCP and UDP on all addresses, four more per address take and give datagrams.
#include "traffic.h"
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <unistd.h>

// Each address is bound by itself: a wildcard socket would answer datagrams from another address than the one that was asked.
static int bound(const char *address, const char *port, int offset, int type) {
	name_peer(address, port, offset);
	int fd = socket(peer.ss_family, type | SOCK_CLOEXEC, 0);
	if (fd < 0)
		fail("socket");
	set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	if (type & SOCK_DGRAM) {
		set_option(fd, SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20);
		set_option(fd, SOL_SOCKET, SO_SNDBUFFORCE, 1 << 20);
	}
	if (bind(fd, (struct sockaddr *)&peer, peer_length))
		fail("bind");
	return fd;
}

static _Noreturn void sink(int fd) {
	struct intake *intake = make_intake();
	uint64_t bytes = 0;
	for (;;) {
		int ready = take(fd, intake);
		for (int i = 0; i < ready; i++) {
			const struct sockaddr_storage *from;
			socklen_t from_length;
			size_t length;
			const char *data = datagram(intake, i, &length, &from, &from_length);
			if (length == 4 && !memcmp(data, "ZERO", 4)) {
				bytes = 0;
			} else if (length != 4 || memcmp(data, "STAT", 4)) {
				bytes += length;
				continue;
			}
			sendto(fd, &bytes, sizeof bytes, 0, (const struct sockaddr *)from, from_length);
		}
	}
}

static _Noreturn void push(int fd) {
	for (;;) {
		struct order order;
		struct sockaddr_storage from;
		socklen_t length = sizeof from;
		if (recvfrom(fd, &order, sizeof order, 0, (struct sockaddr *)&from, &length) != sizeof order || memcmp(order.tag, "PUSH", 4) ||
		    order.milliseconds > 5000)
			continue;
		struct done done = { "DONE", 0, blast(fd, &order, &from, length) };
		set_option(fd, SOL_UDP, UDP_SEGMENT, 0);
		for (int i = 0; i < 3; i++) {
			nap_us(40000);
			sendto(fd, &done, sizeof done, 0, (struct sockaddr *)&from, length);
		}
	}
}

static void fork_datagram_servers(const char *address, const char *port) {
	for (int offset = SINK_PORT; offset <= SUPER_PUSH_PORT; offset++) {
		int fd = bound(address, port, offset, SOCK_DGRAM);
		int is_sink = offset == SINK_PORT || offset == SUPER_SINK_PORT;
		if (offset == SUPER_SINK_PORT)
			set_option(fd, SOL_UDP, UDP_GRO, 1);
		pid_t child = fork();
		if (child < 0)
			fail("fork");
		if (child) {
			close(fd);
			continue;
		}
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (is_sink)
			sink(fd);
		push(fd);
	}
}

// What an epoll event is about, in its upper half; the descriptor is in the lower.
enum { LISTENER, DATAGRAMS, CONNECTION };

static void watch(int poll, int fd, uint32_t kind) {
	struct epoll_event event = { .events = EPOLLIN, .data.u64 = (uint64_t)kind << 32 | (uint32_t)fd };
	if (epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event))
		fail("epoll_ctl");
}

static void accept_all(int poll, int listener) {
	int made;
	while ((made = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
		set_option(made, IPPROTO_TCP, TCP_NODELAY, 1);
		watch(poll, made, CONNECTION);
	}
}

static void echo_datagrams(int fd) {
	char buffer[2048];
	struct sockaddr_storage from;
	socklen_t from_length = sizeof from;
	ssize_t length;
	while ((length = recvfrom(fd, buffer, sizeof buffer, 0, (struct sockaddr *)&from, &from_length)) >= 0) {
		sendto(fd, buffer, (size_t)length, 0, (struct sockaddr *)&from, from_length);
		from_length = sizeof from;
	}
}

static void echo_stream(int fd) {
	char buffer[4096];
	ssize_t length = read(fd, buffer, sizeof buffer);
	if (length < 0 && errno == EAGAIN)
		return;
	if (length <= 0 || write(fd, buffer, (size_t)length) != length || buffer[0] == LAST)
		close(fd);
}

void serve(const char *port, char **addresses) {
	int poll = epoll_create1(EPOLL_CLOEXEC);
	for (; *addresses; addresses++) {
		fork_datagram_servers(*addresses, port);
		int listener = bound(*addresses, port, ECHO_PORT, SOCK_STREAM | SOCK_NONBLOCK);
		if (listen(listener, 65535))
			fail("listen");
		watch(poll, listener, LISTENER);
		watch(poll, bound(*addresses, port, ECHO_PORT, SOCK_DGRAM | SOCK_NONBLOCK), DATAGRAMS);
	}
	puts("serving");
	fflush(stdout);
	for (;;) {
		struct epoll_event events[256];
		int ready = epoll_wait(poll, events, 256, -1);
		for (int i = 0; i < ready; i++) {
			int fd = (int)(uint32_t)events[i].data.u64;
			switch (events[i].data.u64 >> 32) {
			case LISTENER: accept_all(poll, fd); break;
			case DATAGRAMS: echo_datagrams(fd); break;
			default: echo_stream(fd);
			}
		}
	}
}
