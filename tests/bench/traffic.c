// Small traffic with exact clocks, for scripts/bench. Prints one JSON line.
//
//   traffic serve PORT                           echo on every address, both families; closes where it is asked to
//   traffic connects ADDRESS PORT SECONDS N      N loops at a time of connect, 1 byte there and back, close
//   traffic trips ADDRESS PORT SECONDS           1 byte there and back on one connection
//   traffic idle ADDRESS PORT COUNT              opens COUNT connections, says so, keeps them until stdin ends
//
// Every loop is bounded by time, every socket by a timeout of three seconds. Times are in microseconds.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static struct sockaddr_storage peer;
static socklen_t peer_length;

static void fail(const char *what) {
	perror(what);
	exit(1);
}

static uint64_t now_ns(void) {
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void name_peer(const char *address, const char *port) {
	struct addrinfo hints = { .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM }, *found;
	if (getaddrinfo(address, port, &hints, &found)) {
		fprintf(stderr, "traffic: %s port %s is no address\n", address, port);
		exit(2);
	}
	memcpy(&peer, found->ai_addr, found->ai_addrlen);
	peer_length = found->ai_addrlen;
	freeaddrinfo(found);
}

// A connected socket, or -1.
static int dial(void) {
	struct timeval limit = { .tv_sec = 3 };
	int one = 1, fd = socket(peer.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -1;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	// A namespace made by a router may have another default than the lab's.
	setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
	if (connect(fd, (struct sockaddr *)&peer, peer_length)) {
		close(fd);
		return -1;
	}
	return fd;
}

// The server keeps the connection after KEEP and closes it after LAST: the ports of the closing side stay taken for a
// minute (TIME-WAIT), and only the server's side has enough of them.
enum { KEEP = 'k', LAST = 'l' };

static int trip(int fd, char byte) {
	return write(fd, &byte, 1) == 1 && read(fd, &byte, 1) == 1;
}

// What one loop measured.
struct loop {
	pthread_t thread;
	uint64_t deadline;
	uint32_t *times;
	size_t count, room, errors;
};

static void note(struct loop *loop, uint64_t start) {
	if (loop->count == loop->room) {
		loop->room = loop->room ? loop->room * 2 : 4096;
		loop->times = realloc(loop->times, loop->room * sizeof *loop->times);
		if (!loop->times)
			fail("realloc");
	}
	loop->times[loop->count++] = (uint32_t)((now_ns() - start) / 100);
}

static void *connect_loop(void *argument) {
	struct loop *loop = argument;
	while (now_ns() < loop->deadline && loop->errors < 20) {
		uint64_t start = now_ns();
		int fd = dial();
		char rest;
		if (fd >= 0 && trip(fd, LAST) && read(fd, &rest, 1) == 0)
			note(loop, start);
		else
			loop->errors++;
		if (fd >= 0)
			close(fd);
	}
	return NULL;
}

static int ascending(const void *left, const void *right) {
	uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
	return (a > b) - (a < b);
}

static void report(struct loop *loops, size_t number, double seconds) {
	struct loop all = { 0 };
	for (size_t i = 0; i < number; i++)
		all.count += loops[i].count, all.errors += loops[i].errors;
	all.times = calloc(all.count + 1, sizeof *all.times);
	if (!all.times)
		fail("calloc");
	for (size_t i = 0, at = 0; i < number; at += loops[i++].count)
		if (loops[i].count)
			memcpy(all.times + at, loops[i].times, loops[i].count * sizeof *all.times);
	qsort(all.times, all.count, sizeof *all.times, ascending);
	printf("{\"count\": %zu, \"rate\": %.0f, \"p50_us\": %.1f, \"p99_us\": %.1f, \"errors\": %zu}\n", all.count,
	       (double)all.count / seconds, all.times[all.count / 2] / 10.0, all.times[all.count * 99 / 100] / 10.0, all.errors);
}

static void connects(double seconds, size_t number) {
	struct loop *loops = calloc(number, sizeof *loops);
	uint64_t start = now_ns(), deadline = start + (uint64_t)(seconds * 1e9);
	if (!loops)
		fail("calloc");
	for (size_t i = 0; i < number; i++) {
		loops[i].deadline = deadline;
		if (pthread_create(&loops[i].thread, NULL, connect_loop, &loops[i]))
			fail("pthread_create");
	}
	for (size_t i = 0; i < number; i++)
		pthread_join(loops[i].thread, NULL);
	report(loops, number, (double)(now_ns() - start) / 1e9);
}

static void trips(double seconds) {
	struct loop loop = { 0 };
	int fd = dial();
	if (fd < 0)
		fail("connect");
	uint64_t begin = now_ns(), deadline = begin + (uint64_t)(seconds * 1e9), start;
	while ((start = now_ns()) < deadline && loop.errors < 5) {
		if (trip(fd, KEEP))
			note(&loop, start);
		else
			loop.errors++;
	}
	report(&loop, 1, (double)(now_ns() - begin) / 1e9);
}

static void idle(long count) {
	long open = 0;
	char byte;
	while (open < count) {
		int fd = dial();
		if (fd < 0 || !trip(fd, KEEP))
			break;
		open++;
	}
	printf("{\"open\": %ld}\n", open);
	fflush(stdout);
	while (read(0, &byte, 1) > 0)
		;
}

static void serve(const char *port) {
	struct sockaddr_in6 any = { .sin6_family = AF_INET6, .sin6_port = htons((uint16_t)atoi(port)) };
	int one = 1, zero = 0, listener = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK, 0), poll = epoll_create1(0);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	setsockopt(listener, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof zero);
	if (bind(listener, (struct sockaddr *)&any, sizeof any) || listen(listener, 65535))
		fail("listen");
	epoll_ctl(poll, EPOLL_CTL_ADD, listener, &(struct epoll_event){ .events = EPOLLIN, .data.fd = listener });
	puts("serving");
	fflush(stdout);
	for (;;) {
		struct epoll_event events[256];
		char buffer[4096];
		int number = epoll_wait(poll, events, 256, -1);
		for (int i = 0; i < number; i++) {
			int fd = events[i].data.fd, made;
			while (fd == listener && (made = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
				setsockopt(made, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
				epoll_ctl(poll, EPOLL_CTL_ADD, made, &(struct epoll_event){ .events = EPOLLIN, .data.fd = made });
			}
			if (fd == listener)
				continue;
			ssize_t length = read(fd, buffer, sizeof buffer);
			if (length < 0 && errno == EAGAIN)
				continue;
			if (length <= 0 || write(fd, buffer, (size_t)length) != length || buffer[0] == LAST)
				close(fd);
		}
	}
}

int main(int count, char **words) {
	const char *verb = count > 1 ? words[1] : "";
	struct rlimit limit;
	if (!getrlimit(RLIMIT_NOFILE, &limit)) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
	signal(SIGPIPE, SIG_IGN);
	if (!strcmp(verb, "serve") && count == 3) {
		serve(words[2]);
	} else if (!strcmp(verb, "connects") && count == 6) {
		name_peer(words[2], words[3]);
		connects(atof(words[4]), (size_t)atoi(words[5]));
	} else if (!strcmp(verb, "trips") && count == 5) {
		name_peer(words[2], words[3]);
		trips(atof(words[4]));
	} else if (!strcmp(verb, "idle") && count == 5) {
		name_peer(words[2], words[3]);
		idle(atol(words[4]));
	} else {
		fputs("traffic: the head of traffic.c says how\n", stderr);
		return 2;
	}
	return 0;
}
